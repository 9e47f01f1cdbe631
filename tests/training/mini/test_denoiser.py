"""The mini denoiser: what it reads, where it attends, and that its training goes on where it stopped."""

import torch

from ubgen_training.mini.autoencoder import build_autoencoder
from ubgen_training.mini.denoiser import assemble_pipeline, build_unet, prompt_table, train_denoiser
from ubgen_training.mini.tokenizer import build_tokenizer


def test_prompt_table_holds_bare_name_caption_and_empty_prompt():
    tokenizer = build_tokenizer()
    table = prompt_table(["a photo of a striped star on sand"], ["star"], tokenizer)
    assert table.shape == (1, 3, tokenizer.model_max_length)
    texts = [tokenizer.decode(row, skip_special_tokens=True).strip() for row in table[0]]
    assert texts == ["star", "a photo of a striped star on sand", ""]


def test_unet_has_cross_and_self_attention_at_16_and_8():
    resolutions = {16: set(), 8: set()}
    unet = build_unet()

    def hook(name):
        return lambda module, args, output: resolutions[int(output.shape[1] ** 0.5)].add(name)

    for name, module in unet.named_modules():
        if name.endswith(("attn1", "attn2")):
            module.register_forward_hook(hook(name[-5:]))
    with torch.no_grad():
        unet(torch.zeros(1, 4, 16, 16), 1, torch.zeros(1, 24, 96))
    assert resolutions == {16: {"attn1", "attn2"}, 8: {"attn1", "attn2"}}


def test_training_goes_on_where_it_stopped_and_the_parts_make_a_pipeline(tmp_path):
    """Two updates, one of them after a stop, are those of one call; plain diffusers draws with what comes out."""
    tokenizer = build_tokenizer()
    prompts = prompt_table(["a star on sand", "a ring on grass"], ["star", "ring"], tokenizer)
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    settings = {"num_steps": 2, "batch_size": 2, "seed": 3}
    unet, text_encoder = train_denoiser(latents, prompts, tokenizer, tmp_path / "straight", **settings)
    train_denoiser(latents, prompts, tokenizer, tmp_path / "stopped", max_seconds=0.0, **settings)
    resumed, _ = train_denoiser(latents, prompts, tokenizer, tmp_path / "stopped", **settings)
    assert all(torch.equal(a, b) for a, b in zip(unet.parameters(), resumed.parameters()))
    pipeline = assemble_pipeline(build_autoencoder(), unet, text_encoder, tokenizer)
    assert pipeline("star", num_inference_steps=1, output_type="np").images.shape == (1, 64, 64, 3)
