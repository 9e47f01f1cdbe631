"""Models of several families at their real size, to count on: configurations of the published checkpoints.

On torch's ``meta`` device a network has shapes and no numbers, so that one of any size is built in a moment and its
calls compute nothing. Text encoders are left out, since a text is encoded once a class: what they make of a prompt is
stated as shapes, and their size as a number. Networks: ``published_networks.py``.

Shapes: B prompts, L tokens, D width of the text features.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import diffusers
import torch

from benchmarks import published_networks as networks
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
        text: the shape of each of the conditioning's tensors of one prompt, of a bare class name where its length
            counts.
        text_parameters: of all text encoders together.
        size: height and width of its images, in pixels.
        switches: arguments of the pipeline beside its parts.
        listed: whether the prompts of a batch stay apart.
        mask: name of the prompt's mask, where the denoiser reads one.
    """

    family: str
    hub_id: str
    networks: Callable[[], dict[str, Any]]
    scheduler: Callable[[], Any]
    text: Mapping[str, tuple[int, ...]]
    text_parameters: float
    size: int
    switches: Mapping[str, Any] = field(default_factory=dict)
    listed: bool = False
    mask: str | None = None

    def pipeline(self, dtype: torch.dtype = torch.float32) -> Family:
        """The family's pipeline, on torch's default device, without text encoders."""
        parts = self.networks()
        for network in parts.values():
            network.eval().requires_grad_(False)
            if dtype != network.dtype:
                network.to(dtype)
        with torch.device("cpu"):
            scheduler = self.scheduler()
        kind = FAMILIES[self.family].pipeline_class()
        absent = dict.fromkeys(kind.text_encoder_parts)
        tokenizers = {name.replace("text_encoder", "tokenizer"): None for name in absent}
        built = kind(**parts, scheduler=scheduler, **absent, **tokenizers, **self.switches)
        # some families tell a distilled model by its name
        built.register_to_config(_name_or_path=self.hub_id)
        return built

    def conditioning(self, rows: int, dtype: torch.dtype = torch.float32, device: str = "meta") -> Conditioning:
        """B prompts, of zeros."""

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        if self.listed:
            return Conditioning({name: [zeros(*shape) for _ in range(rows)] for name, shape in self.text.items()})
        tensors = {name: zeros(rows, *shape) for name, shape in self.text.items()}
        if self.mask is not None:
            # its numbers are read
            tensors[self.mask] = torch.ones(rows, self.text["encoder_hidden_states"][0], dtype=torch.long)
        return Conditioning(tensors)


_NOISE_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
# OpenAI's CLIP ViT-L, OpenCLIP's ViT-H without its last layer and ViT-bigG, T5-XXL's encoder, UMT5-XL's
_CLIP_L, _CLIP_H, _CLIP_G, _T5, _UMT5 = 123.1e6, 340.4e6, 694.7e6, 4762.3e6, 1223.6e6
_QWEN3_4B, _QWEN3_8B, _QWEN25_VL_7B, _GEMMA2_2B = 4022.5e6, 8190.7e6, 8292.2e6, 2614.3e6
_MINISTRAL_3B, _MISTRAL_SMALL_24B, _GLM4_9B = 3849.1e6, 24011.4e6, 8779.1e6


def _flow(shift: float = 1.0, **settings: Any) -> Callable[[], Any]:
    return lambda: diffusers.FlowMatchEulerDiscreteScheduler(shift=shift, **settings)


def _sd(**parts: Any) -> RealSizeModel:
    switches = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return RealSizeModel("sd", **parts, switches=switches)


