"""Model folders that lack weights, parts or settings: loaders would make them up, and images be of nobody's model."""

import shutil

import pytest
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


def test_weights_that_are_more_than_the_networks_are_no_fault(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "m")
    file = next((tmp_path / "m" / "text_encoder").glob("*.safetensors"))
    weights = load_file(file)
    save_file({**weights, "left_over": next(iter(weights.values())).clone()}, file, metadata={"format": "pt"})
    assert load_pipeline(tmp_path / "m").text_encoder is not None
