"""The comparison of loss weightings: what its runs share, exact resume, samplers with a known answer, and the page."""

import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file

from benchmarks.loss_weightings import fidelity, training
from benchmarks.loss_weightings.command import main
from benchmarks.loss_weightings.fidelity import sample, sampling_scheduler
from benchmarks.loss_weightings.jobs import WeightingSettings, list_jobs
from benchmarks.loss_weightings.report import END, START, Results, findings, plot_results, update_page
from benchmarks.loss_weightings.training import Run, TrainingSettings, World, average_file, load_average, train_run
from ubgen_training.mini.denoiser import NOISE_SCHEDULE

TINY = {"batch_size": 4, "learning_rate": 1e-3, "width": 16}
WIDTH = 16


@pytest.fixture(scope="module")
def world():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(20, 4, 16, 16, generator=generator)
    return World(latents, torch.arange(20) % 10, torch.randn(10, 3, 96, generator=generator))


def test_a_killed_run_goes_on_bit_for_bit(world, tmp_path):
    run = Run("debias", "noise", 3)
    train_run(run, world, TrainingSettings((2, 3), **TINY), tmp_path / "straight")
    train_run(run, world, TrainingSettings((2,), **TINY), tmp_path / "resumed")
    train_run(run, world, TrainingSettings((2, 3), **TINY), tmp_path / "resumed")
    for number in (2, 3):
        own, other = (load_file(average_file(tmp_path / name, number)) for name in ("straight", "resumed"))
        assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)
    written = average_file(tmp_path / "straight", 3).stat().st_mtime_ns
    train_run(run, world, TrainingSettings((2, 3), **TINY), tmp_path / "straight")
    assert average_file(tmp_path / "straight", 3).stat().st_mtime_ns == written


def test_runs_of_a_seed_differ_in_the_loss_alone(world, tmp_path, monkeypatch):
    seen, build = [], training.build_unet

    def spied(width):
        unet = build(width)
        record = [unet.conv_in.weight.detach().clone()]
        unet.register_forward_pre_hook(lambda module, arguments: record.extend(arguments))
        seen.append(record)
        return unet

    monkeypatch.setattr(training, "build_unet", spied)
    settings = TrainingSettings((2,), **TINY)
    for run in (Run("constant", "noise", 0), Run("snr", "noise", 0), Run("constant", "noise", 1)):
        train_run(run, world, settings, tmp_path / run.name)
    constant, snr, other = seen
    # initial weights, then noisy latents, timesteps and prompts of two updates
    assert len(constant) == 7 and all(torch.equal(own, same) for own, same in zip(constant, snr))
    assert not any(torch.equal(own, different) for own, different in zip(constant, other))
    ends = [load_average(tmp_path / name, 2, WIDTH).conv_out.weight for name in ("constant-noise-0", "snr-noise-0")]
    assert not torch.equal(*ends)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++", "unipc"])
@pytest.mark.parametrize("target", ["noise", "velocity", "x0"])
def test_every_sampler_finds_the_only_image(sampler, target, monkeypatch):
    """Where all training images are one, the best denoiser is known, and sampling must end at that image."""
    only = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(1))
    alphas = DDPMScheduler(**NOISE_SCHEDULE).alphas_cumprod
    visited = []

    def perfect(latents, timestep, embeds):
        visited.append(int(timestep))
        alpha = alphas[int(timestep)]
        noise = (latents - alpha.sqrt() * only) / (1 - alpha).sqrt()
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * only
        guesses = {"noise": noise, "velocity": velocity, "x0": only.expand_as(latents)}
        return SimpleNamespace(sample=guesses[target])

    found = []
    monkeypatch.setattr(fidelity, "decode", lambda vae, latents: found.append(latents) or latents)
    sample(perfect, None, torch.zeros(10, 3, 96), target=target, sampler=sampler, num_steps=5, num_images=3)
    assert visited == [999, 799, 599, 399, 199]
    torch.testing.assert_close(found[0], only.expand(3, -1, -1, -1), atol=0.02, rtol=0)


def test_images_depend_on_their_number_alone(monkeypatch):
    monkeypatch.setattr(fidelity, "decode", lambda vae, latents: latents)

    def unet(latents, timestep, embeds):
        return SimpleNamespace(sample=0.1 * latents + embeds[:, 0, 0].view(-1, 1, 1, 1))

    embeds = torch.arange(10.0).view(10, 1, 1).expand(-1, 3, 96)
    options = {"target": "noise", "sampler": "ddpm", "num_steps": 3, "num_images": 12}
    whole = sample(unet, None, embeds, **options)
    monkeypatch.setattr(fidelity, "BATCH_SIZE", 5)
    assert torch.equal(sample(unet, None, embeds, **options), whole) and len(whole) == 12
    assert sampling_scheduler("dpm++", "x0").config.prediction_type == "sample"


def test_plan():
    settings = WeightingSettings(num_seeds=2, weightings=["constant", "debias", "p2"], samplers=["ddim", "unipc"])
    first, second, third = list_jobs(settings)
    assert [run.name for run, _ in first] == ["constant-noise-0", "debias-noise-0"]
    assert [point.num_updates for point in first[0][1]] == settings.checkpoints
    assert [run.name for run, _ in second] == ["p2-noise-0"] + 2 * ["constant-noise-0", "debias-noise-0"]
    assert [point.num_steps for point in second[1][1]] == [5, 10, 20, 50, 100]
    names = ["constant-noise-1", "debias-noise-1", "p2-noise-1", "constant-velocity-0", "debias-velocity-0"]
    assert [run.name for run, _ in third] == names


