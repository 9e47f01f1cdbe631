"""``UbGenPipeline``: class names in, labelled images out. diffusers loads this file as a ``custom_pipeline`` too.

That loader copies this file and the siblings it imports itself, found by a regular expression over the text. So every
helper is imported here directly and flat, and no other module of the package is.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils.dynamic_modules_utils import get_relative_imports
from diffusers.utils.peft_utils import scale_lora_layers, unscale_lora_layers

from .annotations import SampleAnnotation, annotate
from .attention_maps import AttentionRecorder, joined_texts
from .attention_masks import heat_maps as _heat_maps  # noqa: F401 (named here for the loader, as are the next two)
from .call_arguments import check_counts, check_lossy, text_list
from .class_texts import class_texts, shown_once
from .class_tokens import append_class_words
from .deep_features import DeepFeatureDenoiser
from .initial_latents import draw_latents, step_generators
from .latent_denoising import denoising_steps
from .mask_regions import mask_objects as _mask_objects  # noqa: F401
from .mask_settings import MaskSettings, check_annotations, default_mask_settings
from .pipeline_output import UbGenOutput
from .prompt_encoding import encode_weighted, token_chunks
from .prompt_weights import parse_weights
from .sample_seeds import default_seeds
from .source_images import SourceImages, check_source, remaining_timesteps

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class UbGenPipeline(StableDiffusionPipeline):
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
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type is {output_type!r}; choose one of {', '.join(OUTPUT_TYPES)}.")
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
        wanted = check_annotations(annotations or ())
        if wanted:
            settings = mask_settings or self.default_mask_settings()
            if weighted_prompts and not settings.class_prompt:
                raise ValueError("mask_settings.class_prompt is False, which word weights do not work with; leave it.")
            shown_classes, label_rows = shown_once(class_names, shown_classes, shown_labels)
            if settings.append_class_names:
                prompts = [append_class_words(prompt, words) for prompt, words in zip(prompts, shown_classes)]
            shown_texts = [class_texts(self, *pair, settings.class_prompt) for pair in zip(prompts, shown_classes)]
        if not weighted_prompts:
            self.check_prompt_lengths(prompts, class_names)

        # diffusers' properties of the same names read these, callbacks among others
        self._guidance_scale, self._cross_attention_kwargs = guidance_scale, cross_attention_kwargs
        self._interrupt = False
        device, dtype = self._execution_device, self.unet.dtype
        lora_scale = (cross_attention_kwargs or {}).get("scale")
        # without guidance the loop ignores the negative ones
        if prompt_embeds is not None and negative_prompt_embeds is not None:
            _check_embeds(len(class_names), prompt_embeds=prompt_embeds, negative_prompt_embeds=negative_prompt_embeds)
        elif prompt_embeds is not None or negative_prompt_embeds is not None:
            missing = "negative_prompt_embeds" if negative_prompt_embeds is None else "prompt_embeds"
            raise ValueError(f"{missing} is None; give prompt_embeds and negative_prompt_embeds, or neither.")
        elif weighted_prompts:
            texts = [*prompts, *negative_prompt]
            prompt_embeds, negative_prompt_embeds = self.encode_weighted_prompts(
                texts, num_chunks=num_prompt_chunks, lora_scale=lora_scale
            ).chunk(2)
        else:
            prompt_embeds = self.encode_prompts(prompts, lora_scale=lora_scale)
            negative_prompt_embeds = self.encode_prompts(negative_prompt, lora_scale=lora_scale)
        image_batches, flags, annotated = [], [], []
        for start in range(0, len(labels), batch_size):
            rows = slice(start, start + batch_size)
            # also clears the history that multistep schedulers keep
            self.scheduler.set_timesteps(num_inference_steps, device=device)
            timesteps, source = self.scheduler.timesteps, None
            start_latents = latents[rows].to(device, dtype) * self.scheduler.init_noise_sigma
            if source_images is not None:
                source = self._source(source_images[rows], latents[rows], None if regions is None else regions[rows])
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
            if wanted:
                recorder = AttentionRecorder(
                    self.unet,
                    joined_texts([shown_texts[label] for label in labels[rows]]),
                    noise_shape[1:],
                    cross_levels=settings.cross_levels,
                    self_level=settings.self_level if settings.self_power else None,
                    steps=settings.recorded_steps(self._num_timesteps),
                )
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
                images, flagged = self._blacken_flagged(images)
            image_batches.append(images)
            flags.extend(flagged)
            if recorder is not None:
                size = (noise_shape[1] * self.vae_scale_factor, noise_shape[2] * self.vae_scale_factor)
                batch_labels = [label_rows[label] for label in labels[rows]]
                annotated.extend(annotate(recorder.result(), settings, size, batch_labels, flagged or None))

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
            boxes=[_boxes(item) for item in annotated] if "box" in wanted else None,
            annotations=annotated or None,
            nsfw_content_detected=flags or None,
        )
        return output if return_dict else tuple(getattr(output, name) for name in output.__dataclass_fields__)

    def encode_prompts(self, prompts: Sequence[str], *, lora_scale: float | None = None) -> torch.Tensor:
        """Text features ``(B, L, D)`` of B prompts, in the text encoder's dtype; each distinct prompt is encoded once.

        Differentiable in the text encoder's weights unless the caller switched gradients off.
        """
        distinct = list(dict.fromkeys(prompts))
        features, _ = self.encode_prompt(distinct, self._execution_device, 1, False, lora_scale=lora_scale)
        return features[[distinct.index(prompt) for prompt in prompts]]

    def encode_weighted_prompts(
        self, prompts: Sequence[str], *, num_chunks: int | None = None, lora_scale: float | None = None
    ) -> torch.Tensor:
        """Text features ``(B, C * L, D)`` of B prompts with word weights, L being the tokenizer's length.

        Args:
            prompts: texts, see :mod:`.prompt_weights` for the syntax.
            num_chunks: C; None takes what the longest prompt needs.
            lora_scale: of a LoRA in the text encoder.

        Raises:
            ValueError: a prompt needs more chunks than ``num_chunks``.
        """
        distinct = list(dict.fromkeys(prompts))

        def encode(token_ids: torch.Tensor) -> torch.Tensor:
            return self.text_encoder(token_ids.to(self._execution_device))[0]

        if lora_scale is not None:
            scale_lora_layers(self.text_encoder, lora_scale)
        try:
            fragments = [self._fragments(prompt) for prompt in distinct]
            features = encode_weighted(self.tokenizer, encode, fragments, num_chunks)
        finally:
            if lora_scale is not None:
                unscale_lora_layers(self.text_encoder, lora_scale)
        return features[[distinct.index(prompt) for prompt in prompts]]

    def count_prompt_chunks(self, prompts: Iterable[str]) -> int:
        """Tokenizer lengths that the longest of the weighted prompts takes."""
        return max(len(token_chunks(self.tokenizer, self._fragments(prompt))[0]) for prompt in set(prompts))

    def _fragments(self, prompt: str) -> list[tuple[str, float]]:
        pieces = [(piece.text, piece.weight) for piece in parse_weights(prompt)]
        added = self.tokenizer.added_tokens_encoder
        if any(f"{token}_1" in added for token in added):
            # a textual inversion of several vectors becomes several tokens
            pieces = [(str(self.maybe_convert_prompt(text, self.tokenizer)), weight) for text, weight in pieces]
        return pieces

    def default_mask_settings(self) -> MaskSettings:
        """The mask settings for this model's UNet."""
        return default_mask_settings(len(self.unet.config.down_block_types))

    def denoiser(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        prompt_embeds: torch.Tensor,
        cross_attention_kwargs: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        """The UNet's prediction ``(B, C, h, w)`` (noise or velocity, as the scheduler's ``prediction_type`` says).

        Args:
            latents: ``(B, C, h, w)`` after ``scheduler.scale_model_input``.
            timestep: ``()`` or ``(B,)``.
            prompt_embeds: ``(B, L, D)``.
            cross_attention_kwargs: handed to the attention processors.
        """
        return self.unet(
            latents,
            timestep,
            encoder_hidden_states=prompt_embeds,
            cross_attention_kwargs=cross_attention_kwargs,
            return_dict=False,
        )[0]

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Images ``(B, 3, H, W)``, nominally in [0, 1] but not clamped, so that no gradient is lost, of latents
        ``(B, C, h, w)``."""
        decoded = self.vae.decode(latents.to(self.vae.dtype) / self.vae.config.scaling_factor, return_dict=False)[0]
        return decoded * 0.5 + 0.5

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Scaled latents ``(B, C, h, w)`` of ``images (B, 3, H, W)`` in [0, 1]: the means of the VAE's posterior, so
        that nothing is drawn."""
        posterior = self.vae.encode((images * 2 - 1).to(self._execution_device, self.vae.dtype)).latent_dist
        return posterior.mode() * self.vae.config.scaling_factor

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """``(C, h, w)`` of one sample's latents for an image of that many pixels; None takes the model's own size.

        Raises:
            ValueError: a size that is not a positive multiple of 8 and of the VAE's factor.
        """
        own = self.unet.config.sample_size
        own_height, own_width = (own, own) if isinstance(own, int) else own
        factor, unit = self.vae_scale_factor, max(8, self.vae_scale_factor)
        sizes = {"height": (height, own_height), "width": (width, own_width)}
        pixels = [own_side * factor if asked is None else asked for asked, own_side in sizes.values()]
        for name, value in zip(sizes, pixels):
            if value <= 0 or value % unit:
                raise ValueError(f"{name} is {value}; give a positive multiple of {unit}.")
        return self.unet.config.in_channels, pixels[0] // factor, pixels[1] // factor

    def image_size(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """(H, W) in pixels of an image of the size asked for; None takes the model's own."""
        _, *sides = self.latent_shape(height, width)
        return sides[0] * self.vae_scale_factor, sides[1] * self.vae_scale_factor

    def check_prompt_lengths(self, prompts: Sequence[str], class_names: Sequence[str] | None = None) -> None:
        """Raise ``ValueError`` naming the first of the prompts (and its class) that the tokenizer would cut."""
        limit = self.tokenizer.model_max_length
        for name, prompt in zip(prompts if class_names is None else class_names, prompts, strict=True):
            text = self.maybe_convert_prompt(prompt, self.tokenizer)
            length = len(self.tokenizer(text, verbose=False).input_ids)
            if length > limit:
                raise ValueError(
                    f"class name {name!r} gives a prompt of {length} tokens, start and end included; the model's"
                    f" tokenizer takes {limit}. Shorten the name or its prompt."
                )

    def save_config(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write ``model_index.json`` with this code beside it, so that ``trust_remote_code=True`` reloads this class.

        ``save_pretrained`` calls this after the weights and before it uploads.
        """
        if push_to_hub:
            raise ValueError(
                "push_to_hub is True; call push_to_hub() or save_pretrained(..., push_to_hub=True) instead."
            )
        super().save_config(save_directory)
        here, folder = Path(__file__).parent, Path(save_directory)
        for module in (Path(__file__).stem, *get_relative_imports(__file__)):
            if (source := here / f"{module}.py").resolve() != (folder / source.name).resolve():
                shutil.copyfile(source, folder / source.name)
        index_file = folder / str(self.config_name)
        index = json.loads(index_file.read_text())
        index["_class_name"] = [Path(__file__).stem, type(self).__name__]
        # where this model was loaded from is nobody else's business
        index.pop("_name_or_path", None)
        index_file.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    @classmethod
    def _dict_from_json_file(cls, json_file: str | Path) -> dict[str, Any]:
        """diffusers' reader of ``model_index.json``, which would otherwise run the code in a folder saved above.

        Whoever loads through this class has its code already: nothing from the folder needs to be trusted.
        """
        index = super()._dict_from_json_file(json_file)
        if isinstance(index.get("_class_name"), list) and index["_class_name"][-1] == cls.__name__:
            index["_class_name"] = cls.__name__
        return index

    def _source(self, images: torch.Tensor, noise: torch.Tensor, regions: torch.Tensor | None) -> SourceImages:
        device = self._execution_device
        images = images.to(device)
        latents = self.encode_images(images).to(self.unet.dtype)
        region = None if regions is None else regions.to(device)[:, None]
        return SourceImages(images, latents, noise.to(device, latents.dtype), region)

    def _blacken_flagged(self, images: torch.Tensor) -> tuple[torch.Tensor, list[bool]]:
        """Run the model's safety checker, if any, on ``images (B, 3, H, W)`` in [0, 1]; flagged ones become black."""
        if self.safety_checker is None:
            return images, []
        # the checker reads [-1, 1] and writes into what it is given
        _, flagged = self.run_safety_checker(images * 2 - 1, images.device, images.dtype)
        flagged = [bool(flag) for flag in flagged or []]
        images[torch.tensor(flagged, device=images.device)] = 0
        return images, flagged


def _check_embeds(length: int, **embeds: torch.Tensor) -> None:
    for argument, value in embeds.items():
        if value.ndim != 3 or len(value) != length:
            raise ValueError(f"{argument} has shape {tuple(value.shape)}; give ({length}, tokens, width).")


def _boxes(annotation: SampleAnnotation) -> np.ndarray:
    return np.array([item.box for item in annotation.objects], dtype=np.int64).reshape(-1, 4)
