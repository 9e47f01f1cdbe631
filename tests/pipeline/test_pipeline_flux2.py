"""What is FLUX.2's alone: layers of the text encoder are joined, klein may be distilled, single blocks get a LoRA."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model

from support.family_models import CASES, own_pipeline, tiny_pipeline

KLEIN, DISTILLED, DEV = CASES["flux2-klein"], CASES["flux2-klein distilled"], CASES["flux2-dev"]


def test_klein_is_distilled_as_its_configuration_says():
    found = [
        (case.pipeline.guidance, case.pipeline.default_num_inference_steps, case.pipeline.default_guidance_scale)
        for case in (KLEIN, DISTILLED)
    ]
    assert found == [("classifier-free", 50, 4.0), ("none", 4, 1.0)]


def test_klein_base_ignores_guidance_that_the_transformer_could_read():
    # as its stock call does
    stock = tiny_pipeline("flux2-klein", guidance_embeds=True)
    assert own_pipeline("flux2-klein", stock).guidance == "classifier-free"


@pytest.mark.parametrize(("family", "num_layers"), [("flux2-klein", 36), ("flux2-dev", 40)])
def test_the_text_encoders_layers_are_those_of_the_stock_call(family, num_layers):
    stock = tiny_pipeline(family, num_text_layers=num_layers)
    pipeline, quarter = own_pipeline(family, stock), num_layers // 4
    assert pipeline.text_layers() == (quarter, 2 * quarter, 3 * quarter)
    plain, _ = stock.encode_prompt("a circle", max_sequence_length=pipeline.max_sequence_length)
    (row,) = pipeline.encode(["a circle"])
    assert torch.equal(row["encoder_hidden_states"], plain[0])


def test_blocks_of_one_stream_get_a_lora():
    pipeline = DEV.ours(DEV.build())
    inject_adapter_in_model(LoraConfig(target_modules=list(pipeline.lora_targets)), pipeline.transformer)
    names = {name for name, _ in pipeline.transformer.named_modules()}
    for layer in ("to_qkv_mlp_proj", "to_out"):
        assert f"single_transformer_blocks.1.attn.{layer}.lora_A" in names


def test_the_transformers_text_features_are_several_of_the_text_encoders():
    pipeline = KLEIN.ours(KLEIN.build())
    pipeline.transformer.register_to_config(joint_attention_dim=40)
    assert "text features 40 wide" in pipeline.family_misfit()
