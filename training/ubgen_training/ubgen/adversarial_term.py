"""The adversarial term L_en (paper Eq. 5, Alg. 1): image features as a whole shall look like class names as a whole.

The discriminator learns to tell text features of class names from image features, the generator to fool it. The text
feature set against an image is of any **other** class of the whole list, chosen uniformly, so the term carries no
information on the image's own class. Features are unnormalised.
Two options against a discriminator that wins outright, neither in the paper: instance noise on all features it sees
(arXiv 1610.04490) and the R1 penalty (arXiv 1801.04406).
Shapes: B images, N classes, F feature width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from .discriminator import Discriminator, gradient_penalty

ADVERSARIAL_FORMS = ("minimax", "non_saturating")
TEXT_CHOICES = ("other_class", "batch_permutation")


@dataclass(frozen=True)
class AdversarialSettings:
    """How the term is computed and its discriminator trained; defaults are the paper's, Table 5.

    ``form`` and ``text_choice`` have the released code's variants for comparison (``non_saturating``, and
    ``batch_permutation``: the first B classes in random order, own class included); so has the discriminator's form.

    Args:
        hidden_dim, activation: of the discriminator; None takes those of ``discriminator_form``.
        noise: standard deviation of the instance noise, in units of the features.
        noise_steps: discriminator updates, warm-up included, over which the noise falls linearly to 0; None keeps it.
        r1: weight γ of the R1 penalty on the discriminator's gradient at text features.
    """

    learning_rate: float = 1e-5
    betas: tuple[float, float] = (0.0, 0.999)
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    discriminator_form: str = "paper"
    hidden_dim: int | None = None
    activation: str | None = None
    noise: float = 0.0
    noise_steps: int | None = None
    r1: float = 0.0
    form: str = "minimax"
    text_choice: str = "other_class"


@dataclass(frozen=True)
class DiscriminatorReport:
    """One discriminator update: its loss without penalty, the share of features told right (in [0, 1]), both mean
    logits, and the R1 penalty with its weight."""

    loss: float
    accuracy: float
    text_logit: float
    image_logit: float
    grad_norm: float
    r1_penalty: float


class AdversarialTerm:
    """Owns the discriminator, its optimizer and their state.

    Args:
        text_features: ``(N, F)`` unnormalised CLIP features of all class names, in label order.
        settings: see :class:`AdversarialSettings`.
        seed: of the discriminator's initial weights; give every rank the same.
        average: maps a gradient to its mean over all ranks; None on one process.

    Raises:
        ValueError: fewer than two classes, an unknown form or choice of texts, or a negative noise or R1 weight.
    """

    def __init__(
        self,
        text_features: torch.Tensor,
        settings: AdversarialSettings | None = None,
        *,
        seed: int = 0,
        average: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        settings = settings or AdversarialSettings()
        if len(text_features) < 2:
            raise ValueError(
                f"text_features holds {len(text_features)} class; an image is set against the name of another class: "
                "give two or more, or train without the adversarial term."
            )
        if settings.form not in ADVERSARIAL_FORMS:
            raise ValueError(f"form is {settings.form!r}; choose one of {', '.join(ADVERSARIAL_FORMS)}.")
        if settings.text_choice not in TEXT_CHOICES:
            raise ValueError(f"text_choice is {settings.text_choice!r}; choose one of {', '.join(TEXT_CHOICES)}.")
        for name, value in (("noise", settings.noise), ("r1", settings.r1)):
            if value < 0:
                raise ValueError(f"{name} is {value}; choose 0 or more.")
        if settings.noise_steps is not None and settings.noise_steps < 1:
            raise ValueError(f"noise_steps is {settings.noise_steps}; choose 1 or more.")
        self.text_features = text_features.detach().float()
        self.settings = settings
        self.average = average
        self.num_updates = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            discriminator = Discriminator(
                text_features.shape[1], settings.hidden_dim, settings.activation, settings.discriminator_form
            )
        self.discriminator = discriminator.to(text_features.device)
        self.optimizer = torch.optim.AdamW(
            self.discriminator.parameters(),
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
        )

    def choose_text_features(self, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Text features ``(B, F)`` to set against images of ``labels (B,)``; ``generator`` is a CPU one."""
        if self.settings.text_choice == "batch_permutation":
            chosen = torch.randperm(len(labels), generator=generator).to(labels.device) % len(self.text_features)
        else:
            # 1 to N - 1 places further on, modulo N, is uniform over all classes but the own one
            shift = torch.randint(1, len(self.text_features), (len(labels),), generator=generator)
            chosen = (labels + shift.to(labels.device)) % len(self.text_features)
        return self.text_features[chosen]

    @property
    def noise_std(self) -> float:
        """The instance noise's standard deviation at this number of discriminator updates."""
        if self.settings.noise_steps is None:
            return self.settings.noise
        return self.settings.noise * max(0.0, 1 - self.num_updates / self.settings.noise_steps)

    def generator_loss(
        self, image_features: torch.Tensor, text_features: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """L_en ``(B,)`` of image and text features ``(B, F)``; its gradient is for the images.

        ``minimax`` is Eq. 5, log D(text) + log(1 - D(image)); ``non_saturating`` is -log D(image).
        The instance noise, if any, comes from ``generator``, a CPU one.
        """
        image_logits = self.discriminator(self._add_noise(image_features.float(), generator))
        if self.settings.form == "non_saturating":
            return -logsigmoid(image_logits)
        return logsigmoid(self.discriminator(self._add_noise(text_features, generator))) + logsigmoid(-image_logits)

    def update_discriminator(
        self, image_features: torch.Tensor, text_features: torch.Tensor, generator: torch.Generator | None = None
    ) -> DiscriminatorReport:
        """One step of the discriminator on image features (taken as constants) and text features, both ``(B, F)``.

        It maximises Eq. 5, which is binary cross entropy with text as 1 and image as 0, less the R1 penalty.
        The instance noise, if any, comes from ``generator``, a CPU one.
        """
        image_features = self._add_noise(image_features.detach().float(), generator)
        text_features = self._add_noise(text_features, generator)
        with torch.enable_grad():
            text_logits = self.discriminator(text_features)
            image_logits = self.discriminator(image_features)
            loss = -(logsigmoid(text_logits).mean() + logsigmoid(-image_logits).mean())
            penalty = torch.zeros_like(loss)
            if self.settings.r1:
                penalty = self.settings.r1 * gradient_penalty(self.discriminator, text_features)
            # also clears gradients that the generator's loss may have left on the discriminator
            self.optimizer.zero_grad()
            (loss + penalty).backward()
        parameters = list(self.discriminator.parameters())
        if self.average is not None:
            for parameter in parameters:
                assert parameter.grad is not None
                parameter.grad.copy_(self.average(parameter.grad))
        grad_norm = torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm)
        self.optimizer.step()
        self.num_updates += 1
        told_right = torch.cat([text_logits > 0, image_logits <= 0]).float().mean()
        return DiscriminatorReport(
            loss.item(),
            told_right.item(),
            text_logits.mean().item(),
            image_logits.mean().item(),
            grad_norm.item(),
            penalty.item(),
        )

    def _add_noise(self, features: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        # where there is no noise, the generator stays as it is: what the batch takes from it next must not change
        if not self.noise_std:
            return features
        return features + self.noise_std * torch.randn(features.shape, generator=generator).to(features.device)

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimizer and the number of updates, for a checkpoint."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "num_updates": self.num_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave.

        Raises:
            ValueError: the state is of a discriminator of other widths.
        """
        own = {name: value.shape for name, value in self.discriminator.state_dict().items()}
        found = {name: value.shape for name, value in state["discriminator"].items()}
        if own != found:
            raise ValueError(
                "the checkpoint's discriminator has other widths than the one configured; "
                "resume with the clip_model, discriminator_form and discriminator_hidden_dim it was trained with."
            )
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.num_updates = state["num_updates"]
