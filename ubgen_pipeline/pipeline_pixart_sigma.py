"""PixArt-Sigma: the family, and its pipeline.

diffusers adds no LoRA to this denoiser. Here one is injected by peft, and written and read in peft's own layout
(``adapter_model.safetensors`` beside ``adapter_config.json``), which ``peft.PeftModel.from_pretrained`` reads, too.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import PixArtSigmaPipeline
from diffusers.utils.peft_utils import recurse_remove_peft_layers, set_weights_and_activate_adapters
from safetensors.torch import load_file, save_file

from .call_arguments import TextSettings
from .conditioning import Conditioning, unpadded
from .family import Family
from .mask_attention import JointMaskAttention
from .mask_settings import MaskSettings, joint_mask_settings
from .pipeline_call import ClassNameCall
from .templated_prompts import TemplatedTokenizer

if TYPE_CHECKING:
    # what those import, named for diffusers' loader by `make helper-imports`
    from .annotations import SampleAnnotation  # noqa: F401
    from .attention_maps import ClassTexts  # noqa: F401
    from .attention_masks import AttentionMask  # noqa: F401
    from .class_tokens import append_class_words  # noqa: F401
    from .concept_attention import ConceptTexts  # noqa: F401
    from .deep_features import DeepFeatureDenoiser  # noqa: F401
    from .diversity import AnnealedConditioning  # noqa: F401
    from .diversity_settings import Cads  # noqa: F401
    from .initial_latents import draw_latents  # noqa: F401
    from .joint_attention import JointAttention  # noqa: F401
    from .latent_denoising import DenoisingStep  # noqa: F401
    from .mask_regions import MaskObject  # noqa: F401
    from .pipeline_output import UbGenOutput  # noqa: F401
    from .prompt_encoding import token_chunks  # noqa: F401
    from .prompt_weights import Fragment  # noqa: F401
    from .sample_seeds import sample_seed  # noqa: F401
    from .sampling_features import Walk  # noqa: F401
    from .saved_code import code_files  # noqa: F401
    from .scheduler_noise import is_flow_scheduler  # noqa: F401
    from .source_images import SourceImages  # noqa: F401


LORA_FILE, LORA_CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
# what peft puts before each weight's name
_PEFT_PREFIX = "base_model.model."


class PeftFileLora:
    """The members of diffusers' LoRA mixins, for a denoiser called ``transformer`` that has none of its own."""

    transformer: Any
    lora_file = LORA_FILE

    @classmethod
    def lora_state_dict(
        cls, source: str | Path, *, return_lora_metadata: bool = False, revision: str | None = None, **_: Any
    ) -> Any:
        """The weights ``{"transformer.<module>.lora_A.weight": (r, in), ...}`` of a LoRA in peft's layout.

        Args:
            source: a folder, the file of weights in it, or a Hub id.
            return_lora_metadata: return (weights, what the file of settings holds).
            revision: on the Hub.

        Raises:
            OSError: nothing there.
            ValueError: an adapter of another kind.
        """
        weights_file, config_file = (_peft_file(source, name, revision) for name in (LORA_FILE, LORA_CONFIG_FILE))
        if not config_file.is_file():
            raise FileNotFoundError(
                f"{LORA_CONFIG_FILE}, in which peft says ranks and alphas, is missing beside {weights_file.name}."
            )
        config = json.loads(config_file.read_text(encoding="utf-8"))
        if config.get("peft_type") != "LORA":
            raise ValueError(f"{config_file.name} has the peft_type {config.get('peft_type')!r}; give a LoRA's.")
        weights = load_file(weights_file)
        weights = {f"transformer.{name.removeprefix(_PEFT_PREFIX)}": value for name, value in weights.items()}
        return (weights, config) if return_lora_metadata else weights

    def load_lora_weights(
        self, source: str | Path, adapter_name: str | None = None, *, revision: str | None = None, **_: Any
    ) -> None:
        """Add the LoRA to the denoiser and switch it alone on; raises as :meth:`lora_state_dict`, and where it does
        not fit."""
        from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

        weights, config = self.lora_state_dict(source, return_lora_metadata=True, revision=revision)
        name = adapter_name or f"default_{len(self.get_list_adapters().get('transformer', ()))}"
        inject_adapter_in_model(LoraConfig.from_peft_type(**config), self.transformer, name)
        own = {key.removeprefix("transformer."): value for key, value in weights.items()}
        unread = set_peft_model_state_dict(self.transformer, own, name).unexpected_keys
        if unread:
            raise ValueError(f"the LoRA's {unread[0]!r} belongs to no layer that its target_modules name.")
        self.set_adapters(name)

    @classmethod
    def save_lora_weights(
        cls,
        save_directory: str | Path,
        transformer_lora_layers: Mapping[str, torch.Tensor] | None = None,
        *,
        is_main_process: bool = True,
        weight_name: str | None = None,
        save_function: Callable[..., Any] | None = None,
        safe_serialization: bool = True,
        transformer_lora_adapter_metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the LoRA ``{"<module>.lora_A.weight": (r, in), ...}`` in peft's layout, safetensors only.

        Args:
            save_directory: made where it is missing.
            transformer_lora_layers: as ``peft.get_peft_model_state_dict`` gives them.
            is_main_process: False writes nothing.
            weight_name: of the file of weights.
            save_function, safe_serialization: of diffusers' members of this name; not used.
            transformer_lora_adapter_metadata: ``LoraConfig.to_dict()``, with lists in place of sets.
        """
        if not is_main_process:
            return
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {f"{_PEFT_PREFIX}{name}": value for name, value in (transformer_lora_layers or {}).items()}
        save_file(weights, folder / (weight_name or LORA_FILE), metadata={"format": "pt"})
        config = json.dumps(dict(transformer_lora_adapter_metadata or {}), indent=2, sort_keys=True)
        (folder / LORA_CONFIG_FILE).write_text(config + "\n", encoding="utf-8")

    def get_list_adapters(self) -> dict[str, list[str]]:
        """Names of the LoRAs that were added, by part."""
        names = list(getattr(self.transformer, "peft_config", {}))
        return {"transformer": names} if names else {}

    def set_adapters(self, adapter_names: str | Sequence[str], adapter_weights: Any = None) -> None:
        """Switch these LoRAs on, with a strength for each or one for all, and all others off."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        strengths = adapter_weights if isinstance(adapter_weights, (list, tuple)) else [adapter_weights] * len(names)
        strengths = [1.0 if strength is None else strength for strength in strengths]
        set_weights_and_activate_adapters(self.transformer, names, strengths)

    def fuse_lora(self, components: Sequence[str] = ("transformer",), lora_scale: float = 1.0, **_: Any) -> None:
        """Add what is switched on to the weights themselves."""
        from peft.tuners.lora import LoraLayer

        for layer in self.transformer.modules():
            if isinstance(layer, LoraLayer):
                layer.scale_layer(lora_scale)
                layer.merge()

    def unload_lora_weights(self) -> None:
        """Take all LoRAs off the denoiser; what was fused stays in its weights."""
        recurse_remove_peft_layers(self.transformer)
        if hasattr(self.transformer, "peft_config"):
            del self.transformer.peft_config


def _peft_file(source: str | Path, name: str, revision: str | None) -> Path:
    """A file of a LoRA in peft's layout, in a folder, beside the file of weights, or on the Hub."""
    place = Path(source).expanduser()
    if place.is_file():
        return place if name == LORA_FILE else place.with_name(name)
    if place.is_dir():
        return place / name
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(str(source), name, revision=revision))


