"""The loss of denoising training, for every prediction target and loss weighting.

A weighting says how much an error in the clean sample weighs at each noise level: w(SNR), SNR = ᾱ / (1 - ᾱ). All
targets are linear in each other at a given noisy sample, so their squared errors differ by a factor of the noise level
alone, |ε error|² = SNR |x0 error|² and |v error|² = (SNR + 1) |x0 error|², and the weight on a target is w over that
factor. So a weighting means the same for every target. As weights of the noise target they are

    constant  1                     (Ho et al. 2020)
    snr       1 / SNR               equal weight on the clean sample (Salimans and Ho 2022)
    p2        1 / (1 + SNR)         (Choi et al. 2022, k = γ = 1)
    min_snr   min(SNR, 5) / SNR     (Hang et al. 2023, γ = 5)
    debias    1 / sqrt(SNR)         ("Unmasking Bias in Diffusion Model Training")

Shapes: B samples, T training timesteps.
"""

from collections.abc import Callable
from typing import Any

import torch

from .latent_model import stratified

DEFAULT_WEIGHTING = "debias"
MIN_SNR_GAMMA = 5.0
P2_K, P2_GAMMA = 1.0, 1.0

# the effective weight w(SNR) of an error in the clean sample; every other weight is derived from this table
CLEAN_WEIGHTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "constant": lambda snr: snr,
    "snr": torch.ones_like,
    "p2": lambda snr: snr / (P2_K + snr) ** P2_GAMMA,
    "min_snr": lambda snr: snr.clamp(max=MIN_SNR_GAMMA),
    "debias": torch.sqrt,
}
# |target error|² over |x0 error|²
ERROR_FACTORS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "noise": lambda snr: snr,
    "x0": torch.ones_like,
    "velocity": lambda snr: snr + 1,
}
# diffusers' names
PREDICTION_TYPES = {"noise": "epsilon", "x0": "sample", "velocity": "v_prediction"}
# where SNR is 0 or infinite a weight is the limit, taken here; float32 squares of both are still finite
_LEAST_SNR, _LARGEST_SNR = 1e-12, 1e12


def check_noise_scheduler(scheduler: Any) -> None:
    """Raise ``ValueError`` for a scheduler of another kind than noise schedules with ᾱ, such as flow matching."""
    if not hasattr(scheduler, "alphas_cumprod") or scheduler.config.get("prediction_type") == "flow_prediction":
        raise ValueError(
            f"the model's scheduler is {type(scheduler).__name__}, which has no noise schedule that this training"
            " knows; train it from rewards (train_ubgen.py), or give a model that predicts noise, x0 or velocity."
        )


def loss_weights(alphas_cumprod: torch.Tensor, weighting: str, target: str) -> torch.Tensor:
    """The weight of the squared error at each timestep.

    Args:
        alphas_cumprod: ``(T,)`` ᾱ in [0, 1]; 0 at the end of a schedule with zero terminal SNR.
        weighting: a key of :data:`CLEAN_WEIGHTS`.
        target: ``noise``, ``x0`` or ``velocity``.

    Returns:
        ``(T,)`` of the same type, 0 or more and finite.

    Raises:
        ValueError: an unknown name, or a weight that grows without bound, as that of ``debias`` on the noise target
            does at zero SNR.
    """
    check_names(weighting, target)
    exact = alphas_cumprod / (1 - alphas_cumprod)
    snr = exact.clamp(_LEAST_SNR, _LARGEST_SNR)
    weights = _weights(snr, weighting, target)
    for edge, further in ((_LEAST_SNR, 0.01), (_LARGEST_SNR, 100.0)):
        at_edge = exact <= edge if further < 1 else exact >= edge
        if at_edge.any() and _grows(edge, further, weighting, target):
            where = "0, at the end of a schedule with zero terminal SNR" if further < 1 else "infinity"
            raise ValueError(
                f"weighting {weighting!r} is infinite on target {target!r} where SNR is {where} (timestep "
                f"{int(at_edge.nonzero()[0])}); choose another target or weighting, or a schedule without it."
            )
    return weights


