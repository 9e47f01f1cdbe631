"""Model folders that lack weights, parts or settings: loaders would make them up, and images be of nobody's model."""

import shutil

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

from ubgen_pipeline.models.loading import load_pipeline


def without(name):
    """Take the first weight of that name out of a part's file."""

    def change(part):
        file = next(part.glob("*.safetensors"))
        weights = load_file(file)
        del weights[next(key for key in sorted(weights) if name in key)]
        save_file(weights, file, metadata={"format": "pt"})

    return change


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("unet", without("conv_in.weight"), r"whose unet lacks [\d,]+ of [\d,]+ numbers .* such as 'conv_in.weight'"),
        (
            "vae",
            without("decoder.conv_out.bias"),
            r"whose vae lacks 3 of .* such as 'decoder.conv_out.bias'; they wou",
        ),
        ("text_encoder", without("fc1.weight"), "whose text_encoder lacks .* they would be random"),
        ("tokenizer", shutil.rmtree, "which lacks the part 'tokenizer' that its model_index.json lists"),
        ("unet", shutil.rmtree, "which lacks the part 'unet' that its"),
        (
            "text_encoder",
            lambda part: (part / "config.json").unlink(),
            "whose part 'text_encoder' has weights and no config",
        ),
        (".", lambda part: (part / "model_index.json").write_text("[]"), "whose model_index.json is no mapping"),
        (
            ".",
            lambda part: (part / "model_index.json").write_text('{"a'),
            r"whose model_index.json is no JSON \(Unter",
        ),
    ],
)
def test_what_is_missing_is_named(tiny_model, tmp_path, part, change, message):
    shutil.copytree(tiny_model, tmp_path / "m")
    change(tmp_path / "m" / part)
    with pytest.raises(ValueError, match=f"model is '.*', {message}"):
        load_pipeline(tmp_path / "m")


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        # as many numbers as a buffer has that older files hold
        ("final_layer_norm.bias", {"text_model.embeddings.position_ids": torch.arange(4096)[None]}),
        # of a whole CLIP, whose other half is larger than all that is missing
        ("fc1.weight", {"vision_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(64, 4096)}),
    ],
)
def test_what_else_a_file_holds_hides_nothing(tiny_model, tmp_path, name, beside):
    shutil.copytree(tiny_model, tmp_path / "m")
    without(name)(tmp_path / "m" / "text_encoder")
    (file,) = (tmp_path / "m" / "text_encoder").glob("*.safetensors")
    save_file({**load_file(file), **beside}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"whose text_encoder lacks [\d,]+ of .*, such as '.*{name}'"):
        load_pipeline(tmp_path / "m")


def test_names_of_earlier_versions_are_no_fault(tiny_model, tmp_path):
    """The VAE's attention as diffusers once called it, and text encoders as transformers does now and then."""
    shutil.copytree(tiny_model, tmp_path / "m")
    whole = load_pipeline(tiny_model)
    earlier = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for part, names in [("vae", earlier), ("text_encoder", {"text_model.": ""})]:
        (file,) = (tmp_path / "m" / part).glob("*.safetensors")
        weights = load_file(file)
        renamed = {}
        for key, weight in weights.items():
            for name, old in names.items():
                key = key.replace(f".{name}.", f".{old}.") if part == "vae" else key.replace(name, old)
            renamed[key] = weight
        assert renamed.keys() != weights.keys() or part == "text_encoder"
        save_file(renamed, file, metadata={"format": "pt"})
    again = load_pipeline(tmp_path / "m")
    for part, network in whole.networks.items():
        other = again.networks[part].state_dict()
        assert all(torch.equal(weight, other[name]) for name, weight in network.state_dict().items())


def test_a_model_of_the_hub_that_lacks_weights_is_refused(hub, tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "m")
    without("conv_in.weight")(tmp_path / "m" / "unet")
    HfApi().create_repo("org/less")
    HfApi().upload_folder(repo_id="org/less", folder_path=tmp_path / "m")
    with pytest.raises(ValueError, match=r"model is 'org/less', whose unet lacks .*, such as 'conv_in.weight'"):
        load_pipeline("org/less")


def test_weights_that_are_more_than_the_networks_are_no_fault(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "m")
    file = next((tmp_path / "m" / "text_encoder").glob("*.safetensors"))
    weights = load_file(file)
    save_file({**weights, "left_over": next(iter(weights.values())).clone()}, file, metadata={"format": "pt"})
    assert load_pipeline(tmp_path / "m").text_encoder is not None
