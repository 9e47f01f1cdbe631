"""Settings that all trainers of the sampler share; defaults are the paper's (arXiv 2412.10831, Table 5)."""

import json
import math
import warnings
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from transformers.integrations import get_available_reporting_integrations

from ubgen_pipeline.files.places import check_is_local
from ubgen_pipeline.hub.access import check_repo_id

from ..checkpoints.config import ResumableConfig
from ..checkpoints.weight_average import check_average_decay
from ..lora.adapter import check_lora_alpha, check_train_method
from .alarm import check_alarm_settings
from .guards import check_heldout_names

# of the settings below, those that a resumed run may change: they do not touch what is computed, or are compared
# by what they stand for (the model by its weights, the classes by their names)
FREE_ON_RESUME = frozenset(
    {
        "output_dir",
        "model_name_or_path",
        "model_revision",
        "variant",
        "initial_lora",
        "class_names",
        "classes",
        "captions",
        "captions_per_class",
        "prompt_features",
        "sample_steps",
        "num_sample_classes",
        "num_samples_per_class",
        "export_average",
        "heldout_reward_funcs",
        "heldout_steps",
        "alarm_window",
        "alarm_tolerance",
        "stop_on_alarm",
        "gradient_checkpointing",
        "activation_checkpointing",
        "activation_offload",
        "logging_steps",
        "report_to",
        "remove_unused_columns",
    }
)
# free as long as evaluations only watch
_OF_EVALUATIONS = (
    "heldout_reward_funcs",
    "heldout_steps",
    "num_sample_classes",
    "num_samples_per_class",
)
# transformers has more strategies; those push whole checkpoints with the optimizer's state
HUB_STRATEGIES = ("every_save", "end")


