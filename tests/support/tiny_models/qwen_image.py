"""Qwen-Image in small: random weights, built without a download."""

import diffusers
import torch
import transformers

from .qwen import qwen_tokenizer, speak_up

# its call takes latents packed into tokens
IS_PACKED = True


def build(*, num_layers: int = 2, num_heads: int = 3, text_width: int = 16, latent_channels: int = 4):
    """A ``QwenImagePipeline`` in evaluation mode; equal arguments give equal weights.

    Args:
        num_layers: blocks of the transformer.
        num_heads: of its attention, each 16 wide.
        text_width: width of the text encoder.
        latent_channels: of the VAE, a quarter of the transformer's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = qwen_tokenizer(1024)
        text_config = {
            "hidden_size": text_width,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
            "rope_theta": 1e6,
            "bos_token_id": None,
            "eos_token_id": None,
        }
        vision_config = {
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": text_width,
        }
        text_encoder = transformers.Qwen2_5_VLForConditionalGeneration(
            transformers.Qwen2_5_VLConfig(
                text_config=text_config, vision_config=vision_config, hidden_size=text_width, vocab_size=len(tokenizer)
            )
        )
        speak_up(text_encoder)
        transformer = diffusers.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=4 * latent_channels,
            out_channels=latent_channels,
            num_layers=num_layers,
            attention_head_dim=16,
            num_attention_heads=num_heads,
            joint_attention_dim=text_width,
            axes_dims_rope=(8, 4, 4),
        )
        vae = diffusers.AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=latent_channels,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[False],
            latents_mean=[0.1 * channel for channel in range(latent_channels)],
            latents_std=[1.5 + 0.1 * channel for channel in range(latent_channels)],
        )
        return diffusers.QwenImagePipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02),
            vae=vae.eval(),
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            transformer=transformer.eval(),
        )
