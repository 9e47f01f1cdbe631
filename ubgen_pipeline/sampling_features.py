"""What takes part in the sampling of a call's batches: a protocol of four methods, and the small features.

Source images (``source_images.py``) and annotations from attention (``annotations.py``) are features too. The call
makes each object once and walks through its batches one after another, so an object may keep a batch's state between
``start`` and ``finish``.

Shapes: B samples, C x h x w latents, H x W pixels.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from .call_arguments import SampleBatch, check_counts
from .conditioning import Conditioning
from .deep_features import DeepFeatureDenoiser
from .latent_denoising import Denoiser, DenoisingStep, guided_prediction


@dataclass(frozen=True)
class Walk:
    """How a batch goes from noise to clean latents.

    Attributes:
        denoiser: as the loop takes it.
        latents: ``(B, C, h, w)`` to start from, with the noise of the first timestep.
        timesteps: ``(T,)``.
        conditioning: of B rows.
        negative: of B rows to guide away from, if anything.
        guidance_scale: that the loop guides with; 1 or less means none.
        guided_steps: positions of the steps that are guided; None: all.
    """

    denoiser: Denoiser
    latents: torch.Tensor
    timesteps: torch.Tensor
    conditioning: Conditioning
    negative: Conditioning | None = None
    guidance_scale: float = 1.0
    guided_steps: Collection[int] | None = None


@dataclass(frozen=True)
class FinishedBatch:
    """A batch after its last step.

    Attributes:
        images: ``(B, 3, H, W)`` in [0, 1]; or the latents ``(B, C, h, w)``, where those are asked for.
        is_decoded: whether they are images.
        flagged: B, which images the safety checker blackened; empty where nothing was checked.
        annotations: B ``SampleAnnotation``; empty where none are asked for.
    """

    images: torch.Tensor
    is_decoded: bool
    flagged: list[bool] = field(default_factory=list)
    annotations: list[Any] = field(default_factory=list)


class SamplingFeature:
    """Takes part in sampling. Each method here leaves everything as it is; a feature gives those that it needs."""

    def start(self, pipeline: Any, batch: SampleBatch, walk: Walk) -> Walk:
        """Before the first step: the walk to go, this one or another."""
        return walk

    def after_step(self, pipeline: Any, step: DenoisingStep) -> None:
        """After every step; may write into ``step.latents``."""

    def stop(self) -> None:
        """When the walk ends, by an error too, and even where ``start`` was not reached."""

    def finish(self, pipeline: Any, finished: FinishedBatch) -> FinishedBatch:
        """When the images are there: what becomes of them."""
        return finished


@dataclass(frozen=True)
class Shortcuts(SamplingFeature):
    """What is faster and gives other images.

    Attributes:
        guidance_until: share of the steps, from the first on, that are guided.
        deep_features_every: the denoiser's deep layers run at every n-th step only; 1: always.

    Raises:
        ValueError: a value out of range.
    """

    guidance_until: float = 1.0
    deep_features_every: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.guidance_until <= 1:
            raise ValueError(f"guidance_until is {self.guidance_until}; give a share of the steps, from 0 to 1.")
        check_counts(deep_features_every=self.deep_features_every)

    def check_beside(self, *, annotations: bool, attention_kwargs: bool) -> None:
        """Raise ``ValueError`` where a shortcut would spoil what else is asked for."""
        if self.deep_features_every > 1 and annotations:
            raise ValueError(
                f"deep_features_every is {self.deep_features_every}, and annotations need the attention of every step;"
                " give 1, or annotate the finished dataset with `ubgen annotate`."
            )
        if self.deep_features_every > 1 and attention_kwargs:
            raise ValueError(
                f"deep_features_every is {self.deep_features_every}, which takes no cross_attention_kwargs; give 1, or"
                " leave them out."
            )

    def start(self, pipeline: Any, batch: SampleBatch, walk: Walk) -> Walk:
        walk = replace(walk, guided_steps=range(round(self.guidance_until * len(walk.timesteps))))
        if self.deep_features_every == 1:
            return walk
        deep = DeepFeatureDenoiser(pipeline.denoiser_network, self.deep_features_every)
        return replace(walk, denoiser=partial(pipeline.predict, network=deep))


class StepCallback(SamplingFeature):
    """Calls ``callback(pipeline, step, timestep, tensors)`` after every step, as diffusers does.

    Tensors in the dict that it returns replace the current ones, and so does a guidance scale that it sets as
    ``pipeline._guidance_scale``, from the next step on.

    Args:
        callback: one of diffusers' own names the tensors that it takes itself.
        names: of the tensors; None: the latents alone.
    """

    def __init__(
        self,
        callback: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any] | None],
        names: Sequence[str] | None = None,
    ):
        self._callback, self._scale = callback, None
        self._names = list(getattr(callback, "tensor_inputs", names or ["latents"]))
        self._guided: _GuidedDenoiser | None = None

    def check(self, pipeline: Any) -> None:
        """Raise ``ValueError`` for a name of a tensor that callbacks of this pipeline do not get."""
        known = list(pipeline._callback_tensor_inputs)
        if unknown := [name for name in self._names if name not in known]:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs holds {unknown[0]!r}; {type(pipeline).__name__} has"
                f" {', '.join(known)}."
            )

    def start(self, pipeline: Any, batch: SampleBatch, walk: Walk) -> Walk:
        # each batch begins with the call's own scale, whatever the callback did in the one before
        self._scale = pipeline._guidance_scale if self._scale is None else self._scale
        pipeline._guidance_scale = self._scale
        self._guided = _GuidedDenoiser(pipeline, walk)
        # it guides; the loop must not, too
        return replace(walk, denoiser=self._guided, negative=None, guidance_scale=1.0)

    def after_step(self, pipeline: Any, step: DenoisingStep) -> None:
        assert self._guided is not None
        given = {name: step.latents if name == "latents" else self._guided.tensor(name) for name in self._names}
        returned = self._callback(pipeline, step.index, step.timestep, dict(given)) or {}
        for name, value in returned.items():
            if name not in given or value is given[name]:
                continue
            if name == "latents":
                step.latents.copy_(value)
            else:
                self._guided.replace(name, given[name], value)


class _GuidedDenoiser:
    """The guided prediction of every step, from conditioning and a scale that may change between the steps.

    Args:
        pipeline: whose ``_guidance_scale`` counts.
        walk: to go.
    """

    def __init__(self, pipeline: Any, walk: Walk):
        self._pipeline, self._walk, self._scale = pipeline, walk, pipeline._guidance_scale
        self._num_calls, self._num_rows = 0, walk.conditioning.num_rows
        # the rows to guide away from come first, as diffusers joins them
        self._both = walk.conditioning if walk.negative is None else walk.conditioning.guided(walk.negative)

    def __call__(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Any) -> torch.Tensor:
        scale = self._guidance_scale()
        guided, step = self._walk.guided_steps, self._num_calls
        self._num_calls += 1
        if guided is not None and step not in guided:
            scale = 1.0
        read = self._both if scale > 1 else self._conditional()
        return guided_prediction(self._walk.denoiser, latents, timestep, read, scale, self._pipeline.guide)

    def tensor(self, name: str) -> Any:
        """What diffusers' callbacks get under that name."""
        if name == "add_time_ids":
            return self._pipeline.time_ids(self._walk.latents, self._shown())
        tensors, key = self._shown().tensors, self._key(name)
        if name.startswith("negative_"):
            return None if self._walk.negative is None else self._both.rows(slice(self._num_rows)).tensors[key]
        return tensors[key]

    def replace(self, name: str, given: Any, value: Any) -> None:
        """Take what a callback gave back, for 2B rows or the B that are guided to.

        Raises:
            ValueError: it has other sizes, or cannot be replaced.
        """
        if _is_part(value, given):
            # a cut-off keeps the last rows alone; the scale that it sets says so already
            return
        key, own = self._key(name), self._both.tensors
        half: Any = None if self._walk.negative is None else self._both.rows(slice(self._num_rows)).tensors[key]
        if name == "add_time_ids" or not isinstance(value, torch.Tensor) or not isinstance(given, torch.Tensor):
            raise ValueError(f"callback_on_step_end gives other {name}, which cannot be replaced here; leave it.")
        if value.shape[1:] == given.shape[1:]:
            if name.startswith("negative_") and len(value) == self._num_rows:
                conditional: Any = self._conditional()[key]
                value = torch.cat([value, conditional])
            elif half is not None and len(value) == self._num_rows:
                value = torch.cat([half, value])
            whole: Any = own[key]
            if value.shape == whole.shape:
                self._both = self._both.with_tensor(key, value)
                return
        raise ValueError(
            f"callback_on_step_end gives {name} of shape {tuple(value.shape)}; it was {tuple(given.shape)}."
        )

    def _guidance_scale(self) -> float:
        now = self._pipeline._guidance_scale
        if now == self._scale or self._walk.negative is None or self._pipeline.guidance != "classifier-free":
            return self._walk.guidance_scale
        return self._pipeline.with_guidance(self._walk.conditioning, now)[1]

    def _conditional(self) -> Conditioning:
        return self._both if self._walk.negative is None else self._both.rows(slice(self._num_rows, None))

    def _shown(self) -> Conditioning:
        return self._both if self._guidance_scale() > 1 else self._conditional()

    def _key(self, name: str) -> str:
        """The conditioning's own name of a tensor."""
        names = list(self._both.tensors)
        if name in ("prompt_embeds", "negative_prompt_embeds"):
            return names[0]
        return next((own for own in names if own in ("pooled_projections", "text_embeds")), names[0])


def _is_part(value: Any, given: Any) -> bool:
    """Whether a tensor is another view of the one that was given."""
    if not isinstance(value, torch.Tensor) or not isinstance(given, torch.Tensor):
        return False
    return value.untyped_storage().data_ptr() == given.untyped_storage().data_ptr()


class SafetyCheck(SamplingFeature):
    """Blackens what the model's own safety checker, if it has one, flags."""

    def finish(self, pipeline: Any, finished: FinishedBatch) -> FinishedBatch:
        if not finished.is_decoded:
            return finished
        images, flagged = pipeline.blacken_flagged(finished.images)
        return replace(finished, images=images, flagged=flagged)
