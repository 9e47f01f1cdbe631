"""Every figure of one dataset alone, each with its interval where samples can be resampled."""

from typing import Any, NamedTuple

import numpy as np

from ubgen_pipeline.commands.console import say, say_warning
from ubgen_pipeline.dataset.damaged_images import read_rows, without_damaged
from ubgen_pipeline.dataset.labelled_images import LabelledImages, load_labelled_images
from ubgen_pipeline.dataset.reader import open_rows
from ubgen_pipeline.mini.scenes import BACKGROUND_NAMES, CLASS_NAMES, OWN_BACKGROUND, OWN_TEXTURE, TEXTURE_NAMES
from ubgen_pipeline.models.clip_encoders import ClipEncoder

from .backbones import Backbone
from .class_matching import class_positions
from .context_recall import MIN_IMAGES, context_recall
from .dataset_bias import background_only, background_similarity, cluster_statistics
from .diversity import diversity
from .evaluate_settings import EvaluateSettings
from .factor_statistics import class_accuracy, factor_entropy, own_share
from .feature_extraction import extract_features, open_image
from .fidelity import fidelity
from .intervals import Interval, bootstrap_interval
from .object_hue import NUM_HUES, object_hue

# a context that fewer of its images show is warned of, the worst few by name
_LEAST_SHOWN = 0.5
_MOST_NAMED = 5


class Reference(NamedTuple):
    """Real images: features ``(N, F)``, labels ``(N,)``, names of the classes, and where they are from."""

    features: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    source: str


def measure_dataset(
    source: str, backbone: Backbone, settings: EvaluateSettings, reference: Reference | None
) -> dict[str, Interval]:
    """Figures by name; shares in [0, 1], entropies in bits.

    Args:
        source: the dataset.
        backbone: in whose features it is measured.
        settings: of the run.
        reference: real images to measure fidelity against.

    Raises:
        ValueError: the dataset cannot be read, has a class with one image, or other classes than the reference.
    """
    images = load_labelled_images(source, split=settings.split, skip_damaged=settings.skip_damaged)
    labels = np.array(images.rows["label"])
    figures: dict[str, Interval] = {"images": _plain(len(labels))}
    if settings.mini_world:
        figures |= _mini_factors(images, labels, settings)
    run = {"batch_size": settings.batch_size, "cache_dir": settings.cache_folder}
    features = extract_features(backbone, images.rows, **run).features

    def interval(measure: Any, *arrays: np.ndarray) -> Interval:
        return bootstrap_interval(measure, *arrays, num_resamples=settings.num_resamples, seed=settings.seed)

    figures["pairwise distance"] = _plain(diversity(labels, features=features).pairwise_distance)
    clusters = cluster_statistics(features, labels, seed=settings.seed)
    figures["cluster entropy"] = _plain(clusters.entropy)
    figures["cluster mutual information"] = _plain(clusters.mutual_information)
    # a list of rows would hold every image at once
    backgrounds = _Backgrounds(images.rows)
    background = extract_features(backbone, backgrounds, **run).features
    similarity = background_similarity(background, labels)
    figures["background similarity gap"] = _plain(similarity.gap)
    figures["background neighbour accuracy"] = _plain(similarity.neighbour_accuracy)
    if reference is not None:
        classes = class_positions(
            images.class_names, reference.class_names, f"dataset {source!r}", f"reference {reference.source!r}"
        )
        # a class that the reference does not have stays one of its own
        own = len(reference.class_names) + np.arange(len(classes))
        classes = np.where(classes < 0, own, classes)
        found = fidelity(
            reference.features,
            features,
            real_labels=reference.labels,
            generated_labels=classes[labels],
            seed=settings.seed,
        )
        figures |= {
            "FID": _plain(found.fid),
            "KID": _plain(found.kid),
            "precision": _plain(found.precision),
            "recall": _plain(found.recall),
            "classification accuracy score": _plain(found.classification_accuracy),
        }
    return figures


