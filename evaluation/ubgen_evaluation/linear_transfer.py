"""Transfer by a linear probe on frozen features, in the protocol of t-ReX (Sariyildiz et al. 2023).

Logistic regression (L2, L-BFGS, at most 2,000 iterations) on unnormalised features. The inverse strength C is drawn
log-uniformly from [1e-5, 1e6] by Optuna's TPE, 30 trials, each scored on 20% of every class of train and validation
together; the best C is refitted on all of them and scored on the test set. The figure is the mean over seeds.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .array_checks import check_features, check_same_length, check_same_width

C_RANGE = (1e-5, 1e6)
NUM_TRIALS = 30
HELD_OUT_SHARE = 0.2
MAX_ITERATIONS = 2000


class LinearTransfer(NamedTuple):
    """Means over seeds, in [0, 1]: ``accuracy`` on the test set and ``validation_accuracy`` on the held-out fifth.

    ``standard_error`` is that of ``accuracy``, NaN for one seed; ``c`` is the geometric mean of the chosen C.
    """

    accuracy: float
    standard_error: float
    validation_accuracy: float
    c: float


def linear_transfer(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    val_features: ArrayLike | None,
    val_labels: ArrayLike | None,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    seed: int | Sequence[int] = 0,
    *,
    num_trials: int = NUM_TRIALS,
) -> LinearTransfer:
    """Accuracy of a linear probe.

    Args:
        train_features: ``(N, F)``.
        train_labels: ``(N,)`` numbers or names of classes.
        val_features: ``(V, F)``, or None with ``val_labels`` where a set has no validation split.
        val_labels: ``(V,)``.
        test_features: ``(T, F)``.
        test_labels: ``(T,)``; only classes that train or validation hold too.
        seed: of the held-out fifth and of the search; several are averaged over.
        num_trials: of the search.

    Raises:
        ValueError: lengths or widths that differ, NaN features, fewer than two classes, a class with one sample, or a
            test class that was not trained on.
    """
    if (val_features is None) != (val_labels is None):
        raise ValueError("val_features and val_labels: one is None; give both or neither.")
    if num_trials < 1:
        raise ValueError(f"num_trials is {num_trials}; give 1 or more.")
    features, labels = _checked(train_features, train_labels, "train")
    test_rows, test_classes = _checked(test_features, test_labels, "test")
    check_same_width(train_features=features, test_features=test_rows)
    if val_features is not None:
        val_rows, val_classes = _checked(val_features, val_labels, "val")
        check_same_width(train_features=features, val_features=val_rows)
        features, labels = np.concatenate([features, val_rows]), np.concatenate([labels, val_classes])
    _check_classes(labels, test_classes)
    from threadpoolctl import threadpool_limits

    seeds = [seed] if isinstance(seed, (int, np.integer)) else list(seed)
    if not seeds:
        raise ValueError("seed is an empty list; give one seed or more.")
    accuracies, scores, choices = [], [], []
    # the products are small: on a busy machine threads wait for each other far longer than they compute
    with threadpool_limits(1):
        for one in seeds:
            held_out = held_out_mask(labels, np.random.default_rng(one))
            c, score = _search(features, labels, held_out, one, num_trials)
            accuracies.append(_accuracy(c, features, labels, test_rows, test_classes))
            scores.append(score)
            choices.append(c)
    error = np.std(accuracies, ddof=1) / np.sqrt(len(seeds)) if len(seeds) > 1 else np.nan
    return LinearTransfer(
        float(np.mean(accuracies)), float(error), float(np.mean(scores)), float(np.exp(np.mean(np.log(choices))))
    )


def held_out_mask(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """``(N,)`` bool: a random fifth of each class, one sample at least; every class keeps one."""
    mask = np.zeros(len(labels), dtype=bool)
    for name in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == name))
        mask[own[: max(1, round(HELD_OUT_SHARE * len(own)))]] = True
    return mask


def _search(features: np.ndarray, labels: np.ndarray, held_out: np.ndarray, seed: int, num_trials: int):
    import optuna

    def objective(trial) -> float:
        c = trial.suggest_float("C", *C_RANGE, log=True)
        return _accuracy(c, features[~held_out], labels[~held_out], features[held_out], labels[held_out])

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=int(seed)))
        study.optimize(objective, n_trials=num_trials)
    finally:
        optuna.logging.set_verbosity(before)
    return float(study.best_params["C"]), float(study.best_value)


def _accuracy(c: float, features: np.ndarray, labels: np.ndarray, rows: np.ndarray, classes: np.ndarray) -> float:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(C=c, solver="lbfgs", max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        # the protocol bounds the iterations, and at C = 1e6 they often do not suffice
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(features, labels)
    return float(np.mean(probe.predict(rows) == classes))


def _checked(features: ArrayLike | None, labels: ArrayLike | None, name: str) -> tuple[np.ndarray, np.ndarray]:
    rows, classes = check_features(features, f"{name}_features"), np.asarray(labels)
    if classes.ndim != 1 or classes.dtype.kind not in "iuU":
        raise ValueError(
            f"{name}_labels has shape {classes.shape} and type {classes.dtype}; give one integer or name per sample."
        )
    check_same_length(**{f"{name}_features": rows, f"{name}_labels": classes})
    return rows, classes


def _check_classes(labels: np.ndarray, test_labels: np.ndarray) -> None:
    names, counts = np.unique(labels, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"train_labels holds the class {names[0]} only; give two or more.")
    if (counts < 2).any():
        raise ValueError(
            f"train_labels: class {names[counts < 2][0]} has one sample in train and validation together; a fifth of "
            "each class is held out, so give two or more."
        )
    unknown = np.setdiff1d(test_labels, names)
    if len(unknown):
        raise ValueError(f"test_labels holds class {unknown[0]}, of which there is nothing to train on.")
