"""Textual inversion by the command: samples, exact resume, and what is refused."""

import pytest
import torch
from PIL import Image

from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.models.text_embeddings import read_embedding
from ubgen_training.textual_inversion.command import main

QUICK = ["--images", "novel:frame:2:5", "--token", "<frame>", "--initial_word", "star", "--use_cpu"]
QUICK += ["--per_device_train_batch_size", "2", "--num_inference_steps", "2", "--seed", "3"]


def test_command_samples_and_exact_resume(random_mini_model, tmp_path):
    common = ["--model_name_or_path", random_mini_model, *QUICK, "--num_vectors", "2", "--save_steps", "2"]
    assert main([*common, "--max_steps", "4", "--num_samples", "2", "--output_dir", str(tmp_path / "a")]) == 0
    assert Image.open(tmp_path / "a" / "samples.png").size == (128, 128)
    assert not [file for file in (tmp_path / "a").rglob("*") if file.suffix in (".bin", ".pt", ".pth", ".pkl")]
    resume = ["--resume_from_checkpoint", str(tmp_path / "a" / "checkpoint-2"), "--output_dir", str(tmp_path / "b")]
    assert main([*common, "--max_steps", "4", "--num_samples", "0", *resume]) == 0
    (name, one), (_, two) = read_embedding(tmp_path / "a"), read_embedding(tmp_path / "b")
    assert name == "<frame>" and torch.equal(one, two)
    assert not torch.equal(one, read_embedding(tmp_path / "a" / "checkpoint-2")[1])
    pipeline = load_pipeline(random_mini_model, embeddings=[str(tmp_path / "a")])
    assert pipeline(["<frame>"], num_inference_steps=1).images[0].size == (64, 64)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--images", "/nonexistent"], "is no folder"),
        (["--images", "novel:star:2:1"], "write novel:NAME:NUMBER:SEED"),
        (["--token", "circle"], "knows already"),
        (["--initial_word", "zebra crossing"], "tokens for this model"),
        (["--templates", "a photo"], "must hold {token}"),
        (["--num_vectors", "40"], "tokenizer takes"),
        (["--num_vectors", "0"], "num_vectors is 0"),
    ],
)
def test_bad_input(random_mini_model, tmp_path, capsys, more, message):
    given = ["--model_name_or_path", random_mini_model, *QUICK, "--output_dir", str(tmp_path / "o"), *more]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_an_image_that_is_none(tmp_path, capsys):
    (tmp_path / "x.png").write_bytes(b"no image")
    assert main(["--images", str(tmp_path), "--output_dir", str(tmp_path / "o")]) == 2
    assert "x.png' of images holds a damaged image" in capsys.readouterr().err