def measure_contexts(
    source: str, encoder: ClipEncoder, settings: EvaluateSettings
) -> tuple[dict[str, Interval], dict[str, Interval]]:
    """Whether images show what their prompts name, by :func:`.context_recall.context_recall`; shares in [0, 1].

    Args:
        source: the dataset.
        encoder: the CLIP that is asked.
        settings: of the run.

    Returns:
        The mean over the values of each placeholder, as ``background shown``, and the share of each, as
        ``background: brick``; both empty where the dataset names no contexts, which is said.

    Raises:
        ValueError: the dataset or one of its images cannot be read.
    """
    rows = open_rows(source, settings.split, argument="datasets")
    found = []
    if {"prompt", "attributes"} <= set(rows.features):
        rows = rows.select_columns(["image", "prompt", "attributes"])
        found = context_recall(
            without_damaged(rows, source) if settings.skip_damaged else rows, encoder, source, settings.seed
        )
    if not found:
        say(f"{source}: no context to ask for, two or more that each stand in {MIN_IMAGES} prompts or more")
    for item in sorted(found, key=lambda item: item.share)[:_MOST_NAMED]:
        if item.share < _LEAST_SHOWN:
            say_warning(
                f"{source}: {int(item.shown.sum())} of {len(item.shown)} images whose prompts name the"
                f" {item.placeholder} {item.value!r} show it"
            )
    shares = {
        f"{item.placeholder}: {item.value}": bootstrap_interval(
            np.mean, item.shown, num_resamples=settings.num_resamples, seed=settings.seed
        )
        for item in found
    }
    placeholders = dict.fromkeys(item.placeholder for item in found)
    means = {
        f"{name} shown": _plain(float(np.mean([item.share for item in found if item.placeholder == name])))
        for name in placeholders
    }
    return means, shares


class _Backgrounds:
    """The rows' images with their middle painted over, one by one."""

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self):
        for number, row in enumerate(read_rows(self.rows, "the dataset")):
            yield background_only(np.asarray(open_image(row, number)))


def _mini_factors(images: LabelledImages, labels: np.ndarray, settings: EvaluateSettings) -> dict[str, Interval]:
    from ubgen_pipeline.mini.judges import predict_factors

    unknown = [name for name in images.class_names if name not in CLASS_NAMES]
    if unknown:
        raise ValueError(f"dataset {images.source} has the class {unknown[0]!r}, which the mini world does not have.")
    rows = read_rows(images.rows, images.source)
    pixels = np.stack([np.asarray(open_image(row, number)) for number, row in enumerate(rows)])
    judged = predict_factors(pixels)
    world = np.array([CLASS_NAMES.index(name) for name in images.class_names])[labels]
    own_background = [BACKGROUND_NAMES.index(OWN_BACKGROUND[name]) for name in CLASS_NAMES]
    own_texture = [TEXTURE_NAMES.index(OWN_TEXTURE[name]) for name in CLASS_NAMES]
    number = len(CLASS_NAMES)

    def interval(measure: Any, values: np.ndarray) -> Interval:
        return bootstrap_interval(measure, values, world, num_resamples=settings.num_resamples, seed=settings.seed)

    return {
        "class accuracy": interval(lambda v, c: class_accuracy(v, c, number).mean, judged["class"]),
        "own background": interval(lambda v, c: own_share(v, own_background, c).mean, judged["background"]),
        "own texture": interval(lambda v, c: own_share(v, own_texture, c).mean, judged["texture"]),
        # without intervals: resampled entropies are lower than the sample's, so theirs would not hold it
        "background entropy": _plain(factor_entropy(judged["background"], len(BACKGROUND_NAMES), world, number).mean),
        "texture entropy": _plain(factor_entropy(judged["texture"], len(TEXTURE_NAMES), world, number).mean),
        "hue entropy": _plain(factor_entropy(object_hue(pixels), NUM_HUES + 1, world, number).mean),
    }


def _plain(value: float) -> Interval:
    return Interval(float(value), float("nan"), float("nan"))
