"""Checkpoints of Stable Diffusion 3 in one file: with all parts or some, and with weights that are missing."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers.loaders.single_file_utils import DIFFUSERS_DEFAULT_PIPELINE_PATHS
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

from support.original_layout import save_original_3
from support.tiny_models import flux, sd3
from ubgen_hub_cards.card_text import markdown_text
from ubgen_pipeline.generation.generate import generate_dataset
from ubgen_pipeline.generation.regenerate import largest_difference, regenerate
from ubgen_pipeline.generation.row_lookup import find_row, stored_image
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.models.single_file_kinds import family_of_file, kind_of_file

# diffusers knows these files by their 38 blocks
KIND = "sd35_large"
UNET, T5 = "model.diffusion_model.", "text_encoders.t5xxl.transformer."


@pytest.fixture(scope="module")
def stock():
    pipeline = sd3.build(num_layers=38, dual_attention_layers=(0,))
    # the authors leave the first encoder's projection out, and so do files
    with torch.no_grad():
        pipeline.text_encoder.text_projection.weight.copy_(torch.eye(16))
    return pipeline


@pytest.fixture(scope="module")
def folder(stock, tmp_path_factory):
    """Of the model that diffusers takes settings from, with the weights of its text encoders."""
    folder = tmp_path_factory.mktemp("theirs")
    stock.save_pretrained(folder)
    for part in ("transformer", "vae"):
        for file in (folder / part).glob("*.safetensors"):
            file.unlink()
    return folder


@pytest.fixture(scope="module")
def weights(stock, tmp_path_factory):
    return load_file(save_original_3(stock, tmp_path_factory.mktemp("whole") / "x.safetensors"))


def images(pipeline, *names, **prompt):
    pipeline.set_progress_bar_config(disable=True)
    latents = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    return pipeline(*names, **prompt, latents=latents, num_inference_steps=2, guidance_scale=3.0, height=32, width=32,
                    output_type="np").images  # fmt: skip


@pytest.mark.parametrize(
    ("renamed", "left_out"),
    [
        # of the weight that T5 has twice, files may hold one
        ({}, "encoder.embed_tokens"),
        # the transformer alone, as it is published most, and the autoencoder by its newer name
        ({UNET: "", "first_stage_model.": "vae."}, "text_encoders."),
    ],
)
def test_images_are_those_of_the_pipeline_that_it_was_made_of(
    renamed, left_out, stock, weights, folder, tmp_path, hub, monkeypatch
):
    HfApi().create_repo("org/settings")
    HfApi().upload_folder(repo_id="org/settings", folder_path=folder)
    monkeypatch.setitem(DIFFUSERS_DEFAULT_PIPELINE_PATHS, KIND, {"pretrained_model_name_or_path": "org/settings"})
    file = tmp_path / "community.safetensors"
    held = {}
    for name, value in weights.items():
        begin = next((begin for begin in renamed if name.startswith(begin)), "")
        held[renamed.get(begin, "") + name.removeprefix(begin)] = value
    save_file({name: value for name, value in held.items() if left_out not in name}, file)
    assert (kind_of_file(file), family_of_file(file)) == (KIND, "sd3")
    pipeline = load_pipeline(file)
    # dropout would draw others each time
    assert not any(network.training for network in pipeline.networks.values())
    own = images(pipeline, ["star"], prompts=["a star"])
    np.testing.assert_allclose(own, images(stock, prompt="a star"), rtol=0, atol=1e-5)


def test_rows_name_the_commit_of_what_the_file_lacks(weights, folder, tmp_path, hub, monkeypatch):
    HfApi().create_repo("org/settings")
    commit = HfApi().upload_folder(repo_id="org/settings", folder_path=folder).oid
    monkeypatch.setitem(DIFFUSERS_DEFAULT_PIPELINE_PATHS, KIND, {"pretrained_model_name_or_path": "org/settings"})
    file = tmp_path / "community.safetensors"
    save_file({name: value for name, value in weights.items() if not name.startswith("text_encoders.")}, file)
    settings = {"samples_per_class": 1, "num_inference_steps": 2, "height": 32, "width": 32, "threads": 1}
    rows = generate_dataset(["star"], tmp_path / "d", model=str(file), **settings)
    assert (rows["model"][0], rows["model_revision"][0]) == ("community.safetensors", commit)
    card = (tmp_path / "d" / "README.md").read_text()
    assert f"| settings, and parts that the file lacks | {markdown_text('org/settings')} | {commit} |" in card

    # the model on the Hub moves on, to a scheduler that draws other images
    scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text()) | {"shift": 9.0}
    moved = HfApi().upload_file(
        repo_id="org/settings", path_in_repo="scheduler/scheduler_config.json",
        path_or_fileobj=json.dumps(scheduler).encode(),
    ).oid  # fmt: skip
    row = find_row(str(tmp_path / "d"), 0)
    assert largest_difference(regenerate(row, model=str(file)), stored_image(row)) == 0
    pinned = generate_dataset(["star"], tmp_path / "pinned", model=str(file), revision=commit, **settings)
    assert pinned["image"][0] == rows["image"][0]
    other = generate_dataset(["star"], tmp_path / "other", model=str(file), **settings)
    assert other["image"][0] != rows["image"][0] and other["model_revision"][0] == moved
    # nor is an unfinished dataset gone on with by another commit
    shutil.rmtree(tmp_path / "d" / "data")
    with pytest.raises(ValueError, match="model_revision was"):
        generate_dataset(["star"], tmp_path / "d", model=str(file), **settings)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{UNET}joint_blocks.3.x_block.mlp.fc1.bias", "lacks the weights 'joint_blocks.3.x_block.mlp.fc1.bias'"),
        (f"{UNET}pos_embed", "lacks the weights 'pos_embed'"),
        ("first_stage_model.encoder.conv_in.weight", "lacks the weights of 'encoder.conv_in.weight' of its vae"),
        (
            f"{T5}encoder.block.1.layer.0.SelfAttention.q.weight",
            "lacks .*SelfAttention.q.weight' of its text_encoder_3",
        ),
        (f"{T5}shared.weight", f"lacks the weights '{T5}shared.weight'"),
    ],
)
def test_a_weight_that_is_missing_is_named(name, message, weights, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(DIFFUSERS_DEFAULT_PIPELINE_PATHS, KIND, {"pretrained_model_name_or_path": str(folder)})
    save_file({key: value for key, value in weights.items() if key != name}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=f"model is '.*x.safetensors', which {message}"):
        load_pipeline(tmp_path / "x.safetensors")


def test_layers_that_the_settings_have_no_place_for_are_not_left_out(weights, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(DIFFUSERS_DEFAULT_PIPELINE_PATHS, KIND, {"pretrained_model_name_or_path": str(folder)})
    more = {key.replace("blocks.0", "blocks.1"): weights[key].clone() for key in weights if "0.x_block.attn2" in key}
    save_file(weights | more, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"transformer has the layer 'transformer_blocks.1.attn2.to_q.weight'"):
        load_pipeline(tmp_path / "x.safetensors")


def test_position_embeddings_of_a_size_that_is_not_known_are_said(weights, tmp_path):
    # what tells the smaller kinds from others
    bias = {f"{UNET}joint_blocks.0.context_block.adaLN_modulation.1.bias": torch.zeros(9216)}
    save_file({k: v for k, v in weights.items() if ".37." not in k} | bias, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="Stable Diffusion 3 for a size that diffusers does not know"):
        load_pipeline(tmp_path / "x.safetensors")


def test_a_weight_of_flux_that_is_missing_is_named(tmp_path, monkeypatch):
    flux.build().save_pretrained(tmp_path / "theirs")
    settings = {"pretrained_model_name_or_path": str(tmp_path / "theirs")}
    monkeypatch.setitem(DIFFUSERS_DEFAULT_PIPELINE_PATHS, "flux-dev", settings)
    names = ("double_blocks.0.img_attn.norm.key_norm.scale", "single_blocks.0.linear1.weight", "img_in.weight")
    held = {name: torch.zeros(8, 64) for name in (*names, "guidance_in.in_layer.bias")}
    save_file(held, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x\.safetensors', which lacks the weights 'time_in.in_layer.weight'"):
        load_pipeline(tmp_path / "x.safetensors")
