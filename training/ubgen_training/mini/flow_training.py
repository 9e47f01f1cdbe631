"""Training of the mini flow model's transformer and text encoders, together, on latents of the biased world.

Flow matching as Stable Diffusion 3 does it (Esser et al. 2024, section 3.1): logit-normal timesteps, and the velocity
noise - x0 as the target. Some scenes show two objects, so that words must find their own places in an image.

Shapes: N scenes, B samples of a batch, L = 24 tokens of text, S = 64 tokens of an image, H heads, F width of a head.
"""

import functools
import math
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import SD3Transformer2DModel
from diffusers.training_utils import compute_density_for_timestep_sampling
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from ubgen_pipeline.class_tokens import append_class_words
from ubgen_pipeline.mini.scenes import SceneFactors

from .flow_model import TEXT_WIDTHS, build_text_encoder, build_transformer, deepen
from .scene_batches import index_batches, mixed_precision
from .state import ExponentialAverage, load_training_state, save_training_state

# where there is no T5, this many tokens of zeros stand in its place
NUM_T5_TOKENS = 256
EMPTY_SHARE, POOLED_SHARE = 0.1, 0.5
WARM_UP_STEPS, DECAY_SHARE = 300, 0.5
# of the timesteps: silhouettes are decided while the noise is still strong
LOGIT_MEAN = 0.4

FlowModel = tuple[SD3Transformer2DModel, tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection]]


def true_text(objects: Sequence[SceneFactors], rng: random.Random) -> str:
    """A random text that is true of a scene: empty, bare class names, or a caption that may name other factors."""
    if rng.random() < EMPTY_SHARE:
        return ""
    objects = rng.sample(objects, len(objects))
    names = [factors.class_name for factors in objects]
    if rng.random() < 0.5:
        return rng.choice((" ", " and ")).join(names)
    with_textures, with_background = rng.random() < 0.4, rng.random() < 0.4
    article = rng.choice(("", "a "))
    things = [f"{article}{f.texture} {f.class_name}" if with_textures else f"{article}{f.class_name}" for f in objects]
    text = rng.choice(("", "photo of ", "a photo of ")) + " and ".join(things)
    if with_background:
        text += f" on {objects[0].background}"
    return append_class_words(text, names) if rng.random() < 0.2 else text


class OneForManyZeros:
    """Attention processor under which the last token of the text counts as :data:`NUM_T5_TOKENS` equal ones.

    The zeros that stand for the T5 are equal tokens, and stay equal in every block. One with log 256 added to its
    scores takes the same part of the softmax, at a quarter of the cost. Attention is written out: on a CPU the fused
    kernel's backward is slower at this width.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        num_samples, num_image_tokens, _ = hidden_states.shape
        text = encoder_hidden_states
        projected = (
            (attn.to_q(hidden_states), attn.add_q_proj(text)),
            (attn.to_k(hidden_states), attn.add_k_proj(text)),
            (attn.to_v(hidden_states), attn.add_v_proj(text)),
        )
        # (B H, T, F)
        query, key, value = (
            torch.cat(parts, dim=1).unflatten(2, (attn.heads, -1)).transpose(1, 2).flatten(0, 1) for parts in projected
        )
        bias = query.new_zeros(1, 1, query.shape[1])
        bias[..., -1] = math.log(NUM_T5_TOKENS)
        scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=query.shape[-1] ** -0.5)
        read = torch.bmm(scores.softmax(dim=-1).to(value.dtype), value)
        read = read.unflatten(0, (num_samples, attn.heads)).transpose(1, 2).flatten(2)
        image, text = read[:, :num_image_tokens], read[:, num_image_tokens:]
        return attn.to_out[0](image), text if attn.context_pre_only else attn.to_add_out(text)


def encode_texts(
    text_encoders: Sequence[CLIPTextModelWithProjection], token_ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features ``(B, L + 1, 96)``, one token of zeros for the T5's, and pooled ones ``(B, 96)`` of ids ``(B, L)``."""
    outputs = [encoder(token_ids, output_hidden_states=True) for encoder in text_encoders]
    features = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    pooled = torch.cat([output.text_embeds for output in outputs], dim=-1)
    return torch.nn.functional.pad(features, (0, 0, 0, 1)), pooled


