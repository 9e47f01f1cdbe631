"""What is learnt from finished samples and their rewards, at any noise level, by the denoiser's predictions alone.

``nft`` is DiffusionNFT's (arXiv 2509.16117, Eq. 5, with the weights of its code). A sample x0 that is good with
probability r, between 0 and 1, is learnt by the prediction v+ and unlearnt by v-, both of which hold the trained one,
v, against the one that drew the sample, v_old:

    v+ = (1 - beta) v_old + beta v      v- = (1 + beta) v_old - beta v
    loss = r ||x0(v+) - x0||^2 / w+ + (1 - r) ||x0(v-) - x0||^2 / w-

x0(v) being the clean sample that a prediction implies, and each w its mean absolute error, a constant.

``awm`` is the policy gradient of advantage-weighted matching (arXiv 2509.25050): a sample's log-probability is minus
the squared error of the prediction, and the ratio to the old one is clipped as PPO's.

Shapes: B samples, C x h x w latents.
"""

import torch

# keeps a prediction without any error from dividing by 0
_SMALLEST_ERROR = 1e-5


def optimality(advantages: torch.Tensor, largest: float) -> torch.Tensor:
    """r ``(B,)`` in [0, 1] of advantages in [-``largest``, ``largest``]; 0.5 is neither good nor bad."""
    return (advantages / (2 * largest) + 0.5).clamp(0, 1)


def mixed_predictions(
    prediction: torch.Tensor, old_prediction: torch.Tensor, beta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """v+ and v-, both ``(B, C, h, w)``; ``old_prediction`` is a constant."""
    old = old_prediction.detach()
    return old + beta * (prediction - old), old - beta * (prediction - old)


def weighed_error(implied: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Mean squared error ``(B,)`` of ``implied (B, C, h, w)``, divided by its mean absolute error as a constant."""
    difference = (implied.float() - clean.float()).flatten(1)
    size = difference.detach().abs().mean(dim=1).clamp(min=_SMALLEST_ERROR)
    return difference.square().mean(dim=1) / size


def nft_loss(
    positive: torch.Tensor, negative: torch.Tensor, clean: torch.Tensor, optimality: torch.Tensor
) -> torch.Tensor:
    """Loss ``(B,)`` of the clean samples that v+ and v- imply, and the true ones, all ``(B, C, h, w)``."""
    return optimality * weighed_error(positive, clean) + (1 - optimality) * weighed_error(negative, clean)


def matching_log_probability(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Minus the mean squared error ``(B,)`` of a prediction, both ``(B, C, h, w)``."""
    return -(prediction.float() - target.float()).square().flatten(1).mean(dim=1)
