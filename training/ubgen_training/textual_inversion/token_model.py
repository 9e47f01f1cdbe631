"""One learned word in an otherwise frozen model: what textual inversion trains (Gal et al. 2022, Eq. 2).

Shapes: B samples, n vectors of width D, C x h x w latents.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig

from ubgen_pipeline.models.text_embeddings import add_embedding
from ubgen_pipeline.pipeline import UbGenPipeline

from ..checkpoints.library_internals import ModuleWithFrozenParts


class TokenModel(ModuleWithFrozenParts):
    """The vectors of one token, and the denoising loss of images described with it.

    Only ``vectors (n, D)`` is a parameter; the pipeline's parts are frozen and kept out of the state dict.

    Args:
        pipeline: the model; it learns the token here.
        token: the new word.
        initial_word: the word, of the model's own vocabulary, whose vector training starts from.
        num_vectors: n. Vectors beyond the first start from it with a little noise, or they would stay equal.
        templates: prompts with ``{token}``.
        seed: of that noise.

    Raises:
        ValueError: the token is known already, the word is more than one token, or a prompt is too long.
    """

    def __init__(
        self,
        pipeline: UbGenPipeline,
        token: str,
        initial_word: str,
        num_vectors: int,
        templates: Sequence[str],
        seed: int = 0,
    ):
        super().__init__()
        if not pipeline.has_textual_inversion:
            raise ValueError(
                f"the model is a {type(pipeline).__name__}, whose text encoders learn no words here; give a Stable"
                " Diffusion 1.x or 2.x."
            )
        # transformers' Trainer reads a config off its model
        self.config = PretrainedConfig()
        self.pipeline, self.token = pipeline, token
        for network in pipeline.networks.values():
            network.requires_grad_(False)
        start = _vector_of(pipeline, initial_word)
        noise = torch.randn(num_vectors, len(start), generator=torch.Generator().manual_seed(seed)) * start.std() * 0.1
        noise[0] = 0
        vectors = start.float().cpu() + noise
        add_embedding(pipeline, token, vectors)
        self.vectors = nn.Parameter(vectors)
        names = [token, *(f"{token}_{number}" for number in range(1, num_vectors))]
        self._token_ids = [int(pipeline.tokenizer.convert_tokens_to_ids(name)) for name in names]
        prompts = [template.format(token=token) for template in templates]
        pipeline.check_prompt_lengths(prompts)
        self.prompt_ids = torch.stack([_token_ids(pipeline, prompt) for prompt in prompts])
        self._hook = pipeline.text_encoder.get_input_embeddings().register_forward_hook(self._put_vectors)

    def forward(
        self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, templates: torch.Tensor
    ) -> torch.Tensor:
        """Mean squared error of the model's prediction, scalar.

        Args:
            latents: ``(B, C, h, w)`` clean, scaled.
            noise: ``(B, C, h, w)`` standard normal.
            timesteps: ``(B,)`` int64.
            templates: ``(B,)`` positions in the templates.
        """
        scheduler = self.pipeline.scheduler
        noisy = scheduler.add_noise(latents, noise, timesteps)
        text = self.pipeline.text_encoder(self.prompt_ids[templates.to(self.prompt_ids.device)])[0]
        given = self.pipeline.given_conditioning(text)
        predicted = self.pipeline.predict(noisy.to(self.pipeline.denoiser_network.dtype), timesteps, given)
        kind = scheduler.config.prediction_type
        target = scheduler.get_velocity(latents, noise, timesteps) if kind == "v_prediction" else noise
        return nn.functional.mse_loss(predicted.float(), target.float())

    @torch.no_grad()
    def install(self) -> None:
        """Write the vectors into the text encoder's own table, so that the pipeline draws with them as they are."""
        self._hook.remove()
        table = self.pipeline.text_encoder.get_input_embeddings().weight
        table[self._token_ids] = self.vectors.to(table.dtype)

    def _put_vectors(self, module: nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        for token_id, vector in zip(self._token_ids, self.vectors):
            output[arguments[0] == token_id] = vector.to(output.dtype)
        return output

    def frozen_parts(self) -> Iterable[nn.Module]:
        """All networks of the pipeline."""
        return self.pipeline.networks.values()

    def move_tensors(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Takes the prompts' token ids along."""
        self.prompt_ids = fn(self.prompt_ids)


@torch.no_grad()
def encode_images(pipeline: UbGenPipeline, images: torch.Tensor, batch_size: int = 8) -> torch.Tensor:
    """Scaled latents ``(N, C, h, w)`` float32, the means of the VAE's posterior, of ``images (N, 3, H, W)`` in
    [0, 1]."""
    return torch.cat([pipeline.encode_images(part) for part in images.split(batch_size)]).float().cpu()


def _vector_of(pipeline: UbGenPipeline, word: str) -> torch.Tensor:
    ids = pipeline.tokenizer(word, add_special_tokens=False).input_ids
    if len(ids) != 1:
        raise ValueError(
            f"initial_word is {word!r}, which is {len(ids)} tokens for this model; give a word that is one."
        )
    return pipeline.text_encoder.get_input_embeddings().weight[ids[0]].detach()


def _token_ids(pipeline: UbGenPipeline, prompt: str) -> torch.Tensor:
    tokenizer = pipeline.tokenizer
    text = pipeline.maybe_convert_prompt(prompt, tokenizer)
    return tokenizer(text, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt").input_ids[
        0
    ]
