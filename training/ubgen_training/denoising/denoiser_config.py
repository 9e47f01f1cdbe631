"""Settings of every training in latent space, and of denoising training."""

from dataclasses import dataclass, field
from typing import ClassVar

from ubgen_pipeline.files.places import check_is_local

from ..checkpoints.weight_average import check_average_decay
from ..images.config import FREE_ON_RESUME as IMAGE_FREE_ON_RESUME
from ..images.config import ImageTrainingConfig
from ..lora.adapter import check_lora_alpha, check_train_method
from .denoising_loss import DEFAULT_WEIGHTING, check_names
from .flow_loss import FlowWeighting

TRAIN_METHODS = ("lora", "full", "scratch")
FREE_ON_RESUME = IMAGE_FREE_ON_RESUME | {
    *("model_name_or_path", "model_revision", "variant", "prompt_features", "activation_checkpointing"),
}


@dataclass
class LatentTrainingConfig(ImageTrainingConfig):
    """Everything of :class:`ImageTrainingConfig`, the model and the LoRA.

    Raises:
        ValueError: a setting out of range, no dataset, or Hub push, which these trainers do not do.
    """

    free_on_resume: ClassVar[frozenset[str]] = FREE_ON_RESUME

    output_dir: str | None = field(default="denoiser", metadata={"help": "Where weights and checkpoints are written."})
    model_name_or_path: str = field(
        default="mini", metadata={"help": "'mini', a folder or a Hub id of a model of any family that ubgen knows."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Revision of the model on the Hub."})
    variant: str | None = field(
        default=None,
        metadata={"help": "Of the model's weights, such as fp16; the plain ones, or the variant that is there alone."},
    )
    prompt_template: str = field(default="{name}", metadata={"help": "The prompt of a class; {name} is its name."})
    prompt_features: str | None = field(
        default=None,
        metadata={
            "help": "Folder that keeps what the text encoders make of prompts, as that of ubgen generate; the encoders"
            " leave the memory then."
        },
    )
    height: int | None = field(default=None, metadata={"help": "Image height in pixels; default: the model's."})
    width: int | None = field(default=None, metadata={"help": "Image width in pixels; default: the model's."})

    lora_rank: int = field(default=128, metadata={"help": "Rank of the LoRA."})
    lora_alpha: float | None = field(default=None, metadata={"help": "Alpha of the LoRA; default: its rank."})
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the denoiser's layers that get a LoRA; default: those of the model's family."},
    )
    average_decay: float = field(
        default=0.999, metadata={"help": "Decay of the moving average of the trained weights; 0: none."}
    )
    export_average: bool = field(default=True, metadata={"help": "Save the average as the weights at the end."})

    learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate of AdamW."})
    lr_scheduler_type: str = field(default="constant_with_warmup", metadata={"help": "Learning-rate schedule."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay."})
    per_device_train_batch_size: int = field(default=16, metadata={"help": "Images per process and step."})
    bf16: bool | None = field(default=False, metadata={"help": "bfloat16 frozen weights and autocast."})
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "Older name of activation_checkpointing."}
    )
    activation_checkpointing: bool | None = field(
        default=None, metadata={"help": "Recompute the denoiser's activations: less memory, slower. Default: off."}
    )
    logging_steps: float = field(default=10, metadata={"help": "Log every so many updates."})

    def __post_init__(self) -> None:
        if self.lora_rank < 1:
            raise ValueError(f"lora_rank is {self.lora_rank}; choose 1 or more.")
        check_lora_alpha(self.lora_alpha)
        check_average_decay(self.average_decay, "average_decay")
        check_is_local(self.prompt_features, "prompt_features")
        super().__post_init__()


@dataclass
class DenoiserConfig(LatentTrainingConfig):
    """What every training in latent space has, and the loss.

    Raises:
        ValueError: a setting out of range, no dataset, or Hub push, which this trainer does not do.
    """

    empty_prompt_share: float = field(
        default=0.1, metadata={"help": "Share of images shown with an empty prompt, for guidance."}
    )
    train_method: str = field(
        default="lora",
        metadata={"help": "lora; full: all of the denoiser; scratch: full, from random weights."},
    )
    weighting: str | None = field(
        default=None,
        metadata={
            "help": "Loss weighting: constant, snr (1/SNR), p2, min_snr or debias, which is the default; not for"
            " models of flow matching."
        },
    )
    target: str | None = field(
        default=None,
        metadata={
            "help": "What is predicted: noise, x0 or velocity; default: as the model does. Models of flow matching"
            " predict noise - x0."
        },
    )
    weighting_scheme: str | None = field(
        default=None,
        metadata={
            "help": "For models of flow matching, as in diffusers' scripts: logit_normal (default), mode, sigma_sqrt,"
            " cosmap or none."
        },
    )
    logit_mean: float | None = field(
        default=None,
        metadata={"help": "For logit_normal: above 0 samples are shown nearer to the image. Default: 0."},
    )
    logit_std: float | None = field(default=None, metadata={"help": "For logit_normal: its width. Default: 1."})
    mode_scale: float | None = field(
        default=None, metadata={"help": "For mode: how heavy the middle is, from -1 to 1.75. Default: 1.29."}
    )

    def __post_init__(self) -> None:
        check_train_method(self.train_method, TRAIN_METHODS)
        check_names(self.weighting or DEFAULT_WEIGHTING, self.target or "noise")
        self.flow_weighting()
        if not 0 <= self.empty_prompt_share <= 1:
            raise ValueError(f"empty_prompt_share is {self.empty_prompt_share}; choose one in [0, 1].")
        super().__post_init__()

    def flow_weighting(self) -> FlowWeighting:
        """The settings for models of flow matching."""
        return FlowWeighting(self.weighting_scheme, self.logit_mean, self.logit_std, self.mode_scale)
