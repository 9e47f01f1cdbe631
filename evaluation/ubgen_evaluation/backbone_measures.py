"""Every figure of one backbone, on the sets that the settings name, each with its interval."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ubgen_pipeline.dataset.labelled_images import load_labelled_images
from ubgen_pipeline.mini.scenes import CLASS_NAMES

from . import mini_sets
from .backbones import Backbone
from .background_gap import background_gap, coarse_correct, load_coarse_classes
from .bias_sets import category_correct, load_cue_conflict, load_focus, load_imagenet9
from .class_matching import class_positions
from .context_bias import context_bias
from .evaluate_settings import EvaluateSettings
from .feature_extraction import FeatureSet, extract_features
from .intervals import Interval, bootstrap_interval, seed_interval
from .linear_transfer import linear_transfer
from .texture_inclination import category_decisions, load_categories, texture_inclination
from .transfer_sets import load_transfer_set

# of the scenes that stand for the real images, in which a class nearly always has its own background and texture
_REAL_BIAS = 0.95


def measure_backbone(backbone: Backbone, settings: EvaluateSettings) -> dict[str, Interval]:
    """Figures by name, in [0, 1] (ratios of context bias can exceed 1).

    Raises:
        ValueError: a set that cannot be read, or a backbone without a classifier where one is needed.
    """
    figures: dict[str, Interval] = {}

    def run(images: Any) -> FeatureSet:
        return extract_features(backbone, images, batch_size=settings.batch_size, cache_dir=settings.cache_folder)

    def interval(measure: Callable[..., float], *arrays: np.ndarray) -> Interval:
        return bootstrap_interval(measure, *arrays, num_resamples=settings.num_resamples, seed=settings.seed)

    if settings.mini_world:
        figures |= _mini_world(backbone, settings, run, interval)
    if settings.test is not None:
        images = load_labelled_images(settings.test, split=settings.test_split, skip_damaged=settings.skip_damaged)
        probabilities = _probabilities(backbone, run(images.rows), settings.test)
        # which class of the test set each of the backbone's is
        classes = class_positions(
            backbone.class_names or _numbered(probabilities.shape[1]),
            images.class_names,
            f"backbone {backbone.name!r}",
            f"test {settings.test!r}",
        )
        predicted, labels = classes[probabilities.argmax(axis=1)], np.array(images.rows["label"])
        figures["accuracy"] = interval(lambda hits: float(hits.mean()), predicted == labels)
    if settings.cue_conflict is not None and settings.categories is not None:
        stimuli = load_cue_conflict(settings.cue_conflict)
        probabilities = _probabilities(backbone, run(stimuli.files), settings.cue_conflict)
        decisions = category_decisions(probabilities, load_categories(settings.categories))
        arrays = decisions, np.array(stimuli.shapes), np.array(stimuli.textures)
        figures |= _texture(interval, *arrays)
    if settings.imagenet9 is not None and settings.coarse_classes is not None:
        mapping = load_coarse_classes(settings.coarse_classes)
        correct = []
        for variant in ("mixed_same", "mixed_rand"):
            coarse = load_imagenet9(settings.imagenet9, variant)
            predicted = _predicted(backbone, run(coarse.files), settings.imagenet9, len(mapping))
            correct.append(coarse_correct(predicted, coarse.labels, mapping))
        figures |= _background(interval, *correct)
    if settings.focus is not None and settings.focus_classes is not None:
        contexts = load_focus(settings.focus)
        predicted = _probabilities(backbone, run(contexts.files), settings.focus).argmax(axis=1)
        hits = category_correct(predicted, contexts.categories, load_categories(settings.focus_classes))
        figures |= _context(interval, hits, contexts.num_uncommon)
    accuracies = []
    for item in settings.transfer or []:
        name, _, source = item.partition("=")
        target = load_transfer_set(name, source, seed=settings.seed)
        val = target.val
        train, test = ((run(part.images).features, part.labels) for part in (target.train, target.test))
        held_out = (None, None) if val is None else (run(val.images).features, val.labels)
        values = _probes(train, held_out, test, settings)
        figures[f"transfer {name}"] = seed_interval(values)
        accuracies.append(values)
    if len(accuracies) > 1:
        figures["transfer average"] = seed_interval(np.mean(accuracies, axis=0).tolist())
    return figures


def _mini_world(backbone: Backbone, settings: EvaluateSettings, run: Any, interval: Any) -> dict[str, Interval]:
    figures: dict[str, Interval] = {}
    number, split = settings.num_scenes, settings.mini_split
    if backbone.logits is not None:
        to_class = _mini_classes(backbone)
        for name, bias in (("accuracy", 0.0), ("accuracy biased scenes", _REAL_BIAS)):
            world = mini_sets.validation_scenes(number, split=split, bias=bias)
            figures[name] = interval(lambda hits: float(hits.mean()), to_class(run(world.images)) == world.labels)
        stimuli, textures = mini_sets.cue_conflict_arrays(number, split=split)
        figures |= _texture(interval, to_class(run(stimuli.images)), stimuli.labels, textures)
        contexts, num_uncommon = mini_sets.context_arrays(number, split=split)
        figures |= _context(interval, to_class(run(contexts.images)) == contexts.labels, num_uncommon)
        correct = []
        for kind in ("same", "random"):
            swapped = mini_sets.background_swap_arrays(number, kind, split=split)
            correct.append(to_class(run(swapped.images)) == swapped.labels)
        figures |= _background(interval, *correct)
    train, test = mini_sets.transfer_arrays(settings.transfer_images, number, split=split)
    (rows, labels), held = [(run(part.images).features, part.labels) for part in (train, test)]
    for share in settings.transfer_shares:
        # a prefix: balanced, and part of every larger one
        count = round(share * len(labels))
        values = _probes((rows[:count], labels[:count]), (None, None), held, settings)
        figures[f"transfer novel silhouettes{'' if share == 1 else f' {share:.0%}'}"] = seed_interval(values)
    return figures


def _mini_classes(backbone: Backbone) -> Callable[[FeatureSet], np.ndarray]:
    """A function to predictions as labels of the mini world, by the names of the backbone's classes."""
    missing = [name for name in CLASS_NAMES if name not in backbone.class_names]
    if missing:
        raise ValueError(
            f"backbone {backbone.name!r} has no class {missing[0]!r}; the mini world's classes are "
            f"{', '.join(CLASS_NAMES)}. Train one on them, or leave --mini-world out."
        )
    # other classes it may have are wrong for every scene
    table = np.array([CLASS_NAMES.index(name) if name in CLASS_NAMES else -1 for name in backbone.class_names])

    def predicted(found: FeatureSet) -> np.ndarray:
        return table[_probabilities(backbone, found, "the mini world").argmax(axis=1)]

    return predicted


