"""The mini model's text encoder and UNet, trained together on latents of the biased world.

Velocity target, with Min-SNR weights unless others are asked for.
"""

import time
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..denoising.denoising_loss import DenoisingLoss, target_of
from ..denoising.latent_model import stratified
from .scene_batches import index_batches, mixed_precision
from .state import ExponentialAverage, load_training_state, save_training_state

TEXT_WIDTH = 96
# shares of the prompts that a scene is shown with; the rest is empty, for guidance
BARE_NAME_SHARE, CAPTION_SHARE = 0.65, 0.25
NOISE_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "prediction_type": "v_prediction",
}


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The untrained text encoder: token ids ``(B, L)`` to features ``(B, L, 96)``."""
    special: dict[str, Any] = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        **special,
    )
    return CLIPTextModel(config)


def build_unet() -> UNet2DConditionModel:
    """The untrained UNet, of latents ``(B, 4, 16, 16)``."""
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(80, 160),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def prompt_table(captions: list[str], names: list[str], tokenizer: CLIPTokenizer) -> torch.Tensor:
    """Token ids ``(N, 3, L)``: bare name, full caption, empty prompt of every scene."""
    known: dict[str, torch.Tensor] = {}
    for text in {*captions, *names, ""}:
        known[text] = tokenizer(
            text, padding="max_length", truncation=True, max_length=tokenizer.model_max_length, return_tensors="pt"
        ).input_ids[0]
    return torch.stack([torch.stack([known[n], known[c], known[""]]) for n, c in zip(names, captions)])


def train_denoiser(
    latents: torch.Tensor,
    prompts: torch.Tensor,
    tokenizer: CLIPTokenizer,
    work_dir: Path,
    *,
    num_steps: int,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    max_seconds: float = float("inf"),
    seed: int = 0,
    weighting: str = "min_snr",
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Train on scaled ``latents (N, 4, 16, 16)`` with token ids ``prompts (N, 3, L)``; returns the averaged weights.

    ``weighting`` is a key of :data:`ubgen_training.denoising.denoising_loss.CLEAN_WEIGHTS`. Stops early
    after ``max_seconds``; called again with the same ``work_dir`` it goes on.
    """
    torch.manual_seed(seed)
    unet, text_encoder = build_unet(), build_text_encoder(tokenizer)
    # plain attention: the fused kernel's backward is slower on a CPU at these head sizes
    unet.set_attn_processor(AttnProcessor())
    parameters = {f"unet.{n}": p for n, p in unet.named_parameters()}
    parameters |= {f"text_encoder.{n}": p for n, p in text_encoder.named_parameters()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01)
    averages = ExponentialAverage(parameters, decay=0.9985)
    state_file = work_dir / "denoiser.safetensors"
    step = load_training_state(state_file, parameters, optimizer, averages)
    scheduler = DDPMScheduler(**NOISE_SCHEDULE)
    denoising_loss = DenoisingLoss(scheduler.alphas_cumprod, weighting, target_of(NOISE_SCHEDULE["prediction_type"]))
    started, first_step, running_loss = time.monotonic(), step, 0.0
    for batch in index_batches(len(latents), batch_size, seed=seed, start_step=step, num_steps=num_steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step + 500_009)
        clean, noise = latents[batch], torch.randn(batch_size, *latents.shape[1:], generator=generator)
        timesteps = stratified(batch_size, len(scheduler.alphas_cumprod), generator)
        place = torch.rand(batch_size, generator=generator)
        column = (place >= BARE_NAME_SHARE).long() + (place >= BARE_NAME_SHARE + CAPTION_SHARE).long()
        noisy = denoising_loss.add_noise(clean, noise, timesteps)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 300) * max(0.03, 1 - step / num_steps)
        with mixed_precision():
            prompt_embeds = text_encoder(prompts[batch, column]).last_hidden_state
            predicted = unet(noisy, timesteps, prompt_embeds).sample
        loss = denoising_loss(predicted, clean, noise, timesteps).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        step += 1
        averages.update(parameters, step)
        running_loss += loss.item()
        elapsed = time.monotonic() - started
        if step % 50 == 0:
            rate = (step - first_step) / elapsed
            left = (num_steps - step) / rate
            print(
                f"denoiser {step}/{num_steps} loss {running_loss / 50:.5f} {rate:.2f} steps/s {left:.0f} s left",
                flush=True,
            )
            running_loss = 0.0
        if step % 250 == 0 or step == num_steps or elapsed > max_seconds:
            save_training_state(state_file, step, parameters, optimizer, averages)
        if elapsed > max_seconds:
            break
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(averages.averages[name])
    unet.set_default_attn_processor()
    return unet.eval(), text_encoder.eval()


def assemble_pipeline(
    vae: AutoencoderKL, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    """A plain diffusers pipeline of the trained parts."""
    parts: dict[str, Any] = {
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "unet": unet,
        "scheduler": DDIMScheduler(**NOISE_SCHEDULE, set_alpha_to_one=False, steps_offset=1),
        "safety_checker": None,
        "feature_extractor": None,
    }
    return StableDiffusionPipeline(**parts, requires_safety_checker=False)
