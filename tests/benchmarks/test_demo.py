"""The demo's own arithmetic and picture, and its refusal to mix runs; `make demo` itself takes minutes."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import demo
from ubgen_pipeline.commands.settings_parser import parse_settings
from ubgen_pipeline.mini import EMBEDDED_MODELS
from ubgen_pipeline.mini.scenes import CLASS_NAMES, scenes
from ubgen_pipeline.samples.prompt_samples import load_prompt_samples
from ubgen_training.reward_training.training_prompts import load_prompts
from ubgen_training.ubgen.ubgen_config import UbGenConfig

BARE = demo.Drawing(None, False)


def test_the_judge_reads_the_bias_that_the_world_has():
    biased = list(scenes(200, bias=0.95, seed=17))
    labels = np.array([CLASS_NAMES.index(scene.factors.class_name) for scene in biased])
    row = demo.measure("biased", np.stack([scene.image for scene in biased]), labels, 2.0)
    # 0.95 + 0.05 / 10, within three standard errors and the judge's own mistakes
    assert row.own_background == pytest.approx(0.955, abs=0.06)
    assert row.class_accuracy >= 0.95
    reference = demo.reference_row(200, 0.0)
    assert reference.own_background == pytest.approx(0.1, abs=0.08)
    assert reference.background_entropy > 2.5 > 1.0 > row.background_entropy
    assert reference.images_per_second is None


def test_the_judge_reads_textures():
    """Or the table's texture column would show the judge's mistakes instead of the images."""
    biased = list(scenes(200, bias=0.95, seed=17))
    labels = np.array([CLASS_NAMES.index(scene.factors.class_name) for scene in biased])
    row = demo.measure("biased", np.stack([scene.image for scene in biased]), labels, None)
    assert row.own_texture == pytest.approx(0.955, abs=0.08)


def test_the_table_shows_each_row():
    text = demo.table([demo.Row("base", 0.9, 0.85, 0.8, 0.5, 1.25), demo.Row("x", 1.0, 0.1, 0.1, 3.2, None)], 100)
    lines = text.splitlines()
    assert lines[1].split() == ["base", "90.0%", "85.0%", "80.0%", "0.50", "bits", "1.25"]
    assert lines[2].split()[-1] == "-"
    assert f"{2 * math.sqrt(0.25 / 100):.1%}" in lines[3]


def test_a_finished_training_is_not_repeated(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(demo, "run", lambda command, settings, log: commands.append(command) or "")
    settings = demo.DemoSettings(max_steps=3)
    for _ in range(2):
        assert demo.train(settings, tmp_path / "lora").name == "pytorch_lora_weights.safetensors"
    assert len(commands) == 1 and "--resume_from_checkpoint" not in commands[0]
    with pytest.raises(ValueError, match="other settings"):
        demo.train(demo.DemoSettings(max_steps=4), tmp_path / "lora")


def test_an_interrupted_training_is_resumed(tmp_path, monkeypatch):
    commands = []

    def interrupted(command, settings, log):
        commands.append(command)
        if len(commands) == 1:
            (tmp_path / "checkpoint-2").mkdir()
            (tmp_path / "checkpoint-2" / "trainer_state.json").touch()
            raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.train(demo.DemoSettings(max_steps=3), tmp_path)
    demo.train(demo.DemoSettings(max_steps=3), tmp_path)
    assert commands[1] == [*commands[0], "--resume_from_checkpoint", "last"]


def test_the_rate_is_that_of_the_run_that_made_the_dataset(tmp_path, monkeypatch):
    said = ["ubgen: 3/9 images, 1.00 images/s, 1 left\nubgen: 9/9 images, 2.50 images/s, 0 left\n", "nothing to do\n"]
    monkeypatch.setattr(demo, "run", lambda command, settings, log: said.pop(0))
    rates = [demo.generate(demo.DemoSettings(), BARE, tmp_path / "base") for _ in range(2)]
    assert rates == [2.5, 2.5]
    assert json.loads((tmp_path / "base_rate.json").read_text()) == 2.5


def test_each_embedded_model_has_its_own_folder_training_and_sampling(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(demo, "run", lambda command, settings, log: commands.append(command) or "")
    for model in EMBEDDED_MODELS:
        settings = demo.DemoSettings(model=model)
        assert Path(settings.training_config).is_file()
        demo.generate(settings, BARE, tmp_path / "base")
        demo.train(settings, tmp_path / model)
    assert len({demo.DemoSettings(model=model).output_dir for model in EMBEDDED_MODELS}) == 2
    mini, _, flow, training = commands
    assert "--model mini --" in " ".join(mini) and mini[mini.index("--guidance-scale") + 1] == "1.0"
    # the family's own
    assert "--model mini-flow --" in " ".join(flow) and not {"--guidance-scale", "--num-inference-steps"} & {*flow}
    assert "configs/mini_flow.yaml" in " ".join(training)


def test_prompts_with_contexts_are_those_that_the_lora_is_trained_on(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(demo, "run", lambda command, settings, log: commands.append(command) or "")
    settings = demo.DemoSettings()
    demo.generate(settings, demo.Drawing(tmp_path / "lora", True), tmp_path / "tuned")
    (command,) = commands
    assert "--class-names" not in command and command[command.index("--lora") + 1] == str(tmp_path / "lora")
    drawn = load_prompt_samples(command[command.index("--classes") + 1]).prompts()
    training = parse_settings(UbGenConfig, ["--config", settings.training_config, "--use_cpu", "true"], prog="demo")
    assert {prompt.prompt for prompt in drawn} == {prompt.prompt for prompt in load_prompts(training)}


def test_only_what_was_trained_on_contexts_is_drawn_with_them(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(demo, "train", lambda settings, folder: folder / "lora")
    monkeypatch.setattr(demo, "generate", lambda settings, drawing, folder: drawn.update({folder.name: drawing}))
    monkeypatch.setattr(demo, "load_dataset", lambda folder, split: ())
    monkeypatch.setattr(demo, "arrays", lambda dataset: (None, None))
    monkeypatch.setattr(demo, "images_by_class", lambda dataset: {})
    monkeypatch.setattr(demo, "draw_contact_sheet", lambda datasets, file: None)
    row = demo.Row("x", 1.0, 0.1, 0.1, 3.2, None)
    monkeypatch.setattr(demo, "measure", lambda name, images, labels, rate: row)
    monkeypatch.setattr(demo, "reference_row", lambda number, bias: row)
    monkeypatch.setattr(demo, "table", lambda rows, number: "")
    demo.run_demo(demo.DemoSettings(output_dir=str(tmp_path), loras=["other"]))
    with_contexts = {name: drawing.has_contexts for name, drawing in drawn.items()}
    assert with_contexts == {
        "base": False,
        "base-contexts-in-its-prompts": True,
        "tuned": True,
        "tuned-shipped-contexts-in-its-prompts": True,
        "tuned-shipped": False,
        "other": False,
    }
    assert drawn["base"].lora is None and drawn["base-contexts-in-its-prompts"].lora is None
    assert all(drawing.lora.is_file() for name, drawing in drawn.items() if "shipped" in name)


def test_a_command_that_fails_is_reported(tmp_path, capsys):
    with pytest.raises(demo.CommandError, match="exit code 3"):
        demo.run([sys.executable, "-c", "print('why'); raise SystemExit(3)"], demo.DemoSettings(), tmp_path / "a.log")
    assert (tmp_path / "a.log").read_text() == "why\n" and "why" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags", [["--samples-per-class", "0"], ["--model", "other"], ["--max-steps", "-1"], ["--sample-per-class", "1"]]
)
def test_bad_settings_give_exit_code_2(flags, capsys):
    assert demo.main(flags) == 2
    assert capsys.readouterr().err.startswith("ubgen: error: ")