class TwoOptimizers:
    """Muon for the matrices inside the blocks, AdamW for the rest: modulations, embeddings, first and last layers.

    Muon (Jordan et al. 2024) makes more of each update; it is scaled to AdamW's step size (Liu et al. 2025).
    """

    def __init__(self, parameters: Mapping[str, torch.Tensor], learning_rate: float):
        inner = {
            name
            for name, value in parameters.items()
            if "transformer_blocks" in name and ".norm" not in name and value.ndim == 2
        }
        matrices, rest = ([v for n, v in parameters.items() if (n in inner) == wanted] for wanted in (True, False))
        self.parts = (
            torch.optim.Muon(matrices, lr=learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True),
        )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Moments of all parameters, numbered through, as :mod:`.state` keeps them."""
        first, second = (part.state_dict() for part in self.parts)
        num_first = sum(len(group["params"]) for group in first["param_groups"])
        moments = {**first["state"], **{num_first + index: value for index, value in second["state"].items()}}
        return {"state": moments, "param_groups": [first["param_groups"], second["param_groups"]]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        num_first = sum(len(group["params"]) for group in self.parts[0].param_groups)
        moments = state["state"].items()
        for part, groups, own in zip(
            self.parts,
            state["param_groups"],
            (
                {index: value for index, value in moments if index < num_first},
                {index - num_first: value for index, value in moments if index >= num_first},
            ),
        ):
            part.load_state_dict({"state": own, "param_groups": groups})


def train_flow(
    latents: torch.Tensor,
    objects: Sequence[Sequence[SceneFactors]],
    tokenizer: CLIPTokenizer,
    work_dir: Path,
    *,
    num_steps: int,
    batch_size: int = 64,
    learning_rate: float = 1.2e-3,
    max_seconds: float = float("inf"),
    seed: int = 0,
    start_weights: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
    start_step: int = 0,
) -> FlowModel:
    """Train on scaled ``latents (N, 4, 16, 16)`` of scenes with those objects; returns the averaged weights.

    Stops early after ``max_seconds``; called again with the same ``work_dir`` it goes on, also to another
    ``num_steps``: the learning rate falls in the second half of them. ``start_weights`` are state dictionaries of
    ``transformer``, ``text_encoder`` and ``text_encoder_2`` as of update ``start_step``, the transformer's perhaps of
    fewer blocks; where ``work_dir`` has no state of its own, training begins there, with the optimizers' moments at
    zero.
    """
    torch.manual_seed(seed)
    transformer = build_transformer()
    first, second = (build_text_encoder(tokenizer, width) for width in TEXT_WIDTHS)
    own_processors = transformer.attn_processors
    processor: Any = OneForManyZeros()
    transformer.set_attn_processor(processor)
    networks: dict[str, torch.nn.Module] = {
        "transformer": transformer,
        "text_encoder": first,
        "text_encoder_2": second,
    }
    for part, weights in (start_weights or {}).items():
        is_deep = part == "transformer"
        networks[part].load_state_dict(deepen(weights, len(transformer.transformer_blocks)) if is_deep else weights)
    parameters = {
        f"{part}.{name}": value for part, network in networks.items() for name, value in network.named_parameters()
    }
    optimizer: Any = TwoOptimizers(parameters, learning_rate)
    averages = ExponentialAverage(parameters, decay=0.997)
    state_file = work_dir / "flow.safetensors"
    step = load_training_state(state_file, parameters, optimizer, averages) or start_step
    warm_up_from = start_step if start_weights else 0

    @functools.cache
    def token_ids(text: str) -> torch.Tensor:
        limits = {"max_length": tokenizer.model_max_length, "padding": "max_length", "truncation": True}
        return tokenizer(text, return_tensors="pt", **limits).input_ids[0]

    started, first_step, losses = time.monotonic(), step, []
    for batch in index_batches(len(latents), batch_size, seed=seed, start_step=step, num_steps=num_steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step + 500_009)
        rng = random.Random(seed * 1_000_003 + step)
        texts = torch.stack([token_ids(true_text(objects[index], rng)) for index in batch.tolist()])
        clean, noise = latents[batch], torch.randn(batch_size, *latents.shape[1:], generator=generator)
        noise_share = compute_density_for_timestep_sampling(
            "logit_normal", batch_size, logit_mean=LOGIT_MEAN, logit_std=1.0, generator=generator
        )
        noisy = torch.lerp(clean, noise, noise_share[:, None, None, None])
        with_pooled = torch.rand(batch_size, 1, generator=generator) < POOLED_SHARE
        for group in optimizer.param_groups:
            left = min(1.0, (1 - step / num_steps) / DECAY_SHARE)
            group["lr"] = learning_rate * min(1.0, (step - warm_up_from + 1) / WARM_UP_STEPS) * max(0.02, left)
        with mixed_precision():
            features, pooled = encode_texts((first, second), texts)
            velocity = transformer(noisy, features, pooled * with_pooled, noise_share * 1000, return_dict=False)[0]
        loss = (velocity.float() - (noise - clean)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimizer.step()
        step += 1
        averages.update(parameters, step)
        losses.append(loss.item())
        elapsed = time.monotonic() - started
        if step % 100 == 0:
            rate = (step - first_step) / elapsed
            print(
                f"flow {step}/{num_steps} loss {sum(losses) / len(losses):.5f} {rate:.2f} steps/s"
                f" {(num_steps - step) / rate:.0f} s left",
                flush=True,
            )
            losses = []
        if step % 250 == 0 or step == num_steps or elapsed > max_seconds:
            save_training_state(state_file, step, parameters, optimizer, averages)
        if elapsed > max_seconds:
            break
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(averages.averages[name])
    transformer.set_attn_processor(own_processors)
    return transformer.eval(), (first.eval(), second.eval())