class PixArtSigmaParts(PeftFileLora, Family):
    """What of PixArt-Sigma the call is made of; the members are described in :class:`.Family`."""

    denoiser_part = "transformer"
    text_encoder_parts = ("text_encoder",)
    title = "PixArt-Sigma"
    text_width_name = "caption_channels"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")
    default_num_inference_steps = 20
    default_guidance_scale = 4.5
    # tokens of a prompt, as the stock call takes them
    max_sequence_length = 300

    transformer: Any
    text_encoder: Any
    tokenizer: Any
    encode_prompt: Any
    _text_preprocessing: Any

    def encode_one(self, prompt: str, text: TextSettings, lora_scale: float | None) -> Conditioning:
        """``encoder_hidden_states (L, D)`` and ``encoder_attention_mask (L,)``."""
        features, mask, *_ = self.encode_prompt(
            [prompt], False, clean_caption=False, max_sequence_length=self.max_sequence_length
        )
        return unpadded(features[0], mask[0])

    @property
    def prompt_tokenizer(self) -> TemplatedTokenizer:
        # as the stock call writes prompts
        return TemplatedTokenizer(self.tokenizer, lambda prompt: prompt.lower().rstrip(), with_marks=True)

    @property
    def mask_attention(self) -> JointMaskAttention:
        blocks = self.transformer.transformer_blocks
        return JointMaskAttention(
            self,
            [block.attn2 for block in blocks],
            readers=[(self.prompt_tokenizer, self.prompt_tokens)],
            refining_layers=[block.attn1 for block in blocks],
            text_embedding=[self.transformer.caption_projection],
        )

    @classmethod
    def mask_settings_of(cls, config: Mapping[str, Any]) -> MaskSettings:
        """Blocks as deep as those that FLUX.1's masks are made of, and the paper's class prompts; which are best was
        not measured."""
        return replace(joint_mask_settings(config["num_layers"]), class_prompt=True)

    def predict(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        conditioning: Conditioning,
        *,
        attention_kwargs: dict[str, Any] | None = None,
        network: Any | None = None,
    ) -> torch.Tensor:
        with self.scaled_lora(attention_kwargs) as kwargs:
            prediction = (self.transformer if network is None else network)(
                latents,
                timestep=timestep.expand(len(latents)),
                **conditioning.tensors,
                # what only the models before Sigma read
                added_cond_kwargs={"resolution": None, "aspect_ratio": None},
                cross_attention_kwargs=kwargs,
                return_dict=False,
            )[0]
        # the second half of the channels is a variance, which no scheduler of diffusers reads
        return prediction[:, : latents.shape[1]]


class UbGenPixArtSigmaPipeline(ClassNameCall, PixArtSigmaParts, PixArtSigmaPipeline):
    """Draws labelled images from class names with a PixArt-Sigma checkpoint in diffusers layout.

    Loading, offloading and schedulers are those of ``PixArtSigmaPipeline``; for its LoRA see :class:`PeftFileLora`.
    """

    example_model = "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS"
