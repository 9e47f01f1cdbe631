"""Textual inversions: every known file form reads alike, pickles are refused, and the word changes the image."""

import pickle

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from support.text_features import text_features
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.models.text_embeddings import load_embedding, read_embedding, save_embedding, split_embedding


class Harmful:
    def __reduce__(self):
        return (print, ("ran",))


def write_pickle(file):
    file.write_bytes(pickle.dumps(Harmful()))
    return file


def vectors(count=2):
    return torch.randn(count, 96, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("form", ["ours", "flat", "emb_params", "diffusers.bin", "a1111.pt"])
def test_forms(tmp_path, form):
    expected, named = vectors(1 if form == "flat" else 2), "<frame>"
    file = tmp_path / "e.safetensors"
    if form == "ours":
        file = save_embedding("<frame>", expected, tmp_path).parent
    elif form == "flat":
        save_file({"<frame>": expected[0]}, file)
    elif form == "emb_params":
        save_file({"emb_params": expected}, file)
        named = None
    elif form == "diffusers.bin":
        file = tmp_path / "e.bin"
        torch.save({"<frame>": expected}, file)
    else:
        file = tmp_path / "e.pt"
        torch.save({"string_to_param": {"*": torch.nn.Parameter(expected)}, "name": "<frame>", "step": 9}, file)
    token, read = read_embedding(file)
    assert token == named and torch.equal(read, expected)


def test_plain_diffusers_draws_the_same_image(random_mini_model, tmp_path):
    file = save_embedding("<frame>", vectors(), tmp_path)
    ours, plain = load_pipeline(random_mini_model, embeddings=[str(file)]), None
    before = load_pipeline(random_mini_model)
    plain = StableDiffusionPipeline.from_pretrained(random_mini_model)
    plain.load_textual_inversion(str(tmp_path), weight_name=file.name)
    assert torch.equal(text_features(ours, ["a <frame>"]), plain.encode_prompt(["a <frame>"], "cpu", 1, False)[0])
    assert not torch.allclose(text_features(ours, ["a <frame>"]), text_features(before, ["a <frame>"]))
    assert torch.equal(text_features(ours, ["a star"]), text_features(before, ["a star"]))


@pytest.mark.parametrize(
    ("make", "token", "message"),
    [
        (lambda f: f.with_name("absent"), "<x>", "is no file"),
        (
            lambda f: f.with_suffix(".pt").write_bytes(pickle.dumps(Harmful(), protocol=2)) and f.with_suffix(".pt"),
            "<x>",
            "run code",
        ),
        (lambda f: write_pickle(f), "<x>", "no safetensors file"),
        (lambda f: save_file({"a": torch.zeros(2), "b": torch.zeros(2)}, f) or f, "<x>", "no embedding of one token"),
        (lambda f: save_file({"a": torch.zeros(2, dtype=torch.int64)}, f) or f, "<x>", "no embedding of one token"),
        (lambda f: save_file({"a": torch.zeros(1, 768)}, f) or f, "<x>", "96 wide"),
        (lambda f: save_file({"emb_params": torch.zeros(1, 96)}, f) or f, None, "names no token"),
        (lambda f: save_file({"star": torch.zeros(1, 96)}, f) or f, None, "knows already"),
        (lambda f: save_file({"a b": torch.zeros(1, 96)}, f) or f, None, "without blanks"),
    ],
)
def test_refused(random_mini_model, tmp_path, capsys, make, token, message):
    pipeline = load_pipeline(random_mini_model)
    size = len(pipeline.tokenizer)
    with pytest.raises(ValueError, match=message):
        load_embedding(pipeline, make(tmp_path / "e.safetensors"), token)
    assert "ran" not in capsys.readouterr().out and len(pipeline.tokenizer) == size


def test_file_and_token(tmp_path):
    (tmp_path / "a=b.pt").touch()
    assert split_embedding("e.pt=<x>") == ("e.pt", "<x>") and split_embedding("e.pt") == ("e.pt", None)
    assert split_embedding(f"{tmp_path}/a=b.pt") == (f"{tmp_path}/a=b.pt", None)
