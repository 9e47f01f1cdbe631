"""Operations of an image of any family's model, counted by ``ubgen_pipeline/inference/operations.py``."""

import torch

from benchmarks.real_size_families import REAL_SIZE_MODELS, real_size_model
from ubgen_pipeline.conditioning import Conditioning
from ubgen_pipeline.family import Family, check_effects
from ubgen_pipeline.inference.operations import ImageOperations
from ubgen_pipeline.inference.presets import PRESETS
from ubgen_pipeline.models.families import family_of
from ubgen_pipeline.models.loading import load_pipeline, set_scheduler


class Operations(ImageOperations):
    """Counted operations of a model, two for each multiply-add; nothing is computed.

    Args:
        model: a key of ``REAL_SIZE_MODELS``, ``mini``, or a folder or Hub id, whose weights are then loaded once.
        size: side of the images in pixels; None takes the model's own.

    Raises:
        ValueError: no such model, or a size that it cannot draw.
    """

    def __init__(self, model: str, size: int | None = None):
        pipeline, text = model_on_meta(model)
        if family_of(type(pipeline).__name__) == "sd":
            # as the paper draws with Stable Diffusion
            set_scheduler(pipeline, "pndm")
        own = REAL_SIZE_MODELS[model].size if model in REAL_SIZE_MODELS else None
        super().__init__(pipeline, text, pipeline.latent_shape(size or own, size or own))

    def of_an_image(
        self, num_steps: int | None = None, guidance_scale: float | None = None, preset: str | None = None
    ) -> float:
        """Of one image; its text is left out, encoded once a class. None takes the model's own settings.

        Raises:
            ValueError: guidance or a preset that has no effect on the model.
        """
        pipeline, shortcuts = self.pipeline, dict(PRESETS[preset].shortcuts) if preset else {}
        check_effects(pipeline, guidance_scale=guidance_scale, **shortcuts)
        settings = {
            "num_inference_steps": num_steps or pipeline.default_num_inference_steps,
            "guidance_scale": pipeline.default_guidance_scale if guidance_scale is None else guidance_scale,
            **(PRESETS[preset].settings if preset else {}),
        }
        return self.of_calls(
            settings["num_inference_steps"],
            settings["guidance_scale"],
            scheduler=settings.get("scheduler"),
            shortcuts=shortcuts,
        )


def model_on_meta(model: str, dtype: torch.dtype = torch.float32) -> tuple[Family, Conditioning]:
    """The model's pipeline with denoiser and VAE on the ``meta`` device, and one prompt's conditioning there.

    Args:
        model: as of :class:`Operations`.
        dtype: of the weights and of the conditioning.

    Raises:
        ValueError: no such model.
    """
    if model in REAL_SIZE_MODELS:
        real = real_size_model(model)
        with torch.device("meta"):
            pipeline = real.pipeline(dtype)
        return pipeline, real.conditioning(1, dtype)
    pipeline = load_pipeline(model, torch_dtype=dtype)
    with torch.no_grad():
        # the numbers of masks are read, to find the lengths of prompts
        text = pipeline.batch(pipeline.encode(["a photo"])).floats(lambda value: value.to("meta"))
    # what is left on the CPU does not take part
    pipeline.register_modules(**dict.fromkeys(pipeline.text_encoder_parts))
    for network in (pipeline.denoiser_network, pipeline.vae):
        network.to("meta")
    return pipeline, text
