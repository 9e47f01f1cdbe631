"""What is Stable Diffusion 3's alone: three text encoders of which one may be missing, and learned positions."""

import pytest
from diffusers import FlowMatchHeunDiscreteScheduler
from peft import LoraConfig, inject_adapter_in_model

from support.family_models import CASES, tiny_pipeline
from ubgen_pipeline.models.families import FAMILIES
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.pipeline_sd3 import LARGE_NUM_LAYERS

CASE = CASES["sd3"]


def test_another_flow_scheduler_draws():
    pipeline = CASE.ours(CASE.stock)
    pipeline.scheduler = FlowMatchHeunDiscreteScheduler(shift=3.0)
    images = CASE.draw(pipeline, ["a circle"])
    assert images.isfinite().all() and images.std() > 0.05


@pytest.mark.parametrize(
    ("path", "defaults"),
    [
        ("stabilityai/stable-diffusion-3.5-large-turbo", (4, 1.0)),
        ("/cache/models--stabilityai--stable-diffusion-3.5-large-turbo/snapshots/0123abc", (4, 1.0)),
        ("stabilityai/stable-diffusion-3.5-large", (28, 4.5)),
    ],
)
def test_turbo_is_known_by_its_name(path, defaults):
    pipeline = CASE.ours(CASE.stock)
    pipeline.register_to_config(_name_or_path=path)
    assert (pipeline.default_num_inference_steps, pipeline.default_guidance_scale) == defaults


def test_a_large_model_whose_name_says_nothing_of_turbo_is_told_of(tmp_path, capsys):
    large = tiny_pipeline("sd3", num_layers=LARGE_NUM_LAYERS)
    for name in ("mine", "my-large"):
        large.save_pretrained(tmp_path / name)
    load_pipeline(tmp_path / "my-large")
    assert "is configured as" not in capsys.readouterr().err
    pipeline = load_pipeline(tmp_path / "mine")
    assert "its name says neither: steps and guidance are large's" in capsys.readouterr().err
    assert (pipeline.default_num_inference_steps, pipeline.default_guidance_scale) == (28, 4.5)


@pytest.mark.parametrize("name", ["text_encoder", "text_encoder_2"])
def test_a_missing_clip_is_named(name):
    kind = FAMILIES["sd3"].pipeline_class()
    assert f"has no {name}" in kind(**{**CASE.stock.components, name: None}).family_misfit()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooled_projection_dim": 64}, "64 pooled features beside CLIPs of 48"),
        ({"joint_attention_dim": 40}, "text features 40 wide beside CLIPs of 48"),
        ({"joint_attention_dim": 72}, "text features 72 wide beside a T5 of 64"),
    ],
)
def test_parts_of_other_widths_are_named(settings, message):
    pipeline = CASE.ours(CASE.build())
    pipeline.transformer.register_to_config(**settings)
    assert message in pipeline.family_misfit()


def test_a_size_beyond_the_learned_positions_is_named():
    assert CASE.pipeline.latent_shape(64, 64) == (8, 32, 32)
    with pytest.raises(ValueError, match="width is 72; the model knows positions up to 64 pixels"):
        CASE.pipeline.latent_shape(64, 72)


def test_the_text_queries_of_the_last_block_lead_nowhere_and_get_no_lora():
    pipeline = CASE.ours(CASE.build())
    inject_adapter_in_model(LoraConfig(target_modules=list(pipeline.lora_targets)), pipeline.transformer)
    names = [name for name, _ in pipeline.transformer.named_modules() if name.endswith("add_q_proj.lora_A")]
    assert names == [f"transformer_blocks.{block}.attn.add_q_proj.lora_A" for block in (0, 1)]
