"""Z-Image in small: random weights, built without a download."""

import diffusers
import torch
import transformers

from .qwen import qwen3_config, qwen_tokenizer, speak_up


def build(*, num_layers: int = 2, dim: int = 32, text_width: int = 16, channels: int = 8, shift: float = 6.0):
    """A ``ZImagePipeline`` in evaluation mode; equal arguments give equal weights.

    Args:
        num_layers: blocks of the transformer.
        dim: its width, a multiple of 16.
        text_width: width of the text encoder.
        channels: of the latents.
        shift: of the scheduler.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tokenizer = qwen_tokenizer()
        text_encoder = transformers.Qwen3Model(qwen3_config(len(tokenizer), text_width, 3))
        speak_up(text_encoder)
        # two heads, whose width the axes of the rotary embedding share
        transformer = diffusers.ZImageTransformer2DModel(
            all_patch_size=(2,),
            all_f_patch_size=(1,),
            in_channels=channels,
            dim=dim,
            n_layers=num_layers,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=text_width,
            axes_dims=[dim // 4, dim // 8, dim // 8],
            axes_lens=[512, 32, 32],
        )
        # these start at zero
        torch.nn.init.normal_(transformer.x_pad_token)
        torch.nn.init.normal_(transformer.cap_pad_token)
        vae = diffusers.AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            layers_per_block=1,
            latent_channels=channels,
            norm_num_groups=4,
            sample_size=32,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
        return diffusers.ZImagePipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=shift),
            vae=vae.eval(),
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            transformer=transformer.eval(),
        )
