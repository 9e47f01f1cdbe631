"""``UbGenPipeline``: class names in, labelled images out. diffusers loads this file as a ``custom_pipeline`` too.

That loader copies this file and the siblings it imports itself, found by a regular expression over the text. So every
helper is imported here directly and flat, and no other module of the package is.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from .annotations import annotate as _annotate  # noqa: F401

# those under another name are not used here: the loader copies only what this file names
from .annotations import annotation_plan
from .attention_maps import joined_texts as _joined_texts  # noqa: F401
from .attention_masks import heat_maps as _heat_maps  # noqa: F401
from .call_arguments import check_counts, check_embeds, check_lossy, check_output_type, text_list
from .call_arguments import latent_shape as _latent_shape  # noqa: F401
from .class_tokens import append_class_words as _append_class_words  # noqa: F401
from .class_tokens import class_texts as _class_texts  # noqa: F401
from .deep_features import DeepFeatureDenoiser
from .initial_latents import draw_latents, step_generators
from .latent_denoising import denoising_steps
from .mask_regions import mask_objects as _mask_objects  # noqa: F401
from .mask_settings import MaskSettings, check_annotations
from .pipeline_output import UbGenOutput
from .prompt_encoding import check_prompt_lengths as _check_prompt_lengths  # noqa: F401
from .prompt_encoding import encode_weighted_prompts as _encode_weighted_prompts  # noqa: F401
from .prompt_weights import parse_weights as _parse_weights  # noqa: F401
from .sample_seeds import default_seeds
from .saved_code import without_code, write_code
from .source_images import check_source, encoded_source, remaining_timesteps
from .stable_diffusion_parts import StableDiffusionParts


class UbGenPipeline(StableDiffusionParts, StableDiffusionPipeline):
    """Draws labelled images from class names with any SD1.x or SD2.x checkpoint in diffusers layout.

    Loading, LoRA, textual inversion, offloading and schedulers are those of ``StableDiffusionPipeline``. A sample is
    set by its prompt, its seed and the settings: equal seeds give equal latents whatever the batch.
    """

    @torch.no_grad()
    def __call__(
        self,
        class_names: Sequence[str],
        *,
        num_images_per_class: int = 1,
        prompts: Sequence[str] | None = None,
        seed: int = 0,
        seeds: Sequence[int] | None = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 2.0,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        eta: float = 0.0,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        batch_size: int | None = None,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any] | None] | None = None,
        cross_attention_kwargs: dict[str, Any] | None = None,
        weighted_prompts: bool = False,
        num_prompt_chunks: int | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        annotations: Sequence[str] | None = None,
        shown_classes: Sequence[Sequence[str]] | None = None,
        shown_labels: Sequence[Sequence[int]] | None = None,
        mask_settings: MaskSettings | None = None,
        source_images: torch.Tensor | None = None,
        regions: torch.Tensor | None = None,
        strength: float = 0.8,
        guidance_until: float = 1.0,
        deep_features_every: int = 1,
    ) -> UbGenOutput | tuple:
        """Draw ``num_images_per_class`` images of each class: N samples, class by class in the order given.

        Args:
            class_names: the K classes; a sample's label is its class's position here. A name may occur again.
            num_images_per_class: images of each class, at least 1; N = K x this.
            prompts: K prompts, one per class; None takes the bare class names.
            seed: seed of the run, in [0, 2**63); sample k of a class gets ``sample_seed(seed, class name, k)``.
            seeds: N seeds in [0, 2**63), one per sample, instead of those.
            num_inference_steps: denoising steps; some schedulers call the UNet more often (PNDM once more).
            guidance_scale: classifier-free guidance; 1 or less means none.
            negative_prompt: one text, or K texts, to guide away from; None is the empty prompt.
            height, width: image size in pixels; None takes the model's own size.
            eta: DDIM's noise share in [0, 1]; other schedulers ignore it.
            latents: ``(N, C, h, w)`` standard normal noise to start from, instead of the seeds' own.
            output_type: ``pil``, ``np``, ``pt`` or ``latent``; see :class:`UbGenOutput`.
            return_dict: False returns the output's fields as a tuple.
            batch_size: samples denoised together; None takes all N at once.
            callback_on_step_end: called as ``callback(pipeline, step, timestep, {"latents": latents})`` after every
                step of every batch; ``latents`` in the dict it returns replace the current ones.
            cross_attention_kwargs: handed to the UNet's attention; ``{"scale": s}`` scales a loaded LoRA.
            weighted_prompts: read word weights (``star++``) in prompts and negative prompts, and take any length.
            num_prompt_chunks: with them, tokenizer lengths that every prompt is filled up to; None takes the longest
                of this call, so that an image then depends on what else was asked for.
            prompt_embeds, negative_prompt_embeds: ``(K, L, D)`` text features of the prompts, so that they are not
                encoded again; both or neither.
            annotations: what to annotate the images with, of ``mask``, ``confidence``, ``heatmap``, ``instance``,
                ``box`` and ``polygon``; any of them records attention and fills the output's ``annotations``.
            shown_classes: K lists, the names of all classes that the images of that entry show, as they stand in the
                prompt; None: the class's own name alone.
            shown_labels: K lists, the labels of those; None: positions in ``class_names`` (of a name's first place).
            mask_settings: how masks are made; None takes the paper's, or the mini model's for a UNet as small.
            source_images: ``(N, 3, H, W)`` in [0, 1] to start from instead of noise alone: image-to-image.
            regions: ``(N, H, W)`` bool, what of them is to be drawn anew; all else keeps its pixels: inpainting.
            strength: share of the steps that a source image goes through, in (0, 1]; the more, the less is left of it.
            guidance_until: share of the steps, from the first on, that are guided; below 1 faster, and other images.
            deep_features_every: run the UNet's deep layers at every n-th step only; above 1 faster, and other images.

        Raises:
            ValueError: an argument out of range, or a prompt longer than the tokenizer takes.
        """
        class_names = text_list("class_names", class_names)
        prompts = class_names if prompts is None else text_list("prompts", prompts, length=len(class_names))
        negative_prompt = "" if negative_prompt is None else negative_prompt
        if isinstance(negative_prompt, str):
            negative_prompt = [negative_prompt] * len(class_names)
        negative_prompt = text_list("negative_prompt", negative_prompt, length=len(class_names))
        check_counts(num_images_per_class=num_images_per_class, num_inference_steps=num_inference_steps)
        check_output_type(output_type)
        labels = [label for label in range(len(class_names)) for _ in range(num_images_per_class)]
        seeds = default_seeds(seed, [class_names[label] for label in labels]) if seeds is None else list(seeds)
        if len(seeds) != len(labels):
            raise ValueError(f"seeds holds {len(seeds)} for {len(labels)} samples; give one per sample.")
        noise_shape = self.latent_shape(height, width)
        if latents is None:
            latents = draw_latents(seeds, noise_shape)
        if tuple(latents.shape) != (len(labels), *noise_shape):
            raise ValueError(f"latents has shape {tuple(latents.shape)}; give {(len(labels), *noise_shape)}.")
        batch_size = len(labels) if batch_size is None else batch_size
        check_counts(batch_size=batch_size)
        check_source(source_images, regions, strength, len(labels), self.image_size(height, width))
        check_lossy(guidance_until, deep_features_every, annotations, cross_attention_kwargs)
        wanted, plan = check_annotations(annotations or ()), None
        if wanted:
            settings = mask_settings or self.default_mask_settings()
            plan = annotation_plan(
                self, class_names, prompts, settings, shown_classes, shown_labels, weighted=weighted_prompts
            )
            prompts = plan.prompts
        if not weighted_prompts:
            self.check_prompt_lengths(prompts, class_names)

        # diffusers' properties of the same names read these, callbacks among others
        self._guidance_scale, self._cross_attention_kwargs = guidance_scale, cross_attention_kwargs
        self._interrupt = False
        device, dtype = self._execution_device, self.unet.dtype
        lora_scale = (cross_attention_kwargs or {}).get("scale")
        if not check_embeds(len(class_names), prompt_embeds, negative_prompt_embeds):
            prompt_embeds, negative_prompt_embeds = self.encode_both(
                prompts, negative_prompt, weighted_prompts, num_prompt_chunks, lora_scale
            )
        assert prompt_embeds is not None and negative_prompt_embeds is not None
        image_batches, flags, annotated = [], [], []
        for start in range(0, len(labels), batch_size):
            rows = slice(start, start + batch_size)
            # also clears the history that multistep schedulers keep
            self.scheduler.set_timesteps(num_inference_steps, device=device)
            timesteps, source = self.scheduler.timesteps, None
            start_latents = latents[rows].to(device, dtype) * self.scheduler.init_noise_sigma
            if source_images is not None:
                marked = None if regions is None else regions[rows]
                source = encoded_source(self, source_images[rows], latents[rows], marked)
                timesteps = remaining_timesteps(self.scheduler, strength)
                start_latents = source.at(self.scheduler, timesteps[0]).to(dtype)
            self._num_timesteps = len(timesteps)
            denoiser = partial(self.denoiser, cross_attention_kwargs=cross_attention_kwargs)
            steps = denoising_steps(
                denoiser if deep_features_every == 1 else DeepFeatureDenoiser(self.unet, deep_features_every),
                self.scheduler,
                start_latents,
                prompt_embeds[labels[rows]],
                negative_prompt_embeds=negative_prompt_embeds[labels[rows]],
                guidance_scale=guidance_scale,
                num_guided_steps=round(guidance_until * self._num_timesteps),
                timesteps=timesteps,
                generators=step_generators(seeds[rows]),
                eta=eta,
            )
            recorder = None
            if plan is not None:
                recorder = plan.recorder(self.unet, labels[rows], noise_shape[1:], self._num_timesteps)
            # torch.compiler.disable, around this method in diffusers, hides its signature from type checkers
            progress = self.progress_bar(total=self._num_timesteps)  # pyright: ignore[reportCallIssue]
            with progress as progress_bar, recorder or nullcontext():
                for step in steps:
                    if source is not None:
                        next_timestep = timesteps[step.index + 1] if step.index + 1 < len(timesteps) else None
                        source.put_back(step.latents, self.scheduler, next_timestep)
                    if callback_on_step_end is not None:
                        state = {"latents": step.latents}
                        returned = callback_on_step_end(self, step.index, step.timestep, state) or {}
                        if returned.get("latents", step.latents) is not step.latents:
                            step.latents.copy_(returned["latents"])
                    progress_bar.update()
                    if self.interrupt:
                        break
            images, flagged = step.latents, []
            if output_type != "latent":
                images = self.decode_latents(step.latents).clamp(0, 1)
                images = images if source is None else source.put_back_pixels(images)
                images, flagged = self.blacken_flagged(images)
            image_batches.append(images)
            flags.extend(flagged)
            if plan is not None and recorder is not None:
                annotated.extend(plan.annotate(recorder, labels[rows], self.image_size(height, width), flagged))

        images = torch.cat(image_batches)
        if output_type != "latent":
            # already in [0, 1], so nothing to denormalise
            images = self.image_processor.postprocess(images, output_type, do_denormalize=[False] * len(images))
        self.maybe_free_model_hooks()
        output = UbGenOutput(
            images=images,
            labels=labels,
            prompts=[prompts[label] for label in labels],
            seeds=seeds,
            masks=[item.mask for item in annotated] if "mask" in wanted else None,
            boxes=[item.boxes for item in annotated] if "box" in wanted else None,
            annotations=annotated or None,
            nsfw_content_detected=flags or None,
        )
        return output if return_dict else tuple(getattr(output, name) for name in output.__dataclass_fields__)

    def save_config(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write ``model_index.json`` with this code beside it, so that ``trust_remote_code=True`` reloads this class.

        ``save_pretrained`` calls this after the weights and before it uploads.
        """
        if push_to_hub:
            raise ValueError(
                "push_to_hub is True; call push_to_hub() or save_pretrained(..., push_to_hub=True) instead."
            )
        super().save_config(save_directory)
        write_code(__file__, type(self).__name__, save_directory, str(self.config_name))

    @classmethod
    def _dict_from_json_file(cls, json_file: str | Path) -> dict[str, Any]:
        """diffusers' reader of ``model_index.json``, which would otherwise run the code in a folder saved above.

        Whoever loads through this class has its code already: nothing from the folder needs to be trusted.
        """
        return without_code(super()._dict_from_json_file(json_file), cls.__name__)
