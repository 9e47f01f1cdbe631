"""Prompts are encoded once and alone, in a bounded memory, by encoders that may wait elsewhere, and kept on disk."""

import pytest
import torch

from ubgen_pipeline.inference import prompt_cache
from ubgen_pipeline.inference.prompt_cache import PromptCache, PromptFolder, made_by
from ubgen_pipeline.models.loading import load_pipeline


@pytest.fixture
def pipeline(random_mini_model):
    return load_pipeline(random_mini_model)


@pytest.fixture
def calls(pipeline, monkeypatch):
    """The prompts that the text encoder was asked for."""
    asked = []
    encode = pipeline.encode
    monkeypatch.setattr(pipeline, "encode", lambda prompts, text: asked.extend(prompts) or encode(prompts, text))
    return asked


@pytest.fixture
def moves(pipeline, monkeypatch):
    """The devices that the text encoder was moved to."""
    devices = []
    monkeypatch.setattr(pipeline.text_encoder, "to", devices.append)
    return devices


def text_features(pipeline, prompts):
    """``(B, L, D)`` of B prompts, without being counted among the calls."""
    return pipeline.batch(type(pipeline).encode(pipeline, prompts))["encoder_hidden_states"]


def row_bytes(pipeline):
    return text_features(pipeline, ["x"]).nbytes


def test_prompts_are_encoded_once_and_alone(pipeline, calls):
    cache = PromptCache(max_bytes=2 * row_bytes(pipeline))
    features = cache.conditioning(pipeline, ["star", "heart", "star"])["encoder_hidden_states"]
    torch.testing.assert_close(features, text_features(pipeline, ["star", "heart", "star"]), rtol=1e-5, atol=1e-5)
    assert calls == ["star", "heart"]
    cache.conditioning(pipeline, ["circle"])
    cache.conditioning(pipeline, ["star"])
    # of two that are remembered, the one unused the longest went
    assert calls == ["star", "heart", "circle"]
    cache.conditioning(pipeline, ["heart"])
    assert calls[-1] == "heart"


def test_a_chunked_prompt_is_read_with_its_weights(pipeline):
    cache, weighted = PromptCache(), PromptCache(num_chunks=2)
    plain, chunked = (item.conditioning(pipeline, ["a star++"])["encoder_hidden_states"] for item in (cache, weighted))
    assert chunked.shape[1] == 2 * plain.shape[1]
    torch.testing.assert_close(chunked, pipeline.encode_weighted_prompts(["a star++"], num_chunks=2))


def test_encoders_that_wait_encode_what_comes_at_once(pipeline, calls, moves):
    cache = PromptCache(text_device="cpu", max_bytes=8 * row_bytes(pipeline))
    cache.expect(["circle", "star", "circle", "heart", "ring", "cross", "moon"])
    plain = text_features(pipeline, ["star"])
    for _ in range(2):
        conditioning = cache.conditioning(pipeline, ["circle", "star", "circle"])
    # half of the memory's eight prompts beside the one that was missing; there and back once
    assert calls == ["circle", "star", "heart", "ring", "cross"] and moves == ["cpu", "cpu"]
    torch.testing.assert_close(conditioning["encoder_hidden_states"][1:2], plain)
    cache.conditioning(pipeline, ["moon"])
    assert calls[-1] == "moon" and len(moves) == 4
    # not among those that come, as the negative prompt
    cache.conditioning(pipeline, [""], negative=True)
    assert calls[-2:] == ["moon", ""]


def test_encoders_that_wait_go_back_after_an_error(pipeline, moves, monkeypatch):
    def fail(prompts, text):
        raise RuntimeError("no memory")

    monkeypatch.setattr(pipeline, "encode", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        PromptCache(text_device="cpu").conditioning(pipeline, ["star"])
    assert moves == ["cpu", "cpu"]


def test_a_folder_keeps_prompts_for_the_model_that_read_them(pipeline, calls, tmp_path):
    made_by = {"model": "abc", "dtype": "float32"}
    first = PromptCache(folder=PromptFolder(tmp_path, made_by)).conditioning(pipeline, ["star", "heart"])
    again = PromptCache(folder=PromptFolder(tmp_path, made_by)).conditioning(pipeline, ["heart", "star"])
    assert calls == ["star", "heart"]
    name = "encoder_hidden_states"
    assert torch.equal(first[name], again[name].flip(0))
    # of another model, as another kind of text, or damaged
    PromptCache(folder=PromptFolder(tmp_path, {**made_by, "model": "def"})).conditioning(pipeline, ["star"])
    PromptCache(2, folder=PromptFolder(tmp_path, made_by)).conditioning(pipeline, ["star"])
    assert calls[2:] == ["star", "star"]
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(b"not a tensor")
    PromptCache(folder=PromptFolder(tmp_path, made_by)).conditioning(pipeline, ["star"])
    assert calls[4:] == ["star"]


def test_a_file_that_was_cut_off_is_not_taken_for_whole(pipeline, calls, tmp_path):
    folder = PromptFolder(tmp_path, {"model": "abc"})
    PromptCache(folder=folder).conditioning(pipeline, ["star"])
    (file,) = tmp_path.rglob("*.safetensors")
    whole = file.read_bytes()
    for length in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        cache = PromptCache(folder=folder)
        assert not cache.is_at_hand("star")
        cache.rows(pipeline, ["star"])
        assert cache.is_at_hand("star") and PromptCache(folder=folder).is_at_hand("star")
        # as the negative prompt it was never encoded
        assert not cache.is_at_hand("star", negative=True)
    assert calls == ["star"] * 7 and file.read_bytes() == whole


def test_a_file_in_the_folders_place(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"prompt_features is '.*notes.txt', which is a file; give a folder"):
        PromptFolder(tmp_path / "notes.txt", {})


def test_a_folder_is_not_taken_over_by_other_libraries_or_precision(random_mini_model, pipeline, calls, tmp_path):
    facts = {"dtype": "float32", "device": "cpu"}

    def encode(**changes):
        made = made_by(random_mini_model, **{**facts, **changes})
        PromptCache(folder=PromptFolder(tmp_path, made)).rows(pipeline, ["star"])
        return len(calls)

    assert [encode(), encode(), encode(dtype="bfloat16"), encode(loras=("lora",))] == [1, 1, 2, 3]
    own = prompt_cache.version
    for name in ("ubgen", "torch", "transformers", "tokenizers", "diffusers", "peft"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(prompt_cache, "version", lambda asked, name=name: "0.0" if asked == name else own(asked))
            before = len(calls)
            assert encode() == before + 1
    # each stays beside the others
    assert encode() == len(calls) == 9
