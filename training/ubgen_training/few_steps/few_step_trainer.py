"""Trains a LoRA with which a model draws in a few steps."""

from ..denoising.denoiser_trainer import DenoiserTrainer


class FewStepTrainer(DenoiserTrainer):
    """A :class:`DenoiserTrainer` of a :class:`.few_step_model.FewStepModel`."""

    _name = "few_steps"
    settings_file = "few_step_config.json"
