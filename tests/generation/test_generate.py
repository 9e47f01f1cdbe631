"""``ubgen generate`` on the mini layout with random weights: what it writes, resumes and refuses."""

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Image, load_dataset

from support.flags import with_flags
from support.warm_python import warm_programs
from ubgen_pipeline.generation.generate import generate_dataset, main
from ubgen_pipeline.sample_seeds import sample_seed

SHORT = ["--num-inference-steps", "2", "--samples-per-class", "3", "--samples-per-shard", "4", "--seed", "7"]


def _arguments(model, folder, *more):
    return ["--model", model, "--class-names", "circle", "star", "--output-dir", str(folder), *SHORT, *more]


def _hashes(folder):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in Path(folder, "data").iterdir()}


def _process(arguments, **kwargs):
    command = [str(warm_programs() / "ubgen"), "generate", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **kwargs)


def test_columns_order_and_streaming(tiny_model, tmp_path, capsys):
    arguments = _arguments(tiny_model, tmp_path / "d", "--batch-size", "3")
    assert main(arguments) == 0
    dataset = load_dataset(str(tmp_path / "d"), split="train")
    assert isinstance(dataset.features["image"], Image)
    assert dataset.features["label"] == ClassLabel(names=["circle", "star"])
    assert dataset["index"][:] == list(range(6)) and dataset["label"][:] == [0, 1] * 3
    assert dataset["seed"][:] == [sample_seed(7, name, k) for k in range(3) for name in ("circle", "star")]
    assert dataset[0]["image"].size == (16, 16) and dataset[0]["num_inference_steps"] == 2
    streamed = list(load_dataset(str(tmp_path / "d"), split="train", streaming=True))
    assert [row["prompt"] for row in streamed] == dataset["prompt"][:]
    assert "images/s" in capsys.readouterr().err
    before = _hashes(tmp_path / "d")
    assert main(arguments) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert main([*arguments, "--seed", "8"]) == 2
    assert "seed was 7 there and is 8 now" in capsys.readouterr().err
    assert _hashes(tmp_path / "d") == before


def test_python_call_and_ids(tiny_model, tmp_path):
    (tmp_path / "c.txt").write_text("n03773504 missile\nn04008634 missile\n")
    dataset = generate_dataset(
        tmp_path / "c.txt", tmp_path / "d", model=tiny_model, samples_per_class=1, num_inference_steps=1
    )
    assert dataset.features["label"].names == ["missile (n03773504)", "missile (n04008634)"]
    assert dataset["seed"][:] == [sample_seed(0, wnid, 0) for wnid in ("n03773504", "n04008634")]


def test_python_call_with_values_of_numpy(tiny_model, tmp_path):
    """Notebooks give such; the manifest is JSON, and a later run with Python's own values must find it unchanged."""
    common = {"model": tiny_model, "output_dir": tmp_path / "d"}
    numbers = {"seed": 3, "guidance_scale": 2.5, "num_inference_steps": 1, "samples_per_class": 1}
    given = {name: np.asarray(value)[()] for name, value in numbers.items()}
    dataset = generate_dataset(np.array(["circle", "star"]), **common, **given)
    manifest = (tmp_path / "d" / ".ubgen" / "manifest.json").read_bytes()
    assert dataset["seed"][:] == [sample_seed(3, name, 0) for name in ("circle", "star")]
    generate_dataset(["circle", "star"], **common, **numbers)
    assert (tmp_path / "d" / ".ubgen" / "manifest.json").read_bytes() == manifest


def test_killed_and_resumed_equals_uninterrupted(tiny_model, tmp_path):
    more = ["--samples-per-class", "8", "--batch-size", "2", "--num-inference-steps", "4", "--threads", "1"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert _process(_arguments(tiny_model, whole, *more)).wait() == 0
    process = _process(_arguments(tiny_model, killed, *more))
    deadline = time.monotonic() + 60
    while not (killed / ".ubgen" / "shard-00000.json").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "README.md").exists()
    assert _process(_arguments(tiny_model, killed, *more)).wait() == 0
    assert _hashes(killed) == _hashes(whole) and len(_hashes(whole)) == 4
    assert not list(killed.rglob("*.tmp"))


