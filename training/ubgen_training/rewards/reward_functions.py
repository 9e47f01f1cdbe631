"""What a reward is, which ones have names, and the checks every reward's answer passes.

A reward is a callable ``(images, class_names, labels, **kwargs) -> (B,)``: ``images (B, 3, H, W)`` nominally in [0, 1]
but not clamped, because a clamp kills gradients; ``class_names`` the B names; ``labels (B,)`` integer. Of the keyword
arguments it takes what it needs: ``image_features (B, F)`` of the trainer's CLIP, ``seeds`` and ``step``. A reward
whose ``differentiable`` attribute is False cannot train by back-propagation. One whose values depend on the other
images of the batch sets ``reads_whole_batch``, so that it is not called on micro-batches; one that compares those of a
class sets ``compares_within_class`` too, so that a run whose batches hold no two of a class is refused.

A reward whose value belongs to a set of images, so that they all have the same one, has ``marginal``, which is called
as the reward is and gives each image its own part. Trainings without gradient call it, because equal values tell them
nothing.

A reward that remembers images has ``remember()``, which is called once after each batch that it trained on (a call
itself changes nothing, because rewards are evaluated on held-out samples, too), and ``state_dict()`` and
``load_state_dict()``, which checkpoints keep: the same on all processes. One that compares the images of all processes
has ``over_processes(gather, rank)``; see :class:`.LogDetVarietyReward`.
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

RewardFunction = Callable[..., torch.Tensor]
# of images with another of their class in the batch; with fewer, a reward that compares them says little
_LEAST_SHARE = 0.5


def reward_name(reward: RewardFunction) -> str:
    """The name a reward is logged under: its ``__name__``, else its class's."""
    return getattr(reward, "__name__", type(reward).__name__)


def reads_whole_batch(reward: RewardFunction) -> bool:
    """Whether the reward's values depend on the other images of the batch, which it says by that attribute."""
    return getattr(reward, "reads_whole_batch", False)


def compares_within_class(reward: RewardFunction) -> bool:
    """Whether the reward compares the images of a class in a batch, which it says by that attribute."""
    return getattr(reward, "compares_within_class", False)


def remember_batch(reward_funcs: Sequence[Any]) -> None:
    """Tell the rewards that remember images that the batch of their last call was trained on."""
    for reward in reward_funcs:
        if hasattr(reward, "remember"):
            reward.remember()


def reward_states(reward_funcs: Sequence[Any]) -> dict[str, Any]:
    """What the rewards have remembered, by name; empty where none remembers anything."""
    return {reward_name(reward): reward.state_dict() for reward in reward_funcs if hasattr(reward, "remember")}


def load_reward_states(reward_funcs: Sequence[Any], states: Mapping[str, Any]) -> None:
    """Restore what :func:`reward_states` gave."""
    for reward in reward_funcs:
        if hasattr(reward, "remember"):
            reward.load_state_dict(states[reward_name(reward)])


def check_reward_weights(reward_funcs: Sequence[Any], reward_weights: Sequence[float] | None) -> list[float]:
    """One weight per reward; None gives ones.

    Raises:
        ValueError: the lengths differ.
    """
    if reward_weights is None:
        return [1.0] * len(reward_funcs)
    if len(reward_weights) != len(reward_funcs):
        raise ValueError(
            f"reward_weights holds {len(reward_weights)} numbers for {len(reward_funcs)} reward_funcs; give one each."
        )
    return [float(weight) for weight in reward_weights]


def check_something_is_trained(reward_weights: Sequence[float] | None) -> None:
    """Raise ``ValueError`` where no reward has a weight, so that a training would draw images and learn nothing."""
    if reward_weights is not None and not any(reward_weights):
        raise ValueError(
            f"reward_weights is {list(reward_weights)}, so nothing is trained; give one reward or more of reward_funcs"
            " a weight other than 0."
        )


def check_reward_names(reward_funcs: Sequence[RewardFunction]) -> None:
    """Raise ``ValueError`` where two rewards have one name: their figures and what they remember go by it."""
    names = [reward_name(reward) for reward in reward_funcs]
    if len(set(names)) != len(names):
        raise ValueError(f"reward_funcs holds two rewards of one name among {names}; name them apart.")


