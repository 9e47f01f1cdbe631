"""The figures of the evidence by name, and how they are read out of ``results.json``."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from benchmarks.evidence.stages import (
    BARE_ARM,
    BEGUN_ARM,
    CAPTIONED_ARM,
    FULL_LOSS,
    LOGDET_ARM,
    VARIETY_ARM,
    VARIETY_REWARD,
    ablation,
)

# the arms that are not the paper's: what tables and plots call them, in two words, and what each has besides
OWN_ARMS = {
    VARIETY_ARM: ("ubgen", "variety", f"`{VARIETY_REWARD}`"),
    LOGDET_ARM: ("ubgen", "log-det", "`logdet_variety`"),
    BEGUN_ARM: ("distilled", "log-det", "`logdet_variety`"),
    CAPTIONED_ARM: ("ubgen", "captions", "captions that name backgrounds and textures"),
}
ARM_MEANINGS = {
    "real": "no generator: rendered scenes of the biased world, on which the generator was trained",
    "unbiased": "no generator: rendered scenes in which backgrounds and textures are independent of the class, the "
    "ceiling",
    "base": "the generator as it is",
    "cads": "the generator as it is, drawing with condition-annealed noise "
    "([CADS](../docs/generate.md#more-diverse-images)) of scale 1",
    "prompted": "the generator as it is, with every background and texture of the world named in the prompts",
    "prompted_kept": "several times as many images of prompted, those left out whose class CLIP is not sure of",
    "distilled": "a LoRA trained on the prompted images that CLIP recognises, under the bare class names",
    BARE_ARM: "**not the paper's**: a LoRA trained on the images of captioned under the bare class names, with which "
    "it is drawn; the images whose class CLIP is not sure of are left out",
    "ubgen": "tuned with the paper's full loss",
    "ubgen_variety": "**not the paper's**: tuned with that loss and a reward of ubgen's own, `class_variety`, for "
    "variety within a class ([Rewards](../docs/rewards.md#variety-within-a-class))",
    "ubgen_logdet": "**not the paper's**: tuned with its alignment and with ubgen's own `logdet_variety` "
    "([Rewards](../docs/rewards.md#variety-as-volume)), without L_en and L_q",
    "distilled_logdet": "**not the paper's**: tuned as ubgen_logdet, beginning at the LoRA of distilled",
    CAPTIONED_ARM: "**not the paper's**: tuned with its alignment alone on captions that name every background and "
    "texture, and drawn with such prompts; the images whose class CLIP is not sure of are left out",
    "with_en": "tuned with L_en, the adversarial term, added",
    "with_q": "tuned with L_q, the quality, added",
    "no_variety": "tuned without the reward for variety",
    "no_en": "tuned without L_en, the adversarial term",
    "no_in": "tuned without L_in, the alignment with the class's own text",
    "no_q": "tuned without L_q, the quality",
    "weak_clip": "tuned with a weaker CLIP",
    "unfiltered": "no images left out, as many drawn as the other arms have",
}


class Figure(NamedTuple):
    """A row of the tables: ``sign`` is 1 where higher is better, -1 where lower is; ``is_share`` prints percent."""

    key: str
    label: str
    sign: int
    is_share: bool = True


BACKBONE_FIGURES = [
    Figure("accuracy", "accuracy, unbiased scenes", 1),
    Figure("accuracy biased scenes", "accuracy, biased scenes (CAS)", 1),
    Figure("texture inclination", "texture inclination, TI", -1),
    Figure("texture shape_fraction", "shape fraction", 1),
    Figure("texture texture_fraction", "texture fraction", -1),
    Figure("context average", "context bias, average", 1),
    Figure("context cb_1", "CB_1", 1),
    Figure("context cb_2", "CB_2", 1),
    Figure("context cb_3", "CB_3", 1),
    Figure("context pooled", "context bias, pooled", 1),
    Figure("background gap", "background gap, BG-gap", -1),
    Figure("background mixed_same", "accuracy, Mixed-Same", 1),
    Figure("background mixed_rand", "accuracy, Mixed-Rand", 1),
]
IMAGE_FIGURES = [
    Figure("class accuracy", "images recognised as their class", 1),
    Figure("own background", "own background", -1),
    Figure("own texture", "own texture", -1),
    Figure("background entropy", "background entropy, bits", 1, False),
    Figure("texture entropy", "texture entropy, bits", 1, False),
    Figure("hue entropy", "hue entropy, bits", 1, False),
    Figure("pairwise distance", "pairwise CLIP distance", 1, False),
    Figure("FID", "FID to unbiased scenes", -1, False),
    Figure("precision", "precision", 1),
    Figure("recall", "recall", 1),
]


def transfer_key(share: float) -> str:
    """Name of the transfer figure for a share of the training images, as ``ubgen evaluate`` gives it."""
    return "transfer novel silhouettes" + ("" if share == 1 else f" {share:.0%}")


def transfer_figures(results: Mapping[str, Any]) -> list[Figure]:
    """One for each share of the training images, the largest first."""
    number, found = results["settings"]["transfer_images"], []
    for share in sorted(results["settings"]["transfer_shares"], reverse=True):
        found.append(Figure(transfer_key(share), f"transfer, {share:.0%} ({round(share * number)} images)", 1))
    return found


def all_figures(results: Mapping[str, Any]) -> list[Figure]:
    return [BACKBONE_FIGURES[0], *transfer_figures(results), *BACKBONE_FIGURES[1:], *IMAGE_FIGURES]


def values_of(results: Mapping[str, Any], arm: str, key: str) -> dict[int, float]:
    """A figure by seed, of the runs that have it."""
    return {run["seed"]: run["figures"][key] for run in results["runs"] if run["arm"] == arm and key in run["figures"]}


def arm_label(arm: str) -> str:
    """What tables and plots call an arm."""
    full = FULL_LOSS.get(arm, arm)
    if full not in OWN_ARMS:
        return arm
    first, second, _ = OWN_ARMS[full]
    return f"{first if arm == full else ablation(arm)} + {second}"


def arm_meaning(arm: str) -> str:
    """What the arm is, in Markdown."""
    full = FULL_LOSS.get(arm)
    if full in OWN_ARMS:
        return f"{ARM_MEANINGS[str(ablation(arm))]}, with {OWN_ARMS[full][2]}"
    return ARM_MEANINGS[arm]


def ablations_of(results: Mapping[str, Any], full: str) -> list[str]:
    """The arms there that leave something out of the loss of the arm ``full``."""
    return [arm for arm in arms_of(results) if FULL_LOSS.get(arm) == full]


def arms_of(results: Mapping[str, Any]) -> list[str]:
    """Arms of which there is a run, in the order asked for."""
    there = {run["arm"] for run in results["runs"]}
    return [arm for arm in results["settings"]["arms"] if arm in there]
