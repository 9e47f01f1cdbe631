"""Models of several families at their real size, to count on: configurations of the published checkpoints.

On torch's ``meta`` device a network has shapes and no numbers, so that one of any size is built in a moment and its
calls compute nothing. Text encoders are left out, since a text is encoded once a class: what they make of a prompt is
stated as shapes, and their size as a number.

Shapes: B prompts, L tokens, D width of the text features.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
import torch

from benchmarks.real_size_models import build_unet, build_vae
from ubgen_pipeline.conditioning import Conditioning
from ubgen_pipeline.family import Family
from ubgen_pipeline.models.families import FAMILIES


@dataclass(frozen=True)
class RealSizeModel:
    """A published model.

    Attributes:
        family: its name in the registry of families.
        hub_id: of the published checkpoint.
        networks: gives denoiser and VAE by their names, on torch's default device.
        scheduler: gives the scheduler.
        text: the shape of each of the conditioning's tensors of one prompt.
        text_parameters: of all text encoders together.
        size: height and width of its images, in pixels.
        switches: arguments of the pipeline beside its parts.
        listed: whether the prompts of a batch stay apart.
    """

    family: str
    hub_id: str
    networks: Callable[[], dict[str, Any]]
    scheduler: Callable[[], Any]
    text: Mapping[str, tuple[int, ...]]
    text_parameters: float
    size: int
    switches: Mapping[str, Any]
    listed: bool = False

    def pipeline(self, dtype: torch.dtype = torch.float32) -> Family:
        """The family's pipeline, on torch's default device, without text encoders."""
        networks = self.networks()
        for network in networks.values():
            network.eval().requires_grad_(False)
            if dtype != network.dtype:
                network.to(dtype)
        with torch.device("cpu"):
            scheduler = self.scheduler()
        kind = FAMILIES[self.family].pipeline_class()
        absent = dict.fromkeys(kind.text_encoder_parts)
        tokenizers = {name.replace("text_encoder", "tokenizer"): None for name in absent}
        return kind(**networks, scheduler=scheduler, **absent, **tokenizers, **self.switches)

    def conditioning(self, rows: int, dtype: torch.dtype = torch.float32, device: str = "meta") -> Conditioning:
        """B prompts, of zeros."""

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        if self.listed:
            return Conditioning({name: [zeros(*shape) for _ in range(rows)] for name, shape in self.text.items()})
        return Conditioning({name: zeros(rows, *shape) for name, shape in self.text.items()})


def _sd15() -> dict[str, Any]:
    return {"unet": build_unet(), "vae": build_vae()}


def _sdxl() -> dict[str, Any]:
    unet = diffusers.UNet2DConditionModel(
        sample_size=128,
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
    return {"unet": unet, "vae": _autoencoder(4, sample_size=1024, scaling_factor=0.13025, force_upcast=True)}


def _sd35_medium() -> dict[str, Any]:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=128,
        num_layers=24,
        attention_head_dim=64,
        num_attention_heads=24,
        joint_attention_dim=4096,
        caption_projection_dim=1536,
        pooled_projection_dim=2048,
        pos_embed_max_size=384,
        dual_attention_layers=tuple(range(13)),
        qk_norm="rms_norm",
    )
    return {"transformer": transformer, "vae": _flow_autoencoder(1.5305, 0.0609)}


def _z_image() -> dict[str, Any]:
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


def _flux2_klein_base() -> dict[str, Any]:
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=128,
        num_layers=5,
        num_single_layers=20,
        attention_head_dim=128,
        num_attention_heads=24,
        joint_attention_dim=3 * 2560,
        guidance_embeds=False,
    )
    return {"transformer": transformer, "vae": diffusers.AutoencoderKLFlux2()}


def _autoencoder(latent_channels: int, **settings: Any) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=latent_channels,
        **settings,
    )


def _flow_autoencoder(scaling_factor: float, shift_factor: float) -> diffusers.AutoencoderKL:
    factors = {"scaling_factor": scaling_factor, "shift_factor": shift_factor}
    return _autoencoder(16, **factors, use_quant_conv=False, use_post_quant_conv=False)


_NOISE_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
# CLIP ViT-L's and OpenCLIP ViT-bigG's text encoders, T5-XXL's encoder, Qwen3-4B
_CLIP_L, _CLIP_G, _T5, _QWEN3 = 123.1e6, 694.7e6, 4762.3e6, 4022.5e6
REAL_SIZE_MODELS = {
    "sd15": RealSizeModel(
        "sd",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        _sd15,
        lambda: diffusers.PNDMScheduler(**_NOISE_SCHEDULE, skip_prk_steps=True),
        {"encoder_hidden_states": (77, 768)},
        _CLIP_L,
        512,
        {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
    ),
    "sdxl": RealSizeModel(
        "sdxl",
        "stabilityai/stable-diffusion-xl-base-1.0",
        _sdxl,
        lambda: diffusers.EulerDiscreteScheduler(**_NOISE_SCHEDULE),
        {"encoder_hidden_states": (77, 2048), "text_embeds": (1280,)},
        _CLIP_L + _CLIP_G,
        1024,
        {},
    ),
    "sd35-medium": RealSizeModel(
        "sd3",
        "stabilityai/stable-diffusion-3.5-medium",
        _sd35_medium,
        lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        {"encoder_hidden_states": (77 + 256, 4096), "pooled_projections": (2048,)},
        _CLIP_L + _CLIP_G + _T5,
        1024,
        {},
    ),
    "z-image": RealSizeModel(
        "z-image",
        "Tongyi-MAI/Z-Image",
        _z_image,
        lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0),
        # a bare class name in the chat template
        {"cap_feats": (32, 2560)},
        _QWEN3,
        1024,
        {"is_distilled": False},
        listed=True,
    ),
    "flux2-klein-base-4b": RealSizeModel(
        "flux2-klein",
        "black-forest-labs/FLUX.2-klein-base-4B",
        _flux2_klein_base,
        lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        {"encoder_hidden_states": (512, 7680)},
        _QWEN3,
        1024,
        {"is_distilled": False},
    ),
}


def real_size_model(name: str, argument: str = "model") -> RealSizeModel:
    """The model of that short name or Hub id.

    Raises:
        ValueError: no configuration of it is known here.
    """
    for short, model in REAL_SIZE_MODELS.items():
        if name in (short, model.hub_id):
            return model
    raise ValueError(f"{argument} is {name!r}; choose one of {', '.join(REAL_SIZE_MODELS)}.")