def _probes(train: Any, val: Any, test: Any, settings: EvaluateSettings) -> list[float]:
    """The probe's accuracy for each seed, on features and labels of each split."""
    (train_rows, train_labels), (val_rows, val_labels), (test_rows, test_labels) = train, val, test
    trials = settings.probe_trials
    found = [
        linear_transfer(
            train_rows, train_labels, val_rows, val_labels, test_rows, test_labels, seed, num_trials=trials
        )
        for seed in settings.seeds
    ]
    return [one.accuracy for one in found]


def _texture(interval: Any, *arrays: np.ndarray) -> dict[str, Interval]:
    names = ("shape_fraction", "texture_fraction", "inclination")
    return {
        f"texture {name}": interval(lambda *a, n=name: getattr(texture_inclination(*a), n), *arrays) for name in names
    }


def _context(interval: Any, *arrays: np.ndarray) -> dict[str, Interval]:
    names = ("accuracy_0", "cb_1", "cb_2", "cb_3", "average", "pooled")
    return {f"context {name}": interval(lambda *a, n=name: getattr(context_bias(*a), n), *arrays) for name in names}


def _background(interval: Any, *arrays: np.ndarray) -> dict[str, Interval]:
    names = ("mixed_same", "mixed_rand", "gap")
    return {
        f"background {name}": interval(lambda *a, n=name: getattr(background_gap(*a), n), *arrays) for name in names
    }


def _numbered(count: int) -> tuple[str, ...]:
    """Stand-ins for the names of a backbone that came without."""
    return tuple(f"class number {number}" for number in range(count))


def _probabilities(backbone: Backbone, found: FeatureSet, where: str) -> np.ndarray:
    if found.probabilities is None:
        raise ValueError(f"backbone {backbone.name!r} has no classifier, which {where} needs; leave that set out.")
    return found.probabilities


def _predicted(backbone: Backbone, found: FeatureSet, where: str, num_classes: int) -> np.ndarray:
    probabilities = _probabilities(backbone, found, where)
    if probabilities.shape[1] != num_classes:
        raise ValueError(
            f"backbone {backbone.name!r} has {probabilities.shape[1]} classes, {where} {num_classes}; use one that "
            "was trained on the same classes."
        )
    return probabilities.argmax(axis=1)
