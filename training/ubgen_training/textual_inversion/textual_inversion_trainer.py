"""Trains the vectors of one word on a few images, with exact checkpoints."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn

from ubgen_pipeline.models.text_embeddings import EMBEDDING_FILE, read_embedding, save_embedding
from ubgen_pipeline.sample_seeds import sample_seed

from ..checkpoints.trainer import CheckpointingTrainer
from .textual_inversion_config import TextualInversionConfig
from .token_model import TokenModel


class TextualInversionTrainer(CheckpointingTrainer):
    """Trains a :class:`TokenModel` on latents; (seed, rank, batch) choose a batch's images, noise and timesteps.

    Args:
        model: the word in its model.
        args: settings; see :class:`TextualInversionConfig`.
        latents: ``(N, C, h, w)`` of the images.
        kwargs: handed to ``transformers.Trainer``.
    """

    args: TextualInversionConfig
    settings_file = "textual_inversion_config.json"

    def __init__(self, model: TokenModel, args: TextualInversionConfig, latents: torch.Tensor, **kwargs: Any):
        self.class_names = [model.token]
        self._latents = latents
        self._num_batches = 0
        # an epoch is a batch: which images it holds is chosen with its noise
        rows = Dataset.from_dict({"row": list(range(args.per_device_train_batch_size * args.world_size))})
        super().__init__(model=model, args=args, train_dataset=rows, data_collator=_count, **kwargs)
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """The loss of a batch that is chosen by its own seed."""
        size, token_model = int(inputs["labels"]), self.accelerator.unwrap_model(model)
        purpose = f"textual inversion/rank {self.args.process_index}"
        generator = torch.Generator().manual_seed(sample_seed(self.args.seed, purpose, self._num_batches))
        self._num_batches += 1
        rows = torch.randint(len(self._latents), (size,), generator=generator)
        latents = self._latents[rows]
        noise = torch.randn(latents.shape, generator=generator)
        num_timesteps = token_model.pipeline.scheduler.config.num_train_timesteps
        # one timestep of each of B equal ranges: less variance than B independent ones
        places = (torch.arange(size) + torch.rand(size, generator=generator)) / size
        timesteps = (places * num_timesteps).long()
        templates = torch.randint(len(token_model.prompt_ids), (size,), generator=generator)
        return model(*(value.to(self.args.device) for value in (latents, noise, timesteps, templates)))

    def initial_modules(self) -> dict[str, nn.Module]:
        """The frozen parts; see the base."""
        return self._token_model.pipeline.networks

    def save_weights(self, folder: Path, *, write: bool = True) -> None:
        """Write the embedding for diffusers."""
        if write:
            save_embedding(self._token_model.token, self._token_model.vectors, folder)

    def load_weights(self, folder: Path) -> None:
        """Read the embedding of a checkpoint."""
        with torch.no_grad():
            self._token_model.vectors.copy_(read_embedding(folder / EMBEDDING_FILE)[1])

    def rank_state(self) -> dict[str, Any]:
        """The base's, and the number of batches seen."""
        return {**super().rank_state(), "num_batches": self._num_batches}

    def load_rank_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`rank_state` gave."""
        super().load_rank_state(state)
        self._num_batches = state["num_batches"]

    @property
    def _token_model(self) -> TokenModel:
        return self.accelerator.unwrap_model(self.model)


def _count(rows: list[dict[str, int]]) -> dict[str, torch.Tensor]:
    return {"labels": torch.tensor(len(rows))}
