"""Which files of a model's folder are loaded: variants, shards, and pickles that never are."""

import json

import httpx2
import pytest
from huggingface_hub import HfApi
from transformers import CLIPConfig, SegformerConfig

from ubgen_pipeline.labelling.build_annotator import build_annotator
from ubgen_pipeline.models.clip_encoders import load_clip_encoder
from ubgen_pipeline.models.model_files import chosen_variant, loaded_files, loading_fault, weight_sets
from ubgen_pipeline.models.segmenter import load_segmenter

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.mark.parametrize(
    ("names", "sets"),
    [
        (["model.safetensors", "notes.safetensors", "config.json"], {None: ["model.safetensors"]}),
        (
            ["model.fp16.safetensors", "model.safetensors"],
            {None: ["model.safetensors"], "fp16": ["model.fp16.safetensors"]},
        ),
        ([*SHARDS, "model.safetensors.index.json"], {None: [*SHARDS, "model.safetensors.index.json"]}),
        # transformers reads the whole file, and diffusers the shards
        ([*SHARDS, "model.safetensors.index.json", "model.safetensors"], {None: ["model.safetensors"]}),
        (
            ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-00001-of-00001.safetensors",
             "diffusion_pytorch_model.safetensors.index.json"],
            {None: ["diffusion_pytorch_model-00001-of-00001.safetensors",
                    "diffusion_pytorch_model.safetensors.index.json"]},
        ),
        (
            ["diffusion_pytorch_model.fp16-00001-of-00001.safetensors",
             "diffusion_pytorch_model.safetensors.index.fp16.json"],
            {"fp16": ["diffusion_pytorch_model.fp16-00001-of-00001.safetensors",
                      "diffusion_pytorch_model.safetensors.index.fp16.json"]},
        ),
        (
            ["diffusion_pytorch_model-00001-of-00001.fp16.safetensors",
             "diffusion_pytorch_model.safetensors.index.fp16.json"],
            {"fp16": ["diffusion_pytorch_model-00001-of-00001.fp16.safetensors",
                      "diffusion_pytorch_model.safetensors.index.fp16.json"]},
        ),
        (["pytorch_model.bin", "config.json"], {}),
    ],
)  # fmt: skip
def test_weights_are_known_by_their_names(names, sets):
    assert weight_sets(names) == sets


def names(unet, text_encoder):
    return [f"unet/{name}" for name in unet] + [f"text_encoder/{name}" for name in text_encoder] + ["x.safetensors"]


PLAIN, HALF = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")
PARTS = ["unet", "text_encoder", "scheduler"]


def test_the_variant_that_is_there_is_taken_where_plain_weights_are_missing():
    text = ["model.safetensors"]
    assert chosen_variant(names([PLAIN, HALF], text), PARTS) is None
    assert chosen_variant(names([PLAIN, HALF], text), PARTS, "fp16") == "fp16"
    assert chosen_variant(names([HALF], text), PARTS) == "fp16"
    assert chosen_variant(names([HALF, HALF.replace("fp16", "ema")], text), PARTS) == "fp16"
    assert chosen_variant(names([HALF.replace("fp16", "ema")], text), PARTS) == "ema"


@pytest.mark.parametrize(
    ("unet", "text_encoder", "asked", "message"),
    [
        ([PLAIN], ["model.safetensors"], "fp16", "no variant 'fp16'; there are none: leave it out"),
        ([HALF], ["model.safetensors"], "bf16", "no variant 'bf16'; there are fp16"),
        ([HALF], ["model.bf16.safetensors"], "fp16", "no variant 'fp16' in text_encoder; there are bf16, fp16"),
        ([HALF], ["model.bf16.safetensors"], None, r"different variants \(bf16, fp16\)"),
        (
            ["diffusion_pytorch_model.bin"],
            ["model.safetensors"],
            None,
            "unet holds pickled weights only .*can run code",
        ),
    ],
)
def test_what_cannot_be_loaded_says_why(unet, text_encoder, asked, message):
    with pytest.raises(ValueError, match=message):
        chosen_variant(names(unet, text_encoder), PARTS, asked)


def test_only_what_is_loaded_counts(tmp_path):
    index = {"_class_name": "X", "unet": ["diffusers", "U"], "checker": [None, None], "scheduler": ["diffusers", "S"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    loaded = ["unet/config.json", f"unet/{PLAIN}", f"unet/{HALF}", "scheduler/scheduler_config.json"]
    for name in (*loaded, "unet/notes.json", "other/model.safetensors", "checker/model.safetensors", "x.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    always = ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"]
    for variant, weights in ((None, PLAIN), ("fp16", HALF)):
        found = [file.relative_to(tmp_path).as_posix() for file in loaded_files(tmp_path, variant)]
        assert sorted(found) == sorted([*always, f"unet/{weights}"])


def test_a_model_of_transformers_with_pickles_alone_says_how_to_write_them_anew(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    told = loading_fault(OSError("no file named model.safetensors\nmore"), str(tmp_path), "AutoModel")
    assert told.startswith("it holds pickled weights only (pytorch_model.bin), which are not loaded")
    assert f"`AutoModel.from_pretrained({str(tmp_path)!r}, use_safetensors=False).save_pretrained(FOLDER)`" in told
    # others beside them: the fault is another one
    (tmp_path / "model.safetensors").touch()
    assert loading_fault(OSError("cut short\nmore"), str(tmp_path), "AutoModel") == "cut short"
    assert loading_fault(OSError("no such model"), "no/such name", "AutoModel") == "no such model"


def test_the_fault_itself_is_told_where_the_hub_cannot_be_asked(monkeypatch):
    def fail(*_, **__):
        raise httpx2.ConnectError("Name or service not known")

    monkeypatch.setattr(HfApi, "list_repo_files", fail)
    assert loading_fault(OSError("could not connect\nmore"), "owner/model", "AutoModel") == "could not connect"


@pytest.mark.parametrize("kind", ["clip", "segmenter", "annotator"])
def test_pickles_are_named_where_models_are_loaded(tmp_path, kind):
    if kind == "clip":
        settings = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        CLIPConfig(text_config=settings, vision_config=settings).save_pretrained(tmp_path)
    else:
        SegformerConfig().save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    load = {
        "clip": load_clip_encoder,
        "segmenter": load_segmenter,
        "annotator": lambda model: build_annotator(model, ["star"]),
    }[kind]
    with pytest.raises(ValueError, match=r"pickled weights only \(pytorch_model\.bin\).*save_pretrained\(FOLDER\)"):
        load(str(tmp_path))