def test_full_disk_loses_nothing(tiny_model, tmp_path):
    arguments = _arguments(tiny_model, tmp_path / "d")

    def limit_file_size():
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))

    process = _process(arguments, preexec_fn=limit_file_size)
    _, error = process.communicate()
    assert process.returncode == 2 and "no space left" in error and "Traceback" not in error
    assert not list((tmp_path / "d").rglob("*.tmp")) and not _hashes(tmp_path / "d")
    assert main(arguments) == 0


def test_two_processes_share_the_shards(tiny_model, tmp_path):
    assert main(_arguments(tiny_model, tmp_path / "one", "--threads", "1")) == 0
    ranks = [
        _process(
            _arguments(tiny_model, tmp_path / "two", "--threads", "1"),
            env={**os.environ, "RANK": rank, "WORLD_SIZE": "2"},
        )
        for rank in ("0", "1")
    ]
    assert [rank.wait() for rank in ranks] == [0, 0]
    assert _hashes(tmp_path / "one") == _hashes(tmp_path / "two")


def test_dry_run_prints_the_samples_without_torch(tmp_path):
    code = (
        "import sys; from ubgen_pipeline.commands.main import main;"
        "rc = main(['generate', '--classes', 'voc', '--samples-per-class', '2', '--dry-run']);"
        "sys.exit(9 if 'torch' in sys.modules else rc)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["index"] for line in lines] == list(range(40))
    assert lines[21] == {
        "index": 21, "class_name": "bicycle", "label": 1, "prompt": "bicycle", "seed": sample_seed(0, "bicycle", 1)
    }  # fmt: skip


def test_oddly_written_names_are_told_where_they_are_drawn(tmp_path, capsys):
    arguments = ["--dry-run", "--classes", str(tmp_path / "classes.yaml")]
    told = "class 'polar_bear' has underscores, which are read as signs: write 'polar bear'"
    for file, warnings in [
        ("classes: [polar_bear, cat]", f"ubgen: {told}\n"),
        ("[polar_bear, cat, seaLion]", f"ubgen: {told} (1 more are written oddly; `ubgen check-names` lists them)\n"),
        ("[polar bear, cat]", ""),
    ]:
        (tmp_path / "classes.yaml").write_text(file)
        assert main(arguments) == 0
        assert capsys.readouterr().err == warnings
    # one of its synonyms is drawn in its place
    file = "classes: [{name: polar_bear, synonyms: [white bear]}]\ntemplates: [a white bear on ice]\n"
    (tmp_path / "classes.yaml").write_text(file)
    assert main(arguments) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--samples-per-class", "0"], "samples_per_class is 0"),
        (["--batch-size", "-1"], "batch_size is -1"),
        (["--seed", "-1"], "seed is -1"),
        (["--seed", str(2**63)], "seed is"),
        (["--model", "/nonexistent"], "model is '/nonexistent'"),
        (["--lora", "/nonexistent"], "lora is '/nonexistent'"),
        (["--scheduler", "euler"], "scheduler is 'euler'"),
        (["--class-names", " ".join(["circle"] * 40)], "tokenizer takes"),
        (["--class-names", "star", "star"], "occurs twice"),
        (["--guidance-scale", "nan"], "guidance_scale is nan"),
        (["--sed", "1"], "nearest is '--seed'"),
    ],
)
def test_bad_input(tiny_model, tmp_path, capsys, more, message):
    assert main(with_flags(_arguments(tiny_model, tmp_path / "d"), *more)) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "d").exists()


def test_seeds_equal_the_pipelines_own():
    from ubgen_pipeline import initial_latents

    assert initial_latents.sample_seed(3, "star", 2) == sample_seed(3, "star", 2)


def test_the_command_starts_in_a_second():
    code = "import ubgen_pipeline; from ubgen_pipeline.commands.main import main; main(['--help'])"
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # time of the processor, not of the clock: other processes on a busy machine do not count
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 1


def test_threads_may_call_it_at_the_same_time(tiny_model, tmp_path, capsys):
    def draw(name):
        settings = {"samples_per_class": 2, "num_inference_steps": 2, "threads": 1}
        return generate_dataset(["circle", "star"], tmp_path / name, model=tiny_model, **settings)

    with ThreadPoolExecutor(3) as threads:
        datasets = list(threads.map(draw, "abc"))
    assert [len(dataset) for dataset in datasets] == [4] * 3
    files = [next((tmp_path / name / "data").iterdir()).read_bytes() for name in "abc"]
    assert files[0] == files[1] == files[2]
    assert "waits for the dataset that another thread draws" in capsys.readouterr().err