@dataclass
class SamplerConfig(ResumableConfig):
    """Everything ``transformers.TrainingArguments`` has, with the paper's optimizer; the sampler, LoRA and rewards.

    Raises:
        ValueError: a setting out of range, or a push to the Hub without a name there.
    """

    free_on_resume: ClassVar[frozenset[str]] = FREE_ON_RESUME

    output_dir: str | None = field(
        default="ubgen-lora", metadata={"help": "Where the LoRA, the checkpoints and the sample grids are written."}
    )
    model_name_or_path: str = field(
        default="mini",
        metadata={"help": "'mini', 'mini-flow', a folder or a Hub id of a model of any family that ubgen knows."},
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Revision of the model on the Hub, or of the one that has what a file lacks."}
    )
    variant: str | None = field(
        default=None,
        metadata={"help": "Of the model's weights, such as fp16; the plain ones, or the variant that is there alone."},
    )
    class_names: list[str] | None = field(default=None, metadata={"help": "The class names, one after another."})
    classes: str | None = field(
        default=None, metadata={"help": "A class file (lines, CSV, JSON, YAML) or a built-in list such as imagenet1k."}
    )
    captions: str | None = field(
        default=None,
        metadata={
            "help": "In place of classes: a file with templates, as ubgen generate reads and ubgen write-prompts"
            " writes them. Each of its prompts (max_prompts of a class) is trained on as a class, and is its {name}."
        },
    )
    captions_per_class: int | None = field(
        default=None,
        metadata={
            "help": "Prompts of each class in the file captions that are trained on, chosen by the seed; all, if not"
            " given. Their features are kept in memory."
        },
    )
    prompt_template: str = field(default="{name}", metadata={"help": "The prompt of a class; {name} is its name."})
    prompt_features: str | None = field(
        default=None,
        metadata={
            "help": "Folder that keeps what the text encoders make of prompts, as that of ubgen generate; the encoders"
            " leave the memory then."
        },
    )
    class_repeats: int = field(
        default=1, metadata={"help": "How often an epoch shows each class; more than 1 for short class lists."}
    )

    scheduler: str | None = field(
        default=None,
        metadata={
            "help": "Sampling schedule: ddpm, ddim, pndm, dpm++ or unipc, for flow matching flow-euler and so on;"
            " default: ddpm for Stable Diffusion 1.x and 2.x, else the model's own."
        },
    )
    num_inference_steps: int | None = field(
        default=None,
        metadata={"help": "Sampling steps; default: the model's, which is 50 for Stable Diffusion 1.x and 2.x."},
    )
    guidance_scale: float | None = field(
        default=None,
        metadata={
            "help": "Guidance while sampling; default: the model's, which is 2 for Stable Diffusion 1.x and 2.x."
        },
    )
    height: int | None = field(default=None, metadata={"help": "Image height in pixels; default: the model's."})
    width: int | None = field(default=None, metadata={"help": "Image width in pixels; default: the model's."})

    train_method: str = field(
        default="lora", metadata={"help": "lora, or full: every weight of the UNet, saved as a whole UNet."}
    )
    lora_rank: int = field(default=128, metadata={"help": "Rank of the LoRA."})
    lora_alpha: float | None = field(default=None, metadata={"help": "Alpha of the LoRA; default: its rank."})
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the denoiser's layers that get a LoRA; default: those of the model's family."},
    )
    initial_lora: str | None = field(
        default=None,
        metadata={
            "help": "Folder of a LoRA of one of these trainers to begin with, of the same model, rank and layers; "
            "default: one that changes nothing yet."
        },
    )

    reward_funcs: list[str] = field(
        default_factory=lambda: ["clip_alignment", "quality"],
        metadata={
            "help": "Rewards by name: clip_alignment (L_in is 1 - it), quality (L_q is 1 - it), "
            "class_variety, logdet_variety, recognised, detector:MODEL, jpeg_size, jpeg_incompressibility, "
            "pyiqa:METRIC, or an import path package.module:attribute, perhaps after relative: (see relative_prompt)."
        },
    )
    reward_weights: list[float] | None = field(
        default=None, metadata={"help": "One weight per reward; 0 only logs. Default: 1.0 and, for quality, 0.1."}
    )
    clip_model: str = field(
        default="openai/clip-vit-large-patch14",
        metadata={"help": "'mini', a transformers CLIP or SigLIP, or open_clip:ARCHITECTURE/PRETRAINED."},
    )
    clip_prompt: str = field(
        default="photo of {name}", metadata={"help": "Text of a class that the CLIP compares with."}
    )
    clip_negative_prompt: str | None = field(
        default=None,
        metadata={
            "help": "Text whose similarity clip_alignment takes off, such as 'blurry photo of {name}'. Default: none."
        },
    )
    relative_prompt: str | None = field(
        default=None,
        metadata={
            "help": "For rewards named relative:…, which read the class's words: what they give for this text, such "
            "as 'blurry photo of {name}', is taken off."
        },
    )
    recognition_model: str = field(
        default="openai/clip-vit-base-patch32",
        metadata={
            "help": "For recognised: the zero-shot classifier, named as clip_model; best another one than that."
        },
    )
    alignment_pairs: str = field(
        default="matching", metadata={"help": "matching (the paper), or all: mean over the batch's texts."}
    )
    variety_memory: int = field(
        default=12,
        metadata={"help": "For logdet_variety: recent images of each class that new ones are compared with."},
    )
    variety_across: float = field(
        default=0.75, metadata={"help": "For logdet_variety: weight of the variety over all classes."}
    )
    variety_noise: float = field(
        default=0.5, metadata={"help": "For logdet_variety: squared distance below which images count as alike."}
    )
    variety_centre_batches: int = field(
        default=8, metadata={"help": "For logdet_variety: first batches whose mean is the centre of all later ones."}
    )
    quality_model: str = field(
        default="mini",
        metadata={
            "help": "Scorer of the quality reward: mini, or the id or folder of Q-Align (q-future/one-align) or "
            "of another image-text-to-text model."
        },
    )

    sample_steps: int | None = field(
        default=None,
        metadata={
            "help": "Draw a grid of the held-out samples every so many updates; 0: never. Default: heldout_steps."
        },
    )
    num_sample_classes: int = field(
        default=8, metadata={"help": "Classes of the held-out samples, spread evenly over the list."}
    )
    num_samples_per_class: int = field(default=4, metadata={"help": "Held-out samples of each of those classes."})
    heldout_reward_funcs: list[str] = field(
        default_factory=list, metadata={"help": "Rewards evaluated on the held-out samples and never trained on."}
    )
    heldout_steps: int | None = field(
        default=None,
        metadata={
            "help": "Evaluate rewards and diversity on the held-out samples every so many updates; 0: never. Default: "
            "as often as draws at most a twentieth of the images that training draws. Also before the first update "
            "and after the last."
        },
    )
    alarm_window: int = field(default=5, metadata={"help": "Evaluations over which the alarm looks for a trend."})
    alarm_tolerance: float = field(
        default=0.05,
        metadata={"help": "Share of its size that a held-out figure may lose over the window while a reward rises."},
    )
    stop_on_alarm: bool = field(default=False, metadata={"help": "Save and stop when the alarm is raised."})
    lora_average_decay: float = field(
        default=0.99, metadata={"help": "Decay of the moving average of the LoRA, saved beside it; 0: none."}
    )
    export_average: bool = field(
        default=False, metadata={"help": "Save the average as the LoRA at the end, and the trained one beside it."}
    )

    norm_guard_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the squared share by which predictions are longer than the reference model's"
            " (NormGuard); 0 leaves it out."
        },
    )
    reference_decay: float | None = field(
        default=None,
        metadata={
            "help": "The reference model follows the trained one, keeping this share of itself, at each evaluation"
            " in which all held-out rewards and the diversity are above those of its last move. Default: it stays the"
            " untrained model."
        },
    )

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
    activation_offload: bool = field(
        default=False,
        metadata={"help": "Keep activations in main memory until the backward pass: less GPU memory, slower."},
    )
    logging_steps: float = field(default=1, metadata={"help": "Log every so many updates."})
    # the parser reads this union only in the base class's order
    report_to: None | str | list[str] = field(  # noqa: RUF036
        default="none", metadata={"help": "Trackers, such as tensorboard, wandb or trackio; they get the grids, too."}
    )
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "Not used: the columns are fixed."})

    def __post_init__(self) -> None:
        for name in (
            *(() if self.num_inference_steps is None else ("num_inference_steps",)),
            "class_repeats",
            "lora_rank",
            "per_device_train_batch_size",
            "num_sample_classes",
            "num_samples_per_class",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose 1 or more.")
        for name in ("sample_steps", "heldout_steps"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; choose 0 or more.")
        if self.captions_per_class is not None and (self.captions is None or self.captions_per_class < 1):
            raise ValueError(
                f"captions_per_class is {self.captions_per_class}, and captions is {self.captions!r}; give a file of"
                " captions and 1 or more, or leave it out."
            )
        check_lora_alpha(self.lora_alpha)
        check_alarm_settings(self.alarm_window, self.alarm_tolerance, "alarm_")
        check_average_decay(self.lora_average_decay, "lora_average_decay")
        check_heldout_names(self.reward_funcs, self.heldout_reward_funcs)
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; choose one in [0, 2**32), the range of numpy's.")
        check_train_method(self.train_method)
        if self.initial_lora is not None and self.train_method != "lora":
            raise ValueError(
                f"initial_lora is {self.initial_lora!r}, and train_method is {self.train_method!r}, which trains no"
                " LoRA; leave one of them out."
            )
        check_is_local(self.prompt_features, "prompt_features")
        self._check_reference()
        self._check_push()
        if self.reward_weights is None:
            self.reward_weights = [0.1 if name == "quality" else 1.0 for name in self.reward_funcs]
        super().__post_init__()
        if self.activation_offload and self.device.type == "cpu":
            warnings.warn("activation_offload has no effect on a CPU: activations are in main memory.", stacklevel=2)
        installed = get_available_reporting_integrations()
        if missing := [name for name in self.report_to or [] if name not in installed]:
            raise ValueError(
                f"report_to holds {missing}, unknown or not installed; install it, or choose from "
                f"{', '.join(['none', *installed])}."
            )

    def take_sampling(self, num_inference_steps: int, guidance_scale: float) -> None:
        """Fill in how samples are drawn where it was left out; from then on the settings say it.

        Raises:
            ValueError: settings that do not fit so many steps.
        """
        if self.num_inference_steps is None:
            self.num_inference_steps = num_inference_steps
        if self.guidance_scale is None:
            self.guidance_scale = guidance_scale
        self.check_steps(self.num_inference_steps)

    @property
    def scoring_device(self) -> torch.device:
        """Where rewards and the CLIP that they read lie."""
        return self.device

    @property
    def step_noise(self) -> float:
        """Noise share of a sampling step, DDIM's eta."""
        return 0.0

    def check_steps(self, num_inference_steps: int) -> None:
        """Raise ``ValueError`` for settings that do not fit so many sampling steps, and derive what follows from them;
        called as soon as the number is known."""

    @property
    def uses_reference(self) -> bool:
        """Whether the loss holds a term that compares with the reference model."""
        return self.norm_guard_weight > 0

    def settings_to_resume_with(self) -> dict[str, Any]:
        """The base's; where evaluations move the reference model, theirs are among them."""
        settings = super().settings_to_resume_with()
        if self.reference_decay is not None:
            values = json.loads(self.to_json_string())
            settings |= {name: values[name] for name in _OF_EVALUATIONS}
        return settings

    def _check_reference(self) -> None:
        if not 0 <= self.norm_guard_weight < math.inf:
            raise ValueError(f"norm_guard_weight is {self.norm_guard_weight}; choose 0 or more.")
        if self.norm_guard_weight > 0 and self.train_method != "lora":
            raise ValueError(
                f"norm_guard_weight is {self.norm_guard_weight}, but train_method is {self.train_method!r}, which "
                "leaves no untrained model to compare with; choose lora, or set norm_guard_weight to 0."
            )
        if self.reference_decay is None:
            return
        check_average_decay(self.reference_decay, "reference_decay")
        given = f"reference_decay is {self.reference_decay}, but"
        if not self.uses_reference:
            raise ValueError(
                f"{given} no term of the loss compares with the reference model; give the distance to it or "
                "norm_guard_weight a weight, or leave reference_decay out."
            )
        if self.heldout_steps == 0 or self.num_samples_per_class < 2:
            raise ValueError(
                f"{given} heldout_steps is {self.heldout_steps} and num_samples_per_class "
                f"{self.num_samples_per_class}; the reference moves by evaluations of quality and diversity: leave "
                "the first out or choose 1 or more, and 2 or more for the other."
            )

    def _check_push(self) -> None:
        # other users of the machine can see a command's arguments, and the shell's history keeps them
        if self.hub_token is not None:
            raise ValueError("hub_token is given; run `hf auth login`, or set HF_TOKEN, and leave it out.")
        if not self.push_to_hub:
            return
        if self.hub_model_id is None:
            raise ValueError("push_to_hub is set without hub_model_id; give the model's name there, owner/name.")
        check_repo_id("hub_model_id", self.hub_model_id)
        strategy = getattr(self.hub_strategy, "value", self.hub_strategy)
        if strategy not in HUB_STRATEGIES:
            raise ValueError(f"hub_strategy is {strategy!r}; choose one of {', '.join(HUB_STRATEGIES)}.")

    @property
    def images_per_update(self) -> float:
        """Images that all processes together draw for an update, on average."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size