def denoising_target(
    clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, alphas_cumprod: torch.Tensor, target: str
) -> torch.Tensor:
    """What the network should predict for ``sqrt(ᾱ) clean + sqrt(1 - ᾱ) noise``, all ``(B, …)``.

    Args:
        timesteps: ``(B,)`` in [0, T).
        target: ``noise``, ``x0`` (``clean``) or ``velocity``, sqrt(ᾱ) noise - sqrt(1 - ᾱ) clean.
    """
    if target != "velocity":
        return noise if target == "noise" else clean
    signal, spread = signal_and_spread(timesteps, alphas_cumprod, clean)
    return signal * noise - spread * clean


def predicted_clean(
    noisy: torch.Tensor,
    prediction: torch.Tensor,
    timesteps: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    target: str,
) -> torch.Tensor:
    """The clean sample that a prediction implies; infinite for the noise target where SNR is 0."""
    if target == "x0":
        return prediction
    signal, spread = signal_and_spread(timesteps, alphas_cumprod, noisy)
    return (noisy - spread * prediction) / signal if target == "noise" else signal * noisy - spread * prediction


def signal_and_spread(
    timesteps: torch.Tensor, alphas_cumprod: torch.Tensor, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """sqrt(ᾱ) and sqrt(1 - ᾱ) of the timesteps, shaped ``(B, 1, …)`` to go with ``like (B, …)``."""
    alphas = alphas_cumprod.to(like.device, like.dtype)[timesteps].view(-1, *[1] * (like.ndim - 1))
    return alphas.sqrt(), (1 - alphas).sqrt()


class DenoisingLoss:
    """Weighted squared error of a network's predictions.

    Args:
        alphas_cumprod: ``(T,)`` of the noise schedule.
        weighting: a key of :data:`CLEAN_WEIGHTS`.
        target: ``noise``, ``x0`` or ``velocity``.

    Raises:
        ValueError: see :func:`loss_weights`.
    """

    def __init__(self, alphas_cumprod: torch.Tensor, weighting: str = "debias", target: str = "noise"):
        self.alphas_cumprod = alphas_cumprod
        self.weighting = weighting
        self.target = target
        self.weights = loss_weights(alphas_cumprod, weighting, target)

    def draw(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        """Timesteps ``(B,)``, one from each B-th part; ``generator`` is on the CPU."""
        return stratified(batch, len(self.alphas_cumprod), generator)

    def timesteps_at(self, position: torch.Tensor) -> torch.Tensor:
        """The timesteps themselves: they are the positions."""
        return position

    def add_noise(self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The network's input ``(B, …)``."""
        signal, spread = signal_and_spread(timesteps, self.alphas_cumprod, clean)
        return signal * clean + spread * noise

    def __call__(
        self, prediction: torch.Tensor, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """Loss ``(B,)`` in float32: the weight times the mean squared error over each sample's values."""
        wanted = denoising_target(clean, noise, timesteps, self.alphas_cumprod, self.target)
        errors = (prediction.float() - wanted.float()).square().flatten(1).mean(dim=1)
        return errors * self.weights.to(errors.device)[timesteps]


def check_names(weighting: str, target: str) -> None:
    """Raise ``ValueError`` for an unknown weighting or target."""
    if weighting not in CLEAN_WEIGHTS:
        raise ValueError(f"weighting is {weighting!r}; choose one of {', '.join(CLEAN_WEIGHTS)}.")
    if target not in ERROR_FACTORS:
        raise ValueError(f"target is {target!r}; choose one of {', '.join(ERROR_FACTORS)}.")


def target_of(prediction_type: str) -> str:
    """The target that a scheduler's ``prediction_type`` names.

    Raises:
        ValueError: it names none of the three.
    """
    for target, name in PREDICTION_TYPES.items():
        if name == prediction_type:
            return target
    raise ValueError(f"prediction_type is {prediction_type!r}; the trainer knows {list(PREDICTION_TYPES.values())}.")


def _weights(snr: torch.Tensor, weighting: str, target: str) -> torch.Tensor:
    return CLEAN_WEIGHTS[weighting](snr) / ERROR_FACTORS[target](snr)


def _grows(edge: float, further: float, weighting: str, target: str) -> bool:
    """Whether the weight keeps growing beyond the edge, so that its limit is infinite."""
    near, far = _weights(torch.tensor([edge, edge * further], dtype=torch.float64), weighting, target)
    return bool(far > 2 * near)
