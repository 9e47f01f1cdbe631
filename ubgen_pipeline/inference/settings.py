"""How fast a dataset is drawn: the settings, and what they came to for one dataset. No torch.

Whatever changes pixels, if only by rounding, belongs to :class:`Inference`. It is chosen once for a dataset and kept
in its manifest, from which a resume takes it. How many batches are drawn at the same time changes no pixel, so it does
not belong there.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..commands.settings_parser import field_help
from ..files.image_codecs import CODECS, check_codec
from ..models.quantization import QUANTIZATION_DTYPE, QUANTIZATIONS

COMPILE_CHOICES = ("auto", "on", "off")
DTYPES = ("float32", "float16", "bfloat16")
OFFLOADS = ("none", "text", "model", "group")


@dataclass(frozen=True)
class InferenceSettings:
    """What trades time, memory and rounding.

    Where a setting is None or ``auto``, a value is chosen for the machine, and a resume keeps it.
    """

    batch_size: int | None = field_help(
        "samples denoised together; fitted to the memory if not given, and kept by a resume", None
    )
    threads: int | None = field_help(
        "CPU threads of a batch, as many batches being drawn at once as there are cores for; chosen if not given, and"
        " kept by a resume",
        None,
    )
    dtype: str | None = field_help(
        f"precision of the model, {', '.join(DTYPES)}; if not given, the model's own on a GPU (float16 for UNets,"
        " bfloat16 for transformers) and float32 elsewhere",
        None,
    )
    compile: str = field_help(
        "torch.compile: on, off, or auto, which compiles where the job is long enough to make up for it", "auto"
    )
    offload: str | None = field_help(
        "what waits in the CPU's memory where the GPU's is too small: none; text, the text encoders, which encode all"
        " prompts before; model, each network until its turn; or group, each block of a network. none if not given,"
        " and kept by a resume",
        None,
    )
    quantization: str | None = field_help(
        "weights of the denoiser and the text encoders in less memory: none; int8, 8 bits a weight (torchao); or nf4,"
        " 4 bits, on a GPU (bitsandbytes). Images differ a little. none if not given, and kept by a resume",
        None,
    )
    prompt_features: str | None = field_help(
        "folder that keeps what the text encoders make of prompts, so that later runs need not encode them again", None
    )
    codec: str = field_help(f"of the image column: {', '.join(CODECS)} (which loses a little)", "png")

    def check_inference(self) -> None:
        """Raise ``ValueError`` for a value that no dataset can have."""
        for name in ("batch_size", "threads"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} is {value!r}; give an integer of at least 1.")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ValueError(f"dtype is {self.dtype!r}; choose one of {', '.join(DTYPES)}.")
        if self.offload is not None and self.offload not in OFFLOADS:
            raise ValueError(f"offload is {self.offload!r}; choose one of {', '.join(OFFLOADS)}.")
        if self.offload in ("model", "group") and self.compile == "on":
            raise ValueError(f"offload is {self.offload!r} and compile on; give compile off, or offload text.")
        if self.quantization is not None and self.quantization not in QUANTIZATIONS:
            raise ValueError(f"quantization is {self.quantization!r}; choose one of {', '.join(QUANTIZATIONS)}.")
        if self.quantization not in (None, "none"):
            if self.dtype not in (None, QUANTIZATION_DTYPE):
                raise ValueError(
                    f"quantization is {self.quantization!r} and dtype {self.dtype}; leave dtype out, which is then"
                    f" {QUANTIZATION_DTYPE}."
                )
            if self.offload == "group":
                raise ValueError(
                    f"quantization is {self.quantization!r} and offload group, which moves plain weights only; give"
                    " offload model."
                )
        if self.compile not in COMPILE_CHOICES:
            raise ValueError(f"compile is {self.compile!r}; choose one of {', '.join(COMPILE_CHOICES)}.")
        check_codec(self.codec)


@dataclass(frozen=True)
class Inference:
    """How the images of one dataset are drawn.

    Attributes:
        batch_size: samples denoised together.
        threads: CPU threads of a batch.
        dtype: precision of the weights, one of :data:`DTYPES`.
        compile: ``on`` or ``off``.
        lora_weights: ``fused`` into the model's in float32, ``beside`` them in 16 bits, where fusing would lose small
            updates to rounding, or ``none``.
        attention: kernel that torch tries first, or ``auto`` for its own order: see :mod:`.attention_kernels`.
        offload: one of :data:`OFFLOADS`: see :func:`.placement.place_networks`.
        quantization: one of :data:`QUANTIZATIONS`: see :func:`ubgen_pipeline.models.quantization.quantization_config`.
        not_finite: ``marked`` where rows have a column that marks images of NaNs; ``kept`` in datasets that an earlier
            version began, whose rows have none.
    """

    batch_size: int
    threads: int
    dtype: str
    compile: str
    lora_weights: str
    attention: str = "auto"
    offload: str = "none"
    quantization: str = "none"
    not_finite: str = "kept"

    def facts(self) -> dict[str, Any]:
        """For the manifest, from which what is usual is left out: torch's own order of attention kernels, no network
        that waits, weights as they are."""
        facts = dataclasses.asdict(self)
        return {name: value for name, value in facts.items() if _LEFT_OUT.get(name) != value}

    @classmethod
    def resumed(cls, settings: InferenceSettings, manifest: Mapping[str, Any]) -> "Inference":
        """What the dataset was begun with, where the settings leave it open; where they do not, what they say.

        Args:
            settings: of this run.
            manifest: settings of the dataset's manifest.
        """
        values: dict[str, Any] = {
            item.name: manifest.get(item.name, _LEFT_OUT.get(item.name)) for item in dataclasses.fields(cls)
        }
        for name in values:
            if getattr(settings, name, None) not in (None, "auto"):
                values[name] = getattr(settings, name)
        return cls(**values)


# what a manifest does not say
_LEFT_OUT = {"attention": "auto", "offload": "none", "quantization": "none", "not_finite": "kept"}


def lora_weights(has_lora: bool, dtype: str) -> str:
    """``fused``, ``beside`` or ``none``: see :class:`Inference`."""
    if not has_lora:
        return "none"
    return "fused" if dtype == "float32" else "beside"


def compile_pays(num_denoiser_samples: int, device_type: str) -> bool:
    """Whether compiling gains more time than it takes.

    Args:
        num_denoiser_samples: samples that this process sends through the denoiser, each counted at every step and
            twice under guidance.
        device_type: ``cpu``, ``cuda``, ….
    """
    return num_denoiser_samples >= _COMPILE_PAYS_FROM.get(device_type, float("inf"))


# The time that compiling takes, over the time that it saves per sample and step: a rough estimate for Stable Diffusion
# 1.5. On a CPU compiling gains nothing where batches are drawn at the same time; on other devices it is not known to
# work.
_COMPILE_PAYS_FROM = {"cuda": 130_000}
