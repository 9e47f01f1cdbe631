"""Settings of ``train_ubgen.py`` and :class:`UbGenTrainer`; defaults are the paper's for SD1.5 (Table 5)."""

from dataclasses import dataclass, field

from trl.trainer.base_config import _BaseConfig

from .gradient_steps import check_gradient_steps, gradient_strategy


@dataclass
class UbGenConfig(_BaseConfig):
    """Everything ``transformers.TrainingArguments`` has, with the paper's optimizer, and the sampler, loss and LoRA.

    ``max_steps`` and ``num_train_epochs`` count generator updates; the discriminator's warm-up comes before them.

    Raises:
        ValueError: a setting out of range; more gradient steps than steps; Hub push, which this trainer does not do.
    """

    output_dir: str | None = field(
        default="ubgen-lora", metadata={"help": "Where the LoRA, the checkpoints and the sample grids are written."}
    )
    model_name_or_path: str = field(
        default="mini", metadata={"help": "'mini', a folder or a Hub id of a Stable Diffusion 1.x or 2.x model."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Revision of the model on the Hub."})
    class_names: list[str] | None = field(default=None, metadata={"help": "The class names, one after another."})
    classes: str | None = field(
        default=None, metadata={"help": "A class file (lines, CSV, JSON, YAML) or a built-in list such as imagenet1k."}
    )
    prompt_template: str = field(default="{name}", metadata={"help": "The prompt of a class; {name} is its name."})
    class_repeats: int = field(
        default=1, metadata={"help": "How often an epoch shows each class; more than 1 for short class lists."}
    )

    scheduler: str = field(default="ddpm", metadata={"help": "Sampling schedule: ddpm, ddim, pndm, dpm++ or unipc."})
    num_inference_steps: int = field(default=50, metadata={"help": "Sampling steps."})
    num_gradient_steps: int = field(default=5, metadata={"help": "K, the sampling steps that carry gradient."})
    gradient_strategy: str = field(default="even_k", metadata={"help": "How the K steps are chosen: even_k."})
    guidance_scale: float = field(default=2.0, metadata={"help": "Classifier-free guidance while sampling."})
    height: int | None = field(default=None, metadata={"help": "Image height in pixels; default: the model's."})
    width: int | None = field(default=None, metadata={"help": "Image width in pixels; default: the model's."})

    lora_rank: int = field(default=128, metadata={"help": "Rank of the LoRA."})
    lora_alpha: float | None = field(default=None, metadata={"help": "Alpha of the LoRA; default: its rank."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"],
        metadata={"help": "Names of the UNet's layers that get a LoRA."},
    )

    reward_funcs: list[str] = field(
        default_factory=lambda: ["clip_alignment", "quality"],
        metadata={"help": "Rewards by name: clip_alignment (L_in is 1 - it), quality (L_q is 1 - it)."},
    )
    reward_weights: list[float] | None = field(
        default=None, metadata={"help": "One weight per reward; 0 only logs. Default: 1.0 and, for quality, 0.1."}
    )
    clip_model: str = field(
        default="openai/clip-vit-large-patch14",
        metadata={"help": "'mini', a transformers CLIP, or open_clip:ARCHITECTURE/PRETRAINED."},
    )
    clip_prompt: str = field(default="photo of {name}", metadata={"help": "Text that clip_alignment compares with."})
    alignment_pairs: str = field(
        default="matching", metadata={"help": "matching (the paper), or all: mean over the batch's texts."}
    )
    quality_model: str = field(default="mini", metadata={"help": "Scorer of the quality reward: mini."})

    adversarial_weight: float = field(
        default=1.0, metadata={"help": "Weight of the adversarial term L_en; 0 leaves it and its discriminator out."}
    )
    adversarial_form: str = field(
        default="minimax", metadata={"help": "minimax (Eq. 5), or non_saturating: the generator minimises -log D."}
    )
    adversarial_text: str = field(
        default="other_class",
        metadata={"help": "other_class (any other class), or batch_permutation: the first classes, own included."},
    )
    discriminator_hidden_dim: int = field(default=256, metadata={"help": "Width of the discriminator's hidden layer."})
    discriminator_activation: str = field(default="relu", metadata={"help": "relu, or leaky_relu."})
    discriminator_learning_rate: float = field(default=1e-5, metadata={"help": "Learning rate of the discriminator."})
    discriminator_weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of the discriminator."})
    discriminator_max_grad_norm: float = field(default=1.0, metadata={"help": "Gradient clipping of it."})
    discriminator_warmup_steps: int | None = field(
        default=None, metadata={"help": "Updates of the discriminator alone before training; default: one epoch."}
    )

    sample_steps: int = field(default=0, metadata={"help": "Draw a sample grid every so many updates; 0: never."})
    num_samples_per_class: int = field(default=4, metadata={"help": "Samples of each class in a grid."})

    learning_rate: float = field(default=2e-5, metadata={"help": "Learning rate of the LoRA."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Learning-rate schedule."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of the LoRA."})
    max_grad_norm: float = field(default=0.1, metadata={"help": "Gradient clipping of the LoRA."})
    per_device_train_batch_size: int = field(default=4, metadata={"help": "Images per process and step."})
    bf16: bool | None = field(default=False, metadata={"help": "bfloat16 frozen weights and autocast; LoRA float32."})
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "Older name of activation_checkpointing."}
    )
    activation_checkpointing: bool | None = field(
        default=None, metadata={"help": "Recompute UNet and VAE activations: less memory, slower. Default: off."}
    )
    logging_steps: float = field(default=1, metadata={"help": "Log every so many updates."})
    # the parser reads this union only in the base class's order
    report_to: None | str | list[str] = field(  # noqa: RUF036
        default="none", metadata={"help": "Trackers, such as tensorboard."}
    )
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "Not used: the columns are fixed."})

    def __post_init__(self) -> None:
        for name in (
            "num_inference_steps",
            "class_repeats",
            "lora_rank",
            "per_device_train_batch_size",
            "num_samples_per_class",
            "discriminator_hidden_dim",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose 1 or more.")
        for name in ("sample_steps", "discriminator_warmup_steps", "adversarial_weight"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; choose 0 or more.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; choose one in [0, 2**32), the range of numpy's.")
        if self.push_to_hub:
            raise ValueError("push_to_hub is not supported by this trainer; train, then upload output_dir.")
        check_gradient_steps(self.num_inference_steps, self.num_gradient_steps)
        gradient_strategy(self.gradient_strategy)
        if self.reward_weights is None:
            self.reward_weights = [0.1 if name == "quality" else 1.0 for name in self.reward_funcs]
        super().__post_init__()
