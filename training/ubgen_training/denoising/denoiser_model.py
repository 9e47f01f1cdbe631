"""The model that denoising training trains: images and prompts in, loss out, the denoiser inside.

One forward is one call of it, so that any launcher wraps it.
Shapes: B samples, N prompts, H x W pixels.
"""

from collections.abc import Sequence
from typing import Any

import torch

from ubgen_pipeline.family import Family
from ubgen_pipeline.inference.prompt_cache import PromptCache
from ubgen_pipeline.scheduler_noise import is_flow_scheduler

from ..lora.adapter import LoraSettings, add_lora, train_all_weights
from .denoising_loss import DEFAULT_WEIGHTING, PREDICTION_TYPES, DenoisingLoss, check_noise_scheduler, target_of
from .flow_loss import FlowLoss, FlowWeighting, flow_schedule
from .latent_model import LatentModel, training_schedule


class DenoiserModel(LatentModel):
    """A denoiser in training.

    Args:
        pipeline: its denoiser is trained; that of ``scratch`` is a new one of the same layout.
        prompts: N prompts, in label order; encoded once, here, with the empty one.
        train_method: ``lora``, ``full`` or ``scratch``.
        weighting: see :mod:`ubgen_training.denoising.denoising_loss`; None is ``debias``. A model of flow matching
            has none of these.
        target: ``noise``, ``x0`` or ``velocity``; None takes the model's own. Another one than the model's makes sense
            from scratch only.
        flow: for a model of flow matching; see :mod:`ubgen_training.denoising.flow_loss`.
        size: height and width of the images in pixels, on which the noise levels of flow matching depend; None takes
            the model's own.
        lora: of ``train_method`` ``lora``.
        empty_prompt_share: share of samples shown with the empty prompt.
        seed: of the LoRA's, or of the new denoiser's, initial weights.
        prompt_cache: see the base.

    Raises:
        ValueError: a target that the model was not trained for, a weighting that is infinite on it, as at zero
            terminal SNR, or settings of the other kind of model.
    """

    def __init__(
        self,
        pipeline: Family,
        prompts: Sequence[str],
        *,
        train_method: str = "lora",
        weighting: str | None = None,
        target: str | None = None,
        flow: FlowWeighting | None = None,
        size: tuple[int | None, int | None] = (None, None),
        lora: LoraSettings | None = None,
        empty_prompt_share: float = 0.1,
        seed: int = 0,
        prompt_cache: PromptCache | None = None,
    ):
        scheduler, flow = pipeline.scheduler, flow or FlowWeighting()
        self._check_kind(scheduler, weighting, target, flow, train_method)
        super().__init__(pipeline, prompts, prompt_cache)
        self.train_method = train_method
        self.loss: DenoisingLoss | FlowLoss
        if is_flow_scheduler(scheduler):
            self.loss = FlowLoss(*flow_schedule(pipeline, pipeline.latent_shape(*size)), flow)
        else:
            target = target or target_of(scheduler.config.prediction_type)
            self.loss = DenoisingLoss(training_schedule(scheduler), weighting or DEFAULT_WEIGHTING, target)
        self.empty_prompt_share = empty_prompt_share
        if train_method == "scratch":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                trained = pipeline.denoiser_network
                parts: Any = pipeline
                parts.register_modules(**{pipeline.denoiser_part: type(trained).from_config(trained.config)})
            if target is not None:
                parts.register_modules(
                    scheduler=type(scheduler).from_config(scheduler.config, prediction_type=PREDICTION_TYPES[target])
                )
            self.denoiser_network = pipeline.denoiser_network
        if train_method == "lora":
            add_lora(self.denoiser_network, lora or LoraSettings(), seed, pipeline.lora_targets)
        else:
            train_all_weights(self.denoiser_network)

    @staticmethod
    def _check_kind(
        scheduler: Any, weighting: str | None, target: str | None, flow: FlowWeighting, train_method: str
    ) -> None:
        """Raise ``ValueError`` for settings of a model that predicts something else."""
        if is_flow_scheduler(scheduler):
            for name, value in (("weighting", weighting), ("target", target)):
                if value is not None:
                    raise ValueError(
                        f"{name} is {value!r}, but the model predicts velocities (flow matching); leave it out, and"
                        " choose by weighting_scheme where on the way it is trained."
                    )
            return
        check_noise_scheduler(scheduler)
        if not flow.is_default:
            raise ValueError(
                f"weighting_scheme is {flow.scheme!r}, but the model does not predict velocities (flow matching);"
                " leave it out, with its settings, and choose by weighting what errors weigh."
            )
        own_target = target_of(scheduler.config.prediction_type)
        if target not in (None, own_target) and train_method != "scratch":
            raise ValueError(
                f"target is {target!r}, but the model predicts {own_target!r}; leave it out, or train from scratch."
            )

    def forward(self, pixels: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Loss ``(B,)`` of ``pixels (B, 3, H, W)`` in [-1, 1] with the prompts of ``labels (B,)``.

        Args:
            generator: on the CPU; gives noise, timesteps and which prompts are left empty.
        """
        latents = self.encode(pixels)
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        position = self.loss.draw(len(latents), generator).to(latents.device)
        is_empty = torch.rand(len(latents), generator=generator) < self.empty_prompt_share
        rows = torch.where(is_empty, self.conditioning.num_rows - 1, labels.cpu())
        given = self.conditioning_of(rows, latents)
        noisy = self.loss.add_noise(latents, noise, position)
        prediction = self.predict(noisy, self.loss.timesteps_at(position), given)
        return self.loss(prediction, latents, noise, position)
