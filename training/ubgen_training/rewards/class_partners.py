"""How many images of a class a training batch holds, for rewards that compare them with each other."""

import math
import warnings
from collections.abc import Sequence

from .reward_functions import RewardFunction, reward_name

# of images with another of their class in the batch; with fewer the reward says little
_LEAST_SHARE = 0.5


def compares_within_class(reward: RewardFunction) -> bool:
    """Whether the reward compares the images of a class in a batch, which it says by that attribute."""
    return getattr(reward, "compares_within_class", False)


def partner_share(num_classes: int, class_repeats: int, batch_size: int, group_size: int = 1) -> float:
    """Share of images with another of their class in their batch, expected over orders of an epoch.

    Args:
        num_classes: of the list.
        class_repeats: images of each in an epoch.
        batch_size: images of a batch, drawn without putting back.
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
    names = [reward_name(reward) for reward in rewards if compares_within_class(reward)]
    if not names:
        return
    share = partner_share(num_classes, class_repeats, batch_size, group_size)
    facts = (
        f"reward {names[0]!r} compares the images of a class in a batch, but with per_device_train_batch_size "
        f"{batch_size} and class_repeats {class_repeats}"
    )
    advice = "set images_per_class_in_batch to 2 or more"
    if share == 0:
        raise ValueError(f"{facts} no batch holds two; {advice}.")
    if share < _LEAST_SHARE:
        warnings.warn(f"{facts} only {share:.0%} of the images have another of their class; {advice}.", stacklevel=3)
