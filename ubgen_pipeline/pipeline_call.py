"""The call of every family's pipeline: class names in, labelled images out, as the life of a sample.

Shapes: K entries (a class and its prompt), N samples, B of them in a batch, C x h x w latents, H x W pixels.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .annotations import attention_annotations
from .call_arguments import (
    CallEntries,
    DenoisingSettings,
    SampleBatch,
    TextSettings,
    call_entries,
    check_embeds,
    check_output_type,
    sample_batches,
)
from .conditioning import Conditioning
from .diversity import AnnealedConditioning, GuidanceInterval
from .diversity_settings import Cads, as_cads, check_interval
from .family import Family, check_effects
from .initial_latents import step_generators
from .latent_denoising import denoising_steps
from .mask_settings import MaskSettings, check_annotations
from .pipeline_output import UbGenOutput
from .sampling_features import FinishedBatch, SafetyCheck, SamplingFeature, Shortcuts, StepCallback, Walk
from .saved_code import without_code, write_code
from .scheduler_noise import initial_scale
from .source_images import SourceImages, check_source

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline as _Pipeline
else:
    # a family's class brings diffusers' own pipeline; the loader takes one pipeline per file, so none is named here
    _Pipeline = object


class ClassNameCall(Family, _Pipeline):
    """Calls a pipeline with class names, and saves its code with it; mixed in before a family and its pipeline."""

    @torch.no_grad()
    def __call__(
        self,
        class_names: Sequence[str],
        *,
        num_images_per_class: int = 1,
        prompts: Sequence[str] | None = None,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        eta: float = 0.0,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        batch_size: int | None = None,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        weighted_prompts: bool = False,
        num_prompt_chunks: int | None = None,
        prompt_embeds: torch.Tensor | Conditioning | None = None,
        negative_prompt_embeds: torch.Tensor | Conditioning | None = None,
        annotations: Sequence[str] | None = None,
        shown_classes: Sequence[Sequence[str]] | None = None,
        shown_labels: Sequence[Sequence[int]] | None = None,
        mask_settings: MaskSettings | None = None,
        source_images: torch.Tensor | None = None,
        regions: torch.Tensor | None = None,
        strength: float = 0.8,
        guidance_until: float = 1.0,
        deep_features_every: int = 1,
        true_cfg_scale: float | None = None,
        diversity: str | Cads | None = None,
        guidance_interval: Sequence[float] | None = None,
    ) -> UbGenOutput | tuple:
        """Draw ``num_images_per_class`` images of each class: N samples, class by class in the order given.

        Args:
            class_names: the K classes; a sample's label is its class's position here. A name may occur again.
            num_images_per_class: images of each class, at least 1; N = K x this.
            prompts: K prompts, one per class; None takes the bare class names.
            seed: seed of the run, in [0, 2**63); sample k of a class gets ``sample_seed(seed, class name, k)``.
            seeds: N seeds in [0, 2**63), one per sample, instead of those.
            num_inference_steps: denoising steps; some schedulers call the denoiser more often (PNDM once more). None
                takes the family's own: 50 for Stable Diffusion.
            guidance_scale: of classifier-free guidance, where 1 or less means none, or the number that the denoiser
                reads, see :attr:`.Family.guidance`. None takes the family's own: 2 for Stable Diffusion.
            negative_prompt: one text, or K texts, to guide away from; None is the empty prompt.
            height, width: image size in pixels; None takes the model's own size.
            eta: DDIM's noise share in [0, 1].
            latents: ``(N, C, h, w)`` standard normal noise to start from, instead of the seeds' own.
            output_type: ``pil``, ``np``, ``pt`` or ``latent``; see :class:`UbGenOutput`.
            return_dict: False returns the output's fields as a tuple.
            batch_size: samples denoised together; None takes all N at once.
            callback_on_step_end: called as ``callback(pipeline, step, timestep, {"latents": latents})`` after every
                step of every batch; tensors in the dict it returns replace the current ones. A ``_guidance_scale``
                that it sets on the pipeline counts from the next step on. diffusers' own callbacks work, too.
            callback_on_step_end_tensor_inputs: names of the tensors that it gets, such as ``latents`` (which alone it
                gets by default) and ``prompt_embeds``: of B samples, after those of the negative prompts under
                guidance.
            cross_attention_kwargs: handed to the denoiser's attention; ``{"scale": s}`` scales a loaded LoRA.
            weighted_prompts: read word weights (``star++``) in prompts and negative prompts, and take any length.
            num_prompt_chunks: with them, tokenizer lengths that every prompt is filled up to; None takes the longest
                of this call, so that an image then depends on what else was asked for.
            prompt_embeds, negative_prompt_embeds: K rows of what ``batch(encode(prompts))`` gives, or for Stable
                Diffusion ``(K, L, D)`` text features, so that prompts are not encoded again; both or neither.
            annotations: what to annotate the images with, of ``mask``, ``confidence``, ``heatmap``, ``instance``,
                ``box`` and ``polygon``; any of them records attention and fills the output's ``annotations``.
            shown_classes: K lists, the names of all classes that the images of that entry show, as they stand in the
                prompt; None: the class's own name alone.
            shown_labels: K lists, the labels of those; None: positions in ``class_names`` (of a name's first place).
            mask_settings: how masks are made; None takes the paper's, or the mini model's for a denoiser as small.
            source_images: ``(N, 3, H, W)`` in [0, 1] to start from instead of noise alone: image-to-image.
            regions: ``(N, H, W)`` bool, what of them is to be drawn anew; all else keeps its pixels: inpainting.
            strength: share of the steps that a source image goes through, in (0, 1]; the more, the less is left of it.
            guidance_until: share of the steps, from the first on, that are guided; below 1 faster, and other images.
            deep_features_every: run the denoiser's deep layers at every n-th step only; above 1 faster, and other
                images.
            true_cfg_scale: of classifier-free guidance away from ``negative_prompt`` beside the number that the
                denoiser reads, at twice the cost; for FLUX.1. None, or 1 or less, means none.
            diversity: ``cads`` or a :class:`.Cads`: noise in the conditioning at the first steps, from each sample's
                own seed, so that images of a class differ more.
            guidance_interval: (low, high) shares of noise in [0, 1] within which steps are guided; None: all steps.

        Raises:
            ValueError: an argument out of range, one that has no effect on this model, or a prompt longer than the
                tokenizer takes.
        """
        # check
        entries = call_entries(class_names, prompts, negative_prompt, num_images_per_class, seed, seeds)
        settings = DenoisingSettings(
            self.default_num_inference_steps if num_inference_steps is None else num_inference_steps,
            self.default_guidance_scale if guidance_scale is None else guidance_scale,
            eta,
            cross_attention_kwargs,
            1.0 if true_cfg_scale is None else true_cfg_scale,
        )
        check_output_type(output_type)
        shape, size = self.latent_shape(height, width), self.image_size(height, width)
        batches = sample_batches(entries, shape, latents, batch_size)
        check_source(source_images, regions, strength, len(entries.labels), size)
        shortcuts = Shortcuts(guidance_until, deep_features_every)
        shortcuts.check_beside(annotations=bool(annotations), attention_kwargs=bool(cross_attention_kwargs))
        cads, interval = as_cads(diversity), check_interval(guidance_interval)
        check_effects(
            self,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            weighted_prompts=weighted_prompts,
            guidance_until=guidance_until,
            deep_features_every=deep_features_every,
            eta=eta,
            true_cfg_scale=true_cfg_scale,
            diversity=diversity,
            guidance_interval=interval,
        )
        wanted = check_annotations(annotations or ())

        # what takes part in each batch, in this order
        features: list[SamplingFeature] = [shortcuts, SafetyCheck()]
        if interval is not None:
            features.append(GuidanceInterval(*interval))
        if cads is not None:
            features.append(AnnealedConditioning(cads))
        if source_images is not None:
            features.insert(0, SourceImages(source_images, regions, strength))
        if callback_on_step_end is not None:
            callback = StepCallback(callback_on_step_end, callback_on_step_end_tensor_inputs)
            callback.check(self)
            features.append(callback)
        if wanted:
            recorded = attention_annotations(
                self,
                entries.class_names,
                entries.prompts,
                mask_settings or self.default_mask_settings(),
                shown_classes,
                shown_labels,
                weighted=weighted_prompts,
                size=size,
            )
            entries = replace(entries, prompts=recorded.prompts)
            features.append(recorded)

        # prompts
        text = TextSettings(weighted_prompts, num_prompt_chunks)
        if not text.weighted:
            self.check_prompt_lengths(entries.prompts, entries.class_names)
        self._show_properties(settings)
        is_guided = self.guidance == "classifier-free" or settings.true_cfg_scale > 1
        if check_embeds(len(entries.prompts), prompt_embeds, negative_prompt_embeds, needs_negative=is_guided):
            conditioning = self.given_conditioning(prompt_embeds)
            negative = self.given_conditioning(negative_prompt_embeds) if is_guided else None
        else:
            conditioning, negative = self._encode_entries(entries, text, settings.lora_scale, is_guided)

        # latents, denoising, decoding, annotations: batch by batch
        finished = []
        for batch in batches:
            given = conditioning.rows(batch.entries), None if negative is None else negative.rows(batch.entries)
            finished.append(self._sample(batch, settings, given, features, decode=output_type != "latent"))
        images = torch.cat([part.images for part in finished])
        if output_type != "latent":
            # already in [0, 1], so nothing to denormalise
            images = self.image_processor.postprocess(images, output_type, do_denormalize=[False] * len(images))
        self.maybe_free_model_hooks()
        annotated = [item for part in finished for item in part.annotations]
        # a callback stopped one of the batches, whose images have none
        if len(annotated) < len(entries.labels):
            annotated = []
        output = UbGenOutput(
            images=images,
            labels=entries.labels,
            prompts=[entries.prompts[label] for label in entries.labels],
            seeds=entries.seeds,
            masks=[item.mask for item in annotated] if annotated and "mask" in wanted else None,
            boxes=[item.boxes for item in annotated] if annotated and "box" in wanted else None,
            annotations=annotated or None,
            nsfw_content_detected=[flag for part in finished for flag in part.flagged] or None,
        )
        return output if return_dict else tuple(getattr(output, name) for name in output.__dataclass_fields__)

    def _show_properties(self, settings: DenoisingSettings) -> None:
        """Set what diffusers' own properties read, which callbacks look at."""
        self._guidance_scale, self._interrupt = settings.guidance_scale, False
        # each family has one of these names
        self._cross_attention_kwargs = self._joint_attention_kwargs = settings.attention_kwargs
        self._attention_kwargs = settings.attention_kwargs

    def _encode_entries(
        self, entries: CallEntries, text: TextSettings, lora_scale: float | None, is_guided: bool
    ) -> tuple[Conditioning, Conditioning | None]:
        """The K prompts' conditioning, and that of what to guide away from where the call does so."""
        num_entries = len(entries.prompts)
        if not is_guided:
            return self.batch(self.encode(entries.prompts, text, lora_scale=lora_scale)), None
        if text.weighted and text.num_chunks is None:
            # the longest of all decides on the number of chunks
            text = replace(text, num_chunks=self.count_prompt_chunks([*entries.prompts, *entries.negative_prompts]))
        rows = self.encode(entries.prompts, text, lora_scale=lora_scale)
        rows += self.encode(entries.negative_prompts, replace(text, negative=True), lora_scale=lora_scale)
        both = self.batch(rows)
        return both.rows(slice(num_entries)), both.rows(slice(num_entries, None))

    def _sample(
        self,
        batch: SampleBatch,
        settings: DenoisingSettings,
        conditioning: tuple[Conditioning, Conditioning | None],
        features: Sequence[SamplingFeature],
        *,
        decode: bool,
    ) -> FinishedBatch:
        """From noise to images: one batch.

        Args:
            batch: B samples.
            settings: of the denoising.
            conditioning: of B rows; and that of what to guide away from, if anything.
            features: what takes part, in order.
            decode: False leaves latents.
        """
        _, channels, height, width = batch.noise.shape
        timesteps = self.timesteps(settings.num_inference_steps, (channels, height, width))
        latents = batch.noise.to(self._execution_device, self.latents_dtype) * initial_scale(self.scheduler)
        given, guidance_scale = self.with_guidance(conditioning[0], settings.guidance_scale)
        negative = conditioning[1]
        if settings.true_cfg_scale > 1:
            assert negative is not None
            guidance_scale = settings.true_cfg_scale
            # both predictions read the embedded number
            negative, _ = self.with_guidance(negative, settings.guidance_scale)
        denoiser = partial(self.predict, attention_kwargs=settings.attention_kwargs)
        walk = Walk(denoiser, latents, timesteps, given, negative, guidance_scale)
        with ExitStack() as stack:
            for feature in features:
                stack.callback(feature.stop)
                walk = feature.start(self, batch, walk)
            self._num_timesteps = len(walk.timesteps)
            steps = denoising_steps(
                walk.denoiser,
                self.scheduler,
                walk.latents,
                walk.conditioning,
                negative=walk.negative,
                guidance_scale=walk.guidance_scale,
                guide=self.guide,
                guided_steps=walk.guided_steps,
                timesteps=walk.timesteps,
                generators=step_generators(batch.seeds),
                eta=settings.eta,
            )
            # torch.compiler.disable, around this method in diffusers, hides its signature from type checkers
            progress = self.progress_bar(total=self._num_timesteps)  # pyright: ignore[reportCallIssue]
            with progress as progress_bar:
                for step in steps:
                    for feature in features:
                        feature.after_step(self, step)
                    progress_bar.update()
                    if getattr(self, "interrupt", False):
                        break
        finished = FinishedBatch(self.decode(step.latents).clamp(0, 1) if decode else step.latents, decode)
        for feature in features:
            finished = feature.finish(self, finished)
        return finished

    def save_config(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write ``model_index.json`` with this code beside it, so that ``trust_remote_code=True`` reloads this class.

        ``save_pretrained`` calls this after the weights and before it uploads.
        """
        if push_to_hub:
            raise ValueError(
                "push_to_hub is True; call push_to_hub() or save_pretrained(..., push_to_hub=True) instead."
            )
        super().save_config(save_directory)
        # the class's own file, which names its helpers; this mixin's would not do
        pipeline_file = str(sys.modules[type(self).__module__].__file__)
        write_code(pipeline_file, type(self).__name__, save_directory, str(self.config_name))

    @classmethod
    def _dict_from_json_file(cls, json_file: str | Path) -> dict[str, Any]:
        """diffusers' reader of ``model_index.json``, which would otherwise run the code in a folder saved above.

        Whoever loads through this class has its code already: nothing from the folder needs to be trusted.
        """
        return without_code(super()._dict_from_json_file(json_file), cls.__name__)
