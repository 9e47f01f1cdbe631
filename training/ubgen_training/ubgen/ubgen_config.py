"""Settings of ``train_ubgen.py`` and :class:`UbGenTrainer`; defaults are the paper's for SD1.5 (Table 5)."""

from dataclasses import dataclass, field, replace

import torch

from ubgen_pipeline.inference.settings import COMPILE_CHOICES, compile_pays

from ..reward_training.config import SamplerConfig
from ..rewards.reward_functions import check_something_is_trained
from ..sampler.gradient_steps import GRADIENT_STRATEGIES, GradientSteps, gradient_strategy
from .adversarial_term import ADVERSARIAL_FORMS, TEXT_CHOICES
from .discriminator import ACTIVATIONS, DISCRIMINATOR_FORMS


@dataclass
class UbGenConfig(SamplerConfig):
    """:class:`SamplerConfig`, the steps that carry gradient, and the adversarial term.

    ``max_steps`` and ``num_train_epochs`` count generator updates; the discriminator's warm-up comes before them.

    Raises:
        ValueError: a setting out of range; gradient steps that do not fit the sampling steps.
    """

    images_per_class_in_batch: int = field(
        default=1,
        metadata={
            "help": "Images of a class that always come in one batch, for class_variety; divides "
            "per_device_train_batch_size and class_repeats."
        },
    )

    num_gradient_steps: int = field(
        default=5,
        metadata={
            "help": "K, the sampling steps that carry gradient; not used by refl, direct_align, steps and full."
        },
    )
    gradient_strategy: str = field(
        default="even_k", metadata={"help": f"Which steps carry gradient: {', '.join(GRADIENT_STRATEGIES)}."}
    )
    gradient_step_list: list[int] | None = field(
        default=None, metadata={"help": "For the strategy steps: the positions, 0 being the noisiest."}
    )
    num_late_steps: int | None = field(
        default=None,
        metadata={
            "help": "For refl: sampling ends at a step that is chosen among this many last ones. Default: a quarter."
        },
    )
    leap_discount: float | None = field(
        default=None,
        metadata={
            "help": "For leap: share of the gradient from one prediction into another, from 0 to 1. Default: 0.5"
        },
    )
    leap_tolerance: float | None = field(
        default=None,
        metadata={
            "help": "For leap: mean distance in latents up to which a leap that lands away from the rollout counts in"
            " full, and beyond which its sample counts less. Default: all count alike."
        },
    )
    equalise_gradient_steps: bool = field(
        default=False,
        metadata={"help": "Divide the gradient of each step's prediction by the step's weight in the final latents."},
    )
    reward_micro_batch_size: int | None = field(
        default=None,
        metadata={"help": "Images decoded and rewarded together: less memory, same gradient. Default: all."},
    )

    compile_rollout: str = field(
        default="auto",
        metadata={
            "help": "torch.compile of the UNet for the steps without gradient: on, off, or auto, which compiles on a "
            "GPU where the training is long enough to make up for it."
        },
    )

    reference_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the squared distance to the untrained model's predictions at those steps."},
    )
    reference_steps: int = field(
        default=10, metadata={"help": "With weight 0, log that distance every so many updates; 0: never."}
    )

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
    discriminator_form: str = field(
        default="paper", metadata={"help": "paper (ReLU, 256 wide), or released: LeakyReLU(0.2), 3 wide."}
    )
    discriminator_hidden_dim: int | None = field(
        default=None, metadata={"help": "Width of the discriminator's hidden layer. Default: the form's."}
    )
    discriminator_activation: str | None = field(
        default=None, metadata={"help": "relu, or leaky_relu. Default: the form's."}
    )
    discriminator_noise: float = field(
        default=0.0, metadata={"help": "Standard deviation of noise on all features that the discriminator sees."}
    )
    discriminator_noise_steps: int | None = field(
        default=None,
        metadata={"help": "Its updates, warm-up included, over which the noise falls to 0. Default: it stays."},
    )
    discriminator_r1: float = field(
        default=0.0, metadata={"help": "Weight of the R1 penalty on the discriminator's gradient at text features."}
    )
    discriminator_learning_rate: float = field(default=1e-5, metadata={"help": "Learning rate of the discriminator."})
    discriminator_weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of the discriminator."})
    discriminator_max_grad_norm: float = field(default=1.0, metadata={"help": "Gradient clipping of it."})
    discriminator_warmup_steps: int | None = field(
        default=None, metadata={"help": "Updates of the discriminator alone before training; default: one epoch."}
    )

    def __post_init__(self) -> None:
        for name in ("discriminator_hidden_dim", "discriminator_noise_steps"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose 1 or more.")
        for name in (
            "reference_weight",
            "reference_steps",
            "discriminator_warmup_steps",
            "adversarial_weight",
            "discriminator_noise",
            "discriminator_r1",
            "discriminator_learning_rate",
            "discriminator_weight_decay",
            "discriminator_max_grad_norm",
        ):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; choose 0 or more.")
        if self.reward_micro_batch_size is not None and self.reward_micro_batch_size < 1:
            raise ValueError(f"reward_micro_batch_size is {self.reward_micro_batch_size}; choose 1 or more.")
        for name in ("per_device_train_batch_size", "class_repeats"):
            size, value = self.images_per_class_in_batch, getattr(self, name)
            if size < 1 or value % size:
                raise ValueError(
                    f"images_per_class_in_batch is {size}, {name} {value}; choose 1 or more for the first, and a "
                    "multiple of it for the other."
                )
        for name, choices in (
            ("compile_rollout", COMPILE_CHOICES),
            ("adversarial_form", ADVERSARIAL_FORMS),
            ("adversarial_text", TEXT_CHOICES),
            ("discriminator_form", tuple(DISCRIMINATOR_FORMS)),
            ("discriminator_activation", (None, *ACTIVATIONS)),
        ):
            if getattr(self, name) not in choices:
                listed = ", ".join(choice for choice in choices if choice is not None)
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {listed}.")
        if self.reference_weight > 0 and self.train_method != "lora":
            raise ValueError(
                f"reference_weight is {self.reference_weight}, but train_method is {self.train_method!r}, which "
                "leaves no untrained model to compare with; choose lora, or set reference_weight to 0."
            )
        strategy = gradient_strategy(self.gradient_strategy).__name__
        if self.equalise_gradient_steps and strategy == "leap":
            raise ValueError(
                "equalise_gradient_steps is on, but the gradients of gradient_strategy 'leap' do not run through the "
                "steps; leave it out, or choose another strategy."
            )
        for name, user in (
            ("gradient_step_list", "steps"),
            ("num_late_steps", "refl"),
            ("leap_discount", "leap"),
            ("leap_tolerance", "leap"),
        ):
            if getattr(self, name) is not None and strategy != user:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but gradient_strategy is {strategy!r}; "
                    f"leave it out or choose {user!r}."
                )
        super().__post_init__()
        if self.adversarial_weight == 0:
            check_something_is_trained(self.reward_weights)
        if self.num_inference_steps is not None:
            self.check_steps(self.num_inference_steps)

    def check_steps(self, num_inference_steps: int) -> None:
        """The base's: steps that carry gradient are among them."""
        # PNDM walks one step more than asked for; the trainer checks against the scheduler's own count
        self.choose_gradient_steps(num_inference_steps + (self.scheduler == "pndm"), torch.Generator())

    @property
    def uses_reference(self) -> bool:
        """The base's, and the distance to it."""
        return super().uses_reference or self.reference_weight > 0

    def measures_reference(self, step: int) -> bool:
        """Whether the update after ``step`` others measures the distance to the reference model."""
        if self.train_method != "lora":
            return False
        return self.uses_reference or (self.reference_steps > 0 and (step + 1) % self.reference_steps == 0)

    def compiles_rollout(self, num_images: float, num_calls: int) -> bool:
        """Whether the denoiser of the steps without gradient is compiled.

        Args:
            num_images: that this process draws in all.
            num_calls: predictions for each: sampling steps, twice as many where two predictions guide.
        """
        if self.compile_rollout != "auto":
            return self.compile_rollout == "on"
        return compile_pays(round(num_images * num_calls), self.device.type)

    def choose_gradient_steps(self, num_steps: int, generator: torch.Generator) -> GradientSteps:
        """Which of one batch's ``num_steps`` sampling steps carry gradient; ``generator`` is a CPU one.

        Raises:
            ValueError: the strategy's settings do not fit that many steps.
        """
        chosen = gradient_strategy(self.gradient_strategy)(
            num_steps,
            self.num_gradient_steps,
            generator,
            step_list=self.gradient_step_list,
            num_late_steps=self.num_late_steps,
            leap_discount=self.leap_discount,
            leap_tolerance=self.leap_tolerance,
        )
        return replace(chosen, equalise=self.equalise_gradient_steps)