def check_differentiable(reward: RewardFunction) -> None:
    """Raise ``ValueError`` for a reward that says it has no gradient."""
    if not getattr(reward, "differentiable", True):
        raise ValueError(
            f"reward {reward_name(reward)!r} is not differentiable, so it cannot train by back-propagation; "
            "remove it from reward_funcs (heldout_reward_funcs takes it), or train with train_ddpo.py or train_nft.py."
        )


def call_reward(
    reward: RewardFunction,
    images: torch.Tensor,
    class_names: Sequence[str],
    labels: torch.Tensor,
    *,
    step: int,
    marginal: bool = False,
    **kwargs: Any,
) -> torch.Tensor:
    """The reward's ``(B,)`` values, checked; with ``marginal`` each image's own part, of a reward that has one.

    Raises:
        ValueError: the answer is no tensor of shape ``(B,)``, or carries no gradient though the images do.
        FloatingPointError: a value is not finite.
    """
    name = reward_name(reward)
    call = getattr(reward, "marginal", reward) if marginal else reward
    values = call(images, class_names, labels, step=step, **kwargs)
    shape = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
    if shape != (len(images),):
        raise ValueError(f"reward {name!r} returned {shape} for {len(images)} images; return one number each.")
    if images.requires_grad and not values.requires_grad:
        raise ValueError(f"reward {name!r} returned values without gradient; compute them from images differentiably.")
    check_finite(values, name, step)
    return values


def check_finite(values: torch.Tensor, name: str, step: int) -> None:
    """Raise ``FloatingPointError`` naming the step and the term where a value is NaN or infinite."""
    if not torch.isfinite(values).all():
        raise FloatingPointError(
            f"step {step}: {name} is not finite ({values.detach().flatten()[:4].tolist()} …); "
            "training stopped before the weights were touched. Lower the learning rate or use a wider precision."
        )


def partner_share(num_classes: int, class_repeats: int, batch_size: int, group_size: int = 1) -> float:
    """Share of images with another of their class in their batch, expected over orders of an epoch.

    Args:
        num_classes: of the list.
        class_repeats: images of each in an epoch.
        batch_size: images of a batch, none of them twice.
        group_size: images of a class that always come together.
    """
    if group_size > 1:
        return 1.0
    others, own = num_classes * class_repeats - 1, class_repeats - 1
    num_drawn = min(batch_size - 1, others)
    if own + num_drawn > others:
        return 1.0
    return 1 - math.comb(others - own, num_drawn) / math.comb(others, num_drawn)


def check_partners(
    rewards: Sequence[RewardFunction], num_classes: int, class_repeats: int, batch_size: int, group_size: int
) -> None:
    """See that rewards which compare the images of a class will find several in a batch; warn where few will be.

    Raises:
        ValueError: a batch can never hold two images of a class.
    """
    check_partner_share(
        [reward for reward in rewards if compares_within_class(reward)],
        partner_share(num_classes, class_repeats, batch_size, group_size),
        f"with per_device_train_batch_size {batch_size} and class_repeats {class_repeats}",
        "batch",
        "set images_per_class_in_batch to 2 or more",
    )


def check_partner_share(
    rewards: Sequence[RewardFunction], share: float, settings: str, whole: str, advice: str
) -> None:
    """The same for a known ``share`` of images with another of their class in what the ``rewards`` compare.

    Args:
        settings: those that the share follows from, for the message.
        whole: what holds the images, for the message.
        advice: what to set.

    Raises:
        ValueError: the share is 0.
    """
    if not rewards:
        return
    facts = f"reward {reward_name(rewards[0])!r} compares the images of a class in a {whole}, but {settings}"
    if share == 0:
        raise ValueError(f"{facts} no {whole} holds two; {advice}.")
    if share < _LEAST_SHARE:
        warnings.warn(f"{facts} only {share:.0%} of the images have another of their class; {advice}.", stacklevel=4)


def check_memory(rewards: Sequence[Any], images_per_class: float) -> None:
    """Warn where a reward's ``memory`` of a class's images is larger than what a run shows of a class."""
    for reward in rewards:
        memory = getattr(reward, "memory", 0)
        if memory > images_per_class:
            warnings.warn(
                f"variety_memory is {memory}, but the run shows only about {images_per_class:.1f} images of each "
                f"class, so reward {reward_name(reward)!r} never remembers that many; train for longer, or lower it.",
                stacklevel=3,
            )
