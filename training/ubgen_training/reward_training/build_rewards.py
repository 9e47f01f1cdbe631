"""Rewards by name, by pyiqa metric, or by import path, built from a trainer's settings."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch

from ubgen_pipeline.models.clip_encoders import ClipEncoder, load_clip_encoder

from ..rewards.class_variety import ClassVarietyReward
from ..rewards.clip_alignment import ClipAlignmentReward
from ..rewards.jpeg_size import JpegSizeReward
from ..rewards.logdet_variety import LogDetVarietyReward
from ..rewards.pyiqa_metrics import PyiqaReward
from ..rewards.quality import load_quality_reward
from ..rewards.recognition import DetectionReward, RecognitionReward
from ..rewards.relative_reward import RELATIVE_PREFIX, RelativeReward
from ..rewards.reward_functions import (
    RewardFunction,
    call_reward,
    check_differentiable,
    reads_whole_batch,
    reward_name,
)
from .config import SamplerConfig

PYIQA_PREFIX = "pyiqa:"
DETECTOR_PREFIX = "detector:"
# values of the images of noise: inside (0, 1), since some rewards have no gradient on a black image
PROBE_RANGE = (0.2, 0.8)
# of the features' size, by which those of different images must differ; rounding alone stays below
_LEAST_SPREAD = 1e-5
# those that read the features of clip_model
CLIP_REWARDS = frozenset({"clip_alignment", "class_variety", "logdet_variety"})


def build_reward(
    name: str,
    config: SamplerConfig,
    encoder: ClipEncoder | None,
    class_names: Sequence[str],
    setting: str = "reward_funcs",
) -> RewardFunction:
    """The reward called ``name``.

    Args:
        name: one of ``REWARDS``; ``pyiqa:METRIC``; ``detector:MODEL``; ``package.module:attribute``, a reward as
            described in :mod:`ubgen_training.rewards.reward_functions` or a class of such, which is then made without
            arguments; or ``relative:`` and one of these. Modules in the current folder are found.
        config: holds the settings of the named rewards.
        encoder: the CLIP of the rewards that read one, see :func:`needs_clip_encoder`.
        class_names: all names, in label order.
        setting: the one that holds ``name``, for errors.

    Raises:
        ValueError: there is none of that name, or it cannot be built or called.
    """
    if name in REWARDS:
        if name in CLIP_REWARDS and encoder is None:
            raise ValueError(f"{setting} holds {name!r}, but no CLIP encoder was loaded; set clip_model.")
        return REWARDS[name](config, encoder, class_names)
    if name.startswith(RELATIVE_PREFIX):
        inner = build_reward(name.removeprefix(RELATIVE_PREFIX), config, encoder, class_names, setting)
        return RelativeReward(inner, config.relative_prompt)
    if name.startswith(PYIQA_PREFIX):
        return PyiqaReward(name.removeprefix(PYIQA_PREFIX), setting)
    if name.startswith(DETECTOR_PREFIX):
        return DetectionReward(name.removeprefix(DETECTOR_PREFIX), setting)
    if ":" in name:
        return _import_reward(name, setting)
    raise ValueError(
        f"{setting} holds {name!r}; choose from {', '.join(REWARDS)}, {PYIQA_PREFIX}METRIC, {DETECTOR_PREFIX}MODEL, "
        f"or give an import path such as package.module:attribute, perhaps after {RELATIVE_PREFIX}."
    )


class TrainingRewards(NamedTuple):
    """``trained`` and ``heldout`` rewards, and the CLIP that they and the adversarial term share; None where none."""

    encoder: ClipEncoder | None
    trained: list[RewardFunction]
    heldout: list[RewardFunction]


def build_rewards(config: SamplerConfig, class_names: Sequence[str], *, with_clip: bool = False) -> TrainingRewards:
    """All rewards that ``config`` names; the CLIP is loaded where one of them reads it, and with ``with_clip``.

    Raises:
        ValueError: see :func:`build_reward`; or a CLIP that cannot be loaded.
    """
    needs_clip = with_clip or needs_clip_encoder([*config.reward_funcs, *config.heldout_reward_funcs])
    encoder = load_clip_encoder(config.clip_model) if needs_clip else None
    trained, heldout = (
        [build_reward(name, config, encoder, class_names, setting) for name in getattr(config, setting)]
        for setting in ("reward_funcs", "heldout_reward_funcs")
    )
    return TrainingRewards(encoder, trained, heldout)


def needs_clip_encoder(reward_funcs: Sequence[str]) -> bool:
    """Whether one of the rewards called so reads the features of ``clip_model``."""
    return not CLIP_REWARDS.isdisjoint(name.removeprefix(RELATIVE_PREFIX) for name in reward_funcs)


def probe_rewards(
    reward_funcs: Sequence[RewardFunction],
    class_names: Sequence[str],
    *,
    height: int,
    width: int,
    encoder: ClipEncoder | None = None,
    device: torch.device | str = "cpu",
    differentiable: bool = True,
) -> None:
    """Call each reward once on images of noise, before any sampling, so that a faulty one is found at once.

    There are two images, of the first class and the last; for a reward that reads the whole batch, two of each.

    Args:
        class_names: all names, in label order.
        height, width: of the images that the sampler will give.
        encoder: gives the rewards' ``image_features``; None gives them None.
        differentiable: whether the rewards must have a gradient.

    Raises:
        ValueError: a reward answers with a wrong shape or, where one is needed, without gradient; or the encoder
            gives different images the same features.
        FloatingPointError: a value is not finite.
    """
    low, high = PROBE_RANGE
    for num_each in (1, 2):
        probed = [reward for reward in reward_funcs if reads_whole_batch(reward) == (num_each == 2)]
        if not probed:
            continue
        noise = torch.rand(2 * num_each, 3, height, width, generator=torch.Generator().manual_seed(0))
        images = (low + (high - low) * noise).to(device).requires_grad_(differentiable)
        labels = torch.tensor([0, len(class_names) - 1], device=device).repeat_interleave(num_each)
        names = [class_names[int(label)] for label in labels.tolist()]
        seeds = tuple(range(len(labels)))
        with torch.set_grad_enabled(differentiable):
            features = encoder.encode_images(images) if encoder is not None else None
            if features is not None:
                _check_features(features)
            for reward in probed:
                if differentiable:
                    check_differentiable(reward)
                values = call_reward(reward, images, names, labels, step=0, image_features=features, seeds=seeds)
                if isinstance(reward, RelativeReward):
                    reward.check_reads_names(values)
                if differentiable:
                    _check_gradient(reward_name(reward), values, images)


def _check_features(features: torch.Tensor) -> None:
    spread, size = (features - features[:1]).detach().abs().max(), features.detach().abs().max()
    if spread <= _LEAST_SPREAD * size:
        raise ValueError(
            "clip_model gives different images of noise the same features, so no reward can compare images by them; "
            "check its weights, or name another clip_model."
        )


def _check_gradient(name: str, values: torch.Tensor, images: torch.Tensor) -> None:
    (gradient,) = torch.autograd.grad(values.sum(), images, retain_graph=True, allow_unused=True)
    if gradient is None or not gradient.any():
        raise ValueError(
            f"reward {name!r} has no gradient with respect to the images; compute it from them differentiably."
        )
    if not torch.isfinite(gradient).all():
        raise FloatingPointError(f"the gradient of reward {name!r} is not finite on an image of noise; correct it.")


def _import_reward(path: str, setting: str) -> RewardFunction:
    module_name, _, attribute = path.partition(":")
    reward: Any
    # Python searches the script's own folder, but not the current one
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        reward = importlib.import_module(module_name)
        for part in attribute.split("."):
            reward = getattr(reward, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{setting} holds {path!r}, which cannot be imported ({error}); give package.module:attribute of an "
            "installed package or of a module in the current folder."
        ) from error
    if inspect.isclass(reward):
        try:
            reward = reward()
        except TypeError as error:
            raise ValueError(
                f"{setting} holds {path!r}, a class that cannot be made without arguments ({error}); give a "
                "function or an object that is ready to be called."
            ) from error
    if not callable(reward):
        raise ValueError(f"{setting} holds {path!r}, which is {type(reward).__name__} and cannot be called.")
    try:
        inspect.signature(reward).bind((), (), (), image_features=None, seeds=(), step=0)
    except TypeError as error:
        raise ValueError(
            f"{setting} holds {path!r}, which cannot be called as a reward ({error}); "
            "define it as f(images, class_names, labels, **kwargs)."
        ) from error
    return cast(RewardFunction, reward)


def _clip_alignment(config: SamplerConfig, encoder: ClipEncoder | None, class_names: Sequence[str]) -> RewardFunction:
    assert encoder is not None
    return ClipAlignmentReward(
        encoder, class_names, config.clip_prompt, config.alignment_pairs, config.clip_negative_prompt
    )


def _class_variety(config: SamplerConfig, encoder: ClipEncoder | None, class_names: Sequence[str]) -> RewardFunction:
    assert encoder is not None
    return ClassVarietyReward(encoder, class_names, config.clip_prompt)


def _logdet_variety(config: SamplerConfig, encoder: ClipEncoder | None, class_names: Sequence[str]) -> RewardFunction:
    assert encoder is not None
    return LogDetVarietyReward(
        encoder,
        class_names,
        config.clip_prompt,
        memory=config.variety_memory,
        across=config.variety_across,
        noise=config.variety_noise,
        centre_batches=config.variety_centre_batches,
    )


def _recognised(config: SamplerConfig, encoder: ClipEncoder | None, class_names: Sequence[str]) -> RewardFunction:
    # an own one, even of the same name: the other's features carry gradient
    own = load_clip_encoder(config.recognition_model, "recognition_model")
    return RecognitionReward(own, class_names, config.clip_prompt)


def _quality(config: SamplerConfig, encoder: ClipEncoder | None, class_names: Sequence[str]) -> RewardFunction:
    dtype = torch.float16 if config.fp16 else torch.bfloat16 if config.bf16 else torch.float32
    return load_quality_reward(config.quality_model, dtype)


REWARDS: dict[str, Callable[[SamplerConfig, ClipEncoder | None, Sequence[str]], RewardFunction]] = {
    "clip_alignment": _clip_alignment,
    "quality": _quality,
    "class_variety": _class_variety,
    "logdet_variety": _logdet_variety,
    "recognised": _recognised,
    "jpeg_size": lambda *_: JpegSizeReward(),
    "jpeg_incompressibility": lambda *_: JpegSizeReward(incompressible=True),
}