def _sdxl(hub_id: str, scheduler: Callable[[], Any], size: int = 1024) -> RealSizeModel:
    text = {"encoder_hidden_states": (77, 2048), "text_embeds": (1280,)}
    return RealSizeModel("sdxl", hub_id, lambda: networks.sdxl(size // 8), scheduler, text, _CLIP_L + _CLIP_G, size)


def _sd35(hub_id: str, built: Callable[[], dict[str, Any]]) -> RealSizeModel:
    text = {"encoder_hidden_states": (77 + 256, 4096), "pooled_projections": (2048,)}
    return RealSizeModel("sd3", hub_id, built, _flow(3.0), text, _CLIP_L + _CLIP_G + _T5, 1024)


def _flux1(hub_id: str, scheduler: Callable[[], Any], *, guidance_embeds: bool) -> RealSizeModel:
    text = {"encoder_hidden_states": (512, 4096), "pooled_projections": (768,)}
    built = partial(networks.flux1, guidance_embeds=guidance_embeds)
    return RealSizeModel("flux", hub_id, built, scheduler, text, _CLIP_L + _T5, 1024)


def _z_image(hub_id: str, shift: float, *, is_distilled: bool) -> RealSizeModel:
    # a bare class name in the chat template
    text, switches = {"cap_feats": (32, 2560)}, {"is_distilled": is_distilled}
    return RealSizeModel("z-image", hub_id, networks.z_image, _flow(shift), text, _QWEN3_4B, 1024, switches, True)


def _klein(hub_id: str, built: Callable[[], dict[str, Any]], *, is_distilled: bool) -> RealSizeModel:
    is_small = built is networks.flux2_klein_4b
    text = {"encoder_hidden_states": (512, 7680 if is_small else 12288)}
    size, scheduler = _QWEN3_4B if is_small else _QWEN3_8B, _flow(3.0, use_dynamic_shifting=True)
    switches = {"is_distilled": is_distilled}
    return RealSizeModel("flux2-klein", hub_id, built, scheduler, text, size, 1024, switches)


def _sana(hub_id: str, built: Callable[[], dict[str, Any]], family: str = "sana") -> RealSizeModel:
    def scheduler() -> Any:
        if family == "sana-sprint":
            return diffusers.SCMScheduler(prediction_type="trigflow", sigma_data=0.5)
        flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
        return diffusers.DPMSolverMultistepScheduler(**flow)

    text, mask = {"encoder_hidden_states": (8, 2304)}, "encoder_attention_mask"
    return RealSizeModel(family, hub_id, built, scheduler, text, _GEMMA2_2B, 1024, mask=mask)


REAL_SIZE_MODELS = {
    "sd15": _sd(
        hub_id="stable-diffusion-v1-5/stable-diffusion-v1-5",
        networks=networks.sd15,
        scheduler=lambda: diffusers.PNDMScheduler(**_NOISE_SCHEDULE, skip_prk_steps=True),
        text={"encoder_hidden_states": (77, 768)},
        text_parameters=_CLIP_L,
        size=512,
    ),
    "sd21": _sd(
        hub_id="stabilityai/stable-diffusion-2-1",
        networks=networks.sd21,
        scheduler=lambda: diffusers.DDIMScheduler(
            **_NOISE_SCHEDULE, prediction_type="v_prediction", clip_sample=False
        ),
        text={"encoder_hidden_states": (77, 1024)},
        text_parameters=_CLIP_H,
        size=768,
    ),
    "sdxl": _sdxl(
        "stabilityai/stable-diffusion-xl-base-1.0", lambda: diffusers.EulerDiscreteScheduler(**_NOISE_SCHEDULE)
    ),
    "sdxl-turbo": _sdxl(
        "stabilityai/sdxl-turbo",
        lambda: diffusers.EulerAncestralDiscreteScheduler(**_NOISE_SCHEDULE, timestep_spacing="trailing"),
        512,
    ),
    "sdxl-lightning": _sdxl(
        "ByteDance/SDXL-Lightning",
        lambda: diffusers.EulerDiscreteScheduler(**_NOISE_SCHEDULE, timestep_spacing="trailing"),
    ),
    "sd35-medium": _sd35("stabilityai/stable-diffusion-3.5-medium", networks.sd35_medium),
    "sd35-large": _sd35("stabilityai/stable-diffusion-3.5-large", networks.sd35_large),
    "sd35-large-turbo": _sd35("stabilityai/stable-diffusion-3.5-large-turbo", networks.sd35_large),
    "flux1-dev": _flux1("black-forest-labs/FLUX.1-dev", _flow(3.0, use_dynamic_shifting=True), guidance_embeds=True),
    "flux1-schnell": _flux1("black-forest-labs/FLUX.1-schnell", _flow(), guidance_embeds=False),
    "z-image": _z_image("Tongyi-MAI/Z-Image", 6.0, is_distilled=False),
    "z-image-turbo": _z_image("Tongyi-MAI/Z-Image-Turbo", 3.0, is_distilled=True),
    "flux2-klein-base-4b": _klein(
        "black-forest-labs/FLUX.2-klein-base-4B", networks.flux2_klein_4b, is_distilled=False
    ),
    "flux2-klein-4b": _klein("black-forest-labs/FLUX.2-klein-4B", networks.flux2_klein_4b, is_distilled=True),
    "flux2-klein-base-9b": _klein(
        "black-forest-labs/FLUX.2-klein-base-9B", networks.flux2_klein_9b, is_distilled=False
    ),
    "flux2-klein-9b": _klein("black-forest-labs/FLUX.2-klein-9B", networks.flux2_klein_9b, is_distilled=True),
    "flux2-dev": RealSizeModel(
        "flux2-dev",
        "black-forest-labs/FLUX.2-dev",
        networks.flux2_dev,
        _flow(3.0, use_dynamic_shifting=True),
        {"encoder_hidden_states": (512, 15360)},
        _MISTRAL_SMALL_24B,
        1024,
    ),
    "qwen-image": RealSizeModel(
        "qwen-image",
        "Qwen/Qwen-Image",
        networks.qwen_image,
        _flow(use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02),
        # a class name and the end of the template
        {"encoder_hidden_states": (8, 3584)},
        _QWEN25_VL_7B,
        1024,
        mask="encoder_hidden_states_mask",
    ),
    "sana-1600m": _sana("Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers", networks.sana_1600m),
    "sana-600m": _sana("Efficient-Large-Model/Sana_600M_1024px_diffusers", networks.sana_600m),
    "sana-sprint-1600m": _sana(
        "Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers", networks.sana_sprint_1600m, "sana-sprint"
    ),
    "pixart-sigma": RealSizeModel(
        "pixart-sigma",
        "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
        networks.pixart_sigma,
        lambda: diffusers.DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
        {"encoder_hidden_states": (8, 4096)},
        _T5,
        1024,
        mask="encoder_attention_mask",
    ),
    "cogview4": RealSizeModel(
        "cogview4",
        "THUDM/CogView4-6B",
        networks.cogview4,
        _flow(use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear"),
        # filled up to a multiple of 16
        {"encoder_hidden_states": (16, 4096)},
        _GLM4_9B,
        1024,
        listed=True,
    ),
    "aura-flow": RealSizeModel(
        "aura-flow",
        "fal/AuraFlow-v0.2",
        networks.aura_flow,
        _flow(1.73),
        {"encoder_hidden_states": (256, 2048)},
        _UMT5,
        1024,
    ),
    "ernie-image": RealSizeModel(
        "ernie-image",
        "baidu/ERNIE-Image",
        networks.ernie_image,
        _flow(4.0),
        {"encoder_hidden_states": (8, 3072)},
        _MINISTRAL_3B,
        1024,
        mask="encoder_attention_mask",
    ),
    "lumina2": RealSizeModel(
        "lumina2",
        "Alpha-VLLM/Lumina-Image-2.0",
        networks.lumina2,
        _flow(6.0),
        # a class name behind the system prompt
        {"encoder_hidden_states": (40, 2304)},
        _GEMMA2_2B,
        1024,
        mask="encoder_attention_mask",
    ),
    "chroma": RealSizeModel(
        "chroma",
        "lodestones/Chroma1-HD",
        networks.chroma,
        _flow(use_dynamic_shifting=True),
        {"encoder_hidden_states": (512, 4096)},
        _T5,
        1024,
        mask="encoder_attention_mask",
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
