"""Denoisers and VAEs of published checkpoints, by their configurations, on torch's default device.

Each function gives the two by their names in the pipeline. The configurations are those of the checkpoints' own files
on the Hub, and of diffusers' conversion scripts. What a class of diffusers has as its default is that of its first
checkpoint, and is left out.
"""

from typing import Any

import diffusers

from benchmarks.real_size_models import build_unet, build_vae


def sd15() -> dict[str, Any]:
    return {"unet": build_unet(), "vae": build_vae()}


def sd21() -> dict[str, Any]:
    unet = diffusers.UNet2DConditionModel(
        sample_size=96,
        block_out_channels=(320, 640, 1280, 1280),
        attention_head_dim=(5, 10, 20, 20),  # pyright: ignore[reportArgumentType]
        cross_attention_dim=1024,
        use_linear_projection=True,
    )
    return {"unet": unet, "vae": _autoencoder(4, sample_size=768)}


def sdxl(sample_size: int = 128) -> dict[str, Any]:
    """Also of what was distilled from it; ``sample_size`` is the side of its latents."""
    unet = diffusers.UNet2DConditionModel(
        sample_size=sample_size,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),  # pyright: ignore[reportArgumentType]
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        use_linear_projection=True,
    )
    return {"unet": unet, "vae": _sdxl_autoencoder()}


def sd35_medium() -> dict[str, Any]:
    return _sd35(24, pos_embed_max_size=384, dual_attention_layers=tuple(range(13)))


def sd35_large() -> dict[str, Any]:
    return _sd35(38, pos_embed_max_size=192)


def _sd35(num_layers: int, **settings: Any) -> dict[str, Any]:
    """As many blocks as heads."""
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=128,
        num_layers=num_layers,
        attention_head_dim=64,
        num_attention_heads=num_layers,
        joint_attention_dim=4096,
        caption_projection_dim=64 * num_layers,
        pooled_projection_dim=2048,
        qk_norm="rms_norm",
        **settings,
    )
    return {"transformer": transformer, "vae": _flow_autoencoder(1.5305, 0.0609)}


def flux1(*, guidance_embeds: bool) -> dict[str, Any]:
    """dev with the number of the guidance, schnell without."""
    transformer = diffusers.FluxTransformer2DModel(guidance_embeds=guidance_embeds)
    return {"transformer": transformer, "vae": _flow_autoencoder(0.3611, 0.1159)}


def z_image() -> dict[str, Any]:
    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=16,
        dim=3840,
        n_layers=30,
        n_refiner_layers=2,
        n_heads=30,
        n_kv_heads=30,
        cap_feat_dim=2560,
        axes_dims=[32, 48, 48],
        axes_lens=[1024, 512, 512],
    )
    return {"transformer": transformer, "vae": _flow_autoencoder(0.3611, 0.1159)}


def flux2_klein_4b() -> dict[str, Any]:
    """Also of klein-base."""
    return _flux2(num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=3 * 2560)


def flux2_klein_9b() -> dict[str, Any]:
    """Also of klein-base."""
    return _flux2(num_layers=8, num_single_layers=24, num_attention_heads=32, joint_attention_dim=3 * 4096)


def flux2_dev() -> dict[str, Any]:
    return _flux2(guidance_embeds=True)


def _flux2(*, guidance_embeds: bool = False, **sizes: int) -> dict[str, Any]:
    transformer = diffusers.Flux2Transformer2DModel(guidance_embeds=guidance_embeds, **sizes)
    return {"transformer": transformer, "vae": diffusers.AutoencoderKLFlux2()}


def qwen_image() -> dict[str, Any]:
    return {"transformer": diffusers.QwenImageTransformer2DModel(), "vae": diffusers.AutoencoderKLQwenImage()}


def sana_1600m() -> dict[str, Any]:
    return {"transformer": diffusers.SanaTransformer2DModel(), "vae": _deep_compression_autoencoder()}


def sana_600m() -> dict[str, Any]:
    transformer = diffusers.SanaTransformer2DModel(
        num_attention_heads=36,
        num_layers=28,
        num_cross_attention_heads=16,
        cross_attention_head_dim=72,
        cross_attention_dim=1152,
    )
    return {"transformer": transformer, "vae": _deep_compression_autoencoder()}


def sana_sprint_1600m() -> dict[str, Any]:
    transformer = diffusers.SanaTransformer2DModel(guidance_embeds=True, qk_norm="rms_norm_across_heads")
    return {"transformer": transformer, "vae": _deep_compression_autoencoder()}


def pixart_sigma() -> dict[str, Any]:
    transformer = diffusers.PixArtTransformer2DModel(
        interpolation_scale=2, use_additional_conditions=False, caption_channels=4096
    )
    return {"transformer": transformer, "vae": _sdxl_autoencoder()}


def cogview4() -> dict[str, Any]:
    transformer = diffusers.CogView4Transformer2DModel(num_layers=28, attention_head_dim=128, num_attention_heads=32)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(128, 512, 1024, 1024),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=3,
        latent_channels=16,
        sample_size=1024,
        scaling_factor=1.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )
    return {"transformer": transformer, "vae": vae}


def aura_flow() -> dict[str, Any]:
    transformer = diffusers.AuraFlowTransformer2DModel(pos_embed_max_size=4096)
    return {"transformer": transformer, "vae": _sdxl_autoencoder()}


def ernie_image() -> dict[str, Any]:
    transformer = diffusers.ErnieImageTransformer2DModel(
        hidden_size=4096, num_attention_heads=32, num_layers=36, ffn_hidden_size=12288, text_in_dim=3072
    )
    return {"transformer": transformer, "vae": diffusers.AutoencoderKLFlux2()}


def lumina2() -> dict[str, Any]:
    transformer = diffusers.Lumina2Transformer2DModel(cap_feat_dim=2304)
    return {"transformer": transformer, "vae": _flow_autoencoder(0.3611, 0.1159)}


def chroma() -> dict[str, Any]:
    return {"transformer": diffusers.ChromaTransformer2DModel(), "vae": _flow_autoencoder(0.3611, 0.1159)}


def _autoencoder(latent_channels: int, **settings: Any) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=latent_channels,
        **settings,
    )


def _sdxl_autoencoder() -> diffusers.AutoencoderKL:
    return _autoencoder(4, sample_size=1024, scaling_factor=0.13025, force_upcast=True)


def _flow_autoencoder(scaling_factor: float, shift_factor: float) -> diffusers.AutoencoderKL:
    factors = {"scaling_factor": scaling_factor, "shift_factor": shift_factor}
    return _autoencoder(16, **factors, use_quant_conv=False, use_post_quant_conv=False)


def _deep_compression_autoencoder() -> diffusers.AutoencoderDC:
    blocks = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    return diffusers.AutoencoderDC(
        encoder_block_types=blocks,  # pyright: ignore[reportArgumentType]
        decoder_block_types=blocks,  # pyright: ignore[reportArgumentType]
        upsample_block_type="interpolate",
        downsample_block_type="Conv",
        scaling_factor=0.41407,
    )
