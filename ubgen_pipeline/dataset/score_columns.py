"""The dataset columns of scores. No torch.

    clip_score              cosine of the image and its own class's text for a CLIP, from -1 to 1
    zero_shot_label         the class whose text is nearest
    zero_shot_probability   that class's, by a softmax over all classes
    perceptual_hash         16 hexadecimal digits; near-duplicates differ in few bits
    duplicate_group         index of the first row of the row's group of near-duplicates; only of a finished dataset
    nsfw_content_detected   whether a safety checker flagged the image

An image that is black all over, as a safety checker leaves it, shows nothing: its CLIP scores and hash are null.
"""

from collections.abc import Collection, Sequence
from typing import Any

CLIP_COLUMNS = ("clip_score", "zero_shot_label", "zero_shot_probability")
HASH_COLUMN = "perceptual_hash"
GROUP_COLUMN = "duplicate_group"
SAFETY_COLUMN = "nsfw_content_detected"


def score_features(wanted: Collection[str], names: Sequence[str]) -> dict[str, Any]:
    """The columns' ``datasets`` features, but for the group, which only a finished dataset has.

    Args:
        wanted: scores.
        names: of the classes, in the order of their labels.
    """
    from datasets import ClassLabel, Value

    columns: dict[str, Any] = {}
    if "clip" in wanted:
        features = (Value("float32"), ClassLabel(names=list(names)), Value("float32"))
        columns |= dict(zip(CLIP_COLUMNS, features))
    if "duplicates" in wanted:
        columns[HASH_COLUMN] = Value("string")
    if "safety" in wanted:
        columns[SAFETY_COLUMN] = Value("bool")
    return columns
