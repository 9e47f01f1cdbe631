"""The mini flow model's parts make a Stable Diffusion 3 of diffusers, and its words keep to their own tokens."""

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from ubgen_pipeline.mini import mini_model_path
from ubgen_training.mini.flow_model import TEXT_WIDTHS, assemble_pipeline, build_text_encoder, build_transformer


def test_plain_diffusers_draws_with_the_parts_and_a_word_changes_its_own_features_only():
    tokenizer = CLIPTokenizer.from_pretrained(mini_model_path(), subfolder="tokenizer")
    vae = AutoencoderKL.from_pretrained(mini_model_path(), subfolder="vae")
    # diffusers' Stable Diffusion 3 adds it
    vae.register_to_config(shift_factor=0.0)
    first, second = (build_text_encoder(tokenizer, width) for width in TEXT_WIDTHS)
    pipeline = assemble_pipeline(vae, build_transformer(num_layers=2, num_heads=1), (first, second), tokenizer)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("star", num_inference_steps=1, max_sequence_length=8, output_type="np").images[0]
    assert image.shape == (64, 64, 3)
    features = [
        pipeline.encode_prompt([text], None, None, do_classifier_free_guidance=False, max_sequence_length=1)[0]
        for text in ("a star on grass", "a ring on grass")
    ]
    changed = (features[0] != features[1]).any(dim=2)[0]
    # start token, "a", and then the class word
    assert changed.nonzero().flatten().tolist() == [2]
    assert not torch.equal(*(first(tokenizer(t, return_tensors="pt").input_ids).text_embeds for t in ("star", "ring")))