def results(**changes):
    settings = {
        "weightings": ["constant", "debias"],
        "compared": ["debias"],
        "samplers": ["ddim", "dpm++"],
        "sampler_steps": [5, 10],
        "sampler": "dpm++",
        "num_inference_steps": 15,
        "checkpoints": [10, 20],
    }
    figures = []
    for weighting, fid in (("debias", 40.0), ("constant", 60.0)):
        for seed in (0, 1):
            for updates in (10, 20):
                place = {"weighting": weighting, "target": "noise", "seed": seed, "sampler": "dpm++", "num_steps": 15}
                scores = {
                    "fid": fid + 4 * seed - updates,
                    "kid": 1.0,
                    "clip_fid": 2.0,
                    "precision": 0.5,
                    "recall": 0.4,
                }
                figures.append(place | {"num_updates": updates, "class_accuracy": 0.9} | scores)
    for sampler, steps, fid in (("ddim", 5, 99.0), ("ddim", 10, 88.0), ("dpm++", 5, 77.0)):
        figures.append({**figures[1], "sampler": sampler, "num_steps": steps, "fid": fid})
    floor = dict.fromkeys(("fid", "kid", "clip_fid", "precision", "recall", "class_accuracy"), 0.25)
    return Results(settings, {"scenes": floor}, figures)


def test_page(tmp_path):
    page, images = tmp_path / "docs" / "page.md", tmp_path / "docs" / "images"
    page.parent.mkdir()
    page.write_text(f"# Other things\n\nbefore\n{START}\nold\n{END}\nafter\n")
    plots = plot_results(results(), images)
    update_page(page, results(), plots)
    text = page.read_text()
    assert text.startswith("# Other things\n\nbefore\n") and text.endswith("after\n") and "old" not in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    # 32 and 28 of the seeds: the mean, and its standard error
    assert ["constant", "noise", "52.0 ± 2.0", "42.0 ± 2.0"] in rows
    assert rows[7][:6] == ["debias", "noise", "2", "22.0 ± 2.0", "1.00 ± 0.00", "2.00 ± 0.00"]
    assert ["debias", "ddim", "99.0", "88.0"] in rows and ["debias", "dpm++", "77.0", "-"] in rows
    assert "After 20 updates by FID, best first: debias, constant. " in text
    assert "seed by seed: -20.0, -20.0." in text and "may be chance" not in text and "cases" not in text
    for plot in plots:
        assert f"](images/{plot.name})" in text and plot.read_bytes().startswith(b"\x89PNG")
    update_page(page, results(), plots)
    assert page.read_text() == text
    page.write_text(f"{START} only")
    with pytest.raises(ValueError, match="lacks the line '<!-- end"):
        update_page(page, results(), plots)


def test_findings_of_what_is_there_so_far():
    whole = results()
    first = [row for row in whole.figures if row["seed"] == 0]
    constant = {**first[1], "weighting": "constant", "num_updates": 20, "sampler": "ddim", "num_steps": 5, "fid": 90.0}
    settings = {**whole.settings, "compared": ["constant", "debias"], "weightings": ["constant", "p2", "debias"]}
    text = findings(Results(settings, whole.floors, [*first, constant]))
    assert "noise target: 1." in text and "Not measured yet: p2." in text and "may be chance" in text
    assert "debias has the lower FID in 0 of 1 cases" in text
    assert findings(Results(settings, whole.floors, [])) == "No run is finished yet."


def test_the_command_goes_on_where_it_was(tmp_path, capsys):
    flags = [
        "--weightings",
        "debias",
        "--compared",
        "debias",
        "--other-targets",
        "velocity",
        "--checkpoints",
        "1",
        "2",
    ]
    flags += ["--batch-size", "2", "--num-scenes", "10", "--num-reference", "10", "--num-images", "5", "--width", "16"]
    flags += ["--num-inference-steps", "1", "--samplers", "ddim", "--sampler-steps", "1", "2", "--workers", "1"]
    flags += ["--work-dir", str(tmp_path / "work"), "--page", str(tmp_path / "page.md"), "--images", str(tmp_path)]
    assert main([*flags, "--num-seeds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "job 3 of 3 done" in printed and "updates/s" in printed
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").rglob("fidelity-*.json")}
    assert len(written) == 2 * 2 + 2 and START in (tmp_path / "page.md").read_text()
    figures = json.loads((tmp_path / "work" / "results.json").read_text())["figures"]
    assert len(figures) == 6 and all(math.isfinite(row["fid"]) and 0 <= row["recall"] <= 1 for row in figures)
    assert main([*flags, "--num-seeds", "1"]) == 0
    assert {file: file.stat().st_mtime_ns for file in written} == written
    next(iter(written)).unlink()
    assert main([*flags, "--num-seeds", "1", "--only-report"]) == 0
    assert len(json.loads((tmp_path / "work" / "results.json").read_text())["figures"]) == 5
    assert main([*flags, "--batch-size", "3"]) == 2
    assert "batch_size is 3, but work_dir" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--weightings", "snr5"], "weighting is 'snr5'"),
        (["--checkpoints", "20", "10"], r"checkpoints is \[20, 10\]; give rising"),
        (["--samplers", "euler"], "samplers holds 'euler'"),
        (["--weightings", "p2"], "compared holds 'constant'"),
        (["--num-images", "3"], "num_images is 3"),
        (["--width", "20"], "width is 20"),
    ],
)
def test_bad_settings(flags, message, tmp_path, capsys):
    assert main(["--work-dir", str(tmp_path / "work"), *flags]) == 2
    assert re.search(message, capsys.readouterr().err) and not (tmp_path / "work").exists()
