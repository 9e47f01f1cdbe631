"""A UNet whose deep layers run at every n-th call only: DeepCache (Ma et al. 2024). It loses accuracy.

At neighbouring steps the features far from the image's own resolution are nearly the same, so those that enter the
last level's last layers are kept and used again.

Shapes: N samples, C channels, H x W latent size, L tokens, D width of the text encoder.
"""

from itertools import repeat
from typing import Any

import torch

# what the UNets of Stable Diffusion and of its XL leave at None
_EXTRAS = ("class_embed_type", "encoder_hid_dim_type")


class DeepFeatureDenoiser:
    """A UNet, called as one, for one batch: calls 0, n, 2n, … run the whole of it, the others its outside.

    The whole UNet runs as well wherever the number of samples is another than at the call before.

    Args:
        unet: a ``UNet2DConditionModel`` of Stable Diffusion 1.x, 2.x or XL, its modules called as they are: neither
            compiled nor offloaded.
        every: n; 1 runs the whole UNet always.
        num_outer_layers: layers of the first level that run at every call, and one more of the last level.

    Raises:
        ValueError: ``every`` below 1, a UNet of another kind, or one with hooks for offloading.
    """

    def __init__(self, unet: Any, every: int, *, num_outer_layers: int = 1):
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"deep_features_every is {every!r}; give an integer of at least 1.")
        if extras := [name for name in _EXTRAS if unet.config.get(name) is not None]:
            raise ValueError(
                f"deep_features_every is {every}, which works with UNets of Stable Diffusion only; this one has"
                f" {extras[0]}. Give 1."
            )
        if any(hasattr(module, "_hf_hook") for module in unet.modules()):
            raise ValueError(f"deep_features_every is {every}, which does not work with offloading; give 1.")
        self._unet, self._every = unet, every
        self._num_outer = min(num_outer_layers, len(unet.down_blocks[0].resnets))
        self._num_calls = 0
        self._deep: torch.Tensor | None = None

    def __call__(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        *,
        timestep_cond: torch.Tensor | None = None,
        added_cond_kwargs: dict[str, torch.Tensor] | None = None,
        cross_attention_kwargs: None = None,
        return_dict: bool = False,
    ) -> tuple[torch.Tensor]:
        """The prediction ``(N, C, H, W)`` for ``latents (N, C, H, W)``, ``timestep ()`` and ``(N, L, D)`` features;
        the other arguments are those of the UNet."""
        unet, prompt_embeds = self._unet, encoder_hidden_states
        time = unet.time_embedding(unet.get_time_embed(latents, timestep), timestep_cond)
        added = unet.get_aug_embed(time, prompt_embeds, added_cond_kwargs or {})
        time = time if added is None else time + added
        down, up = _layers(unet.down_blocks[0]), _layers(unet.up_blocks[-1])
        hidden = unet.conv_in(latents)
        skips = [hidden]
        for layer in down[: self._num_outer]:
            hidden = _run(layer, hidden, time, prompt_embeds)
            skips.append(hidden)
        if self._num_calls % self._every == 0 or self._deep is None or len(self._deep) != len(latents):
            self._deep = self._deep_features(hidden, list(skips), time, prompt_embeds)
        self._num_calls += 1
        hidden = self._deep
        for layer in up[-len(skips) :]:
            hidden = _run(layer, torch.cat([hidden, skips.pop()], dim=1), time, prompt_embeds)
        if unet.conv_norm_out is not None:
            hidden = unet.conv_act(unet.conv_norm_out(hidden))
        return (unet.conv_out(hidden),)

    def _deep_features(
        self, hidden: torch.Tensor, skips: list[torch.Tensor], time: torch.Tensor, prompt_embeds: torch.Tensor
    ) -> torch.Tensor:
        """What enters the last level's last layers."""
        unet, num_outer = self._unet, len(skips)
        first, last = unet.down_blocks[0], unet.up_blocks[-1]
        for layer in _layers(first)[self._num_outer :]:
            hidden = _run(layer, hidden, time, prompt_embeds)
            skips.append(hidden)
        for downsampler in first.downsamplers or ():
            hidden = downsampler(hidden)
            skips.append(hidden)
        for block in unet.down_blocks[1:]:
            hidden, kept = block(hidden_states=hidden, temb=time, **_text(block, prompt_embeds))
            skips.extend(kept)
        hidden = unet.mid_block(hidden, time, encoder_hidden_states=prompt_embeds)
        for block in unet.up_blocks[:-1]:
            count = len(block.resnets)
            kept, skips = tuple(skips[-count:]), skips[:-count]
            hidden = block(
                hidden_states=hidden,
                temb=time,
                res_hidden_states_tuple=kept,
                upsample_size=skips[-1].shape[2:],
                **_text(block, prompt_embeds),
            )
        for layer in _layers(last)[:-num_outer]:
            hidden = _run(layer, torch.cat([hidden, skips.pop()], dim=1), time, prompt_embeds)
        return hidden


def _layers(block: Any) -> list[tuple[Any, Any]]:
    """(residual layer, transformer or None) of a block."""
    return list(zip(block.resnets, getattr(block, "attentions", None) or repeat(None)))


def _run(
    layer: tuple[Any, Any], hidden: torch.Tensor, time: torch.Tensor, prompt_embeds: torch.Tensor
) -> torch.Tensor:
    residual, transformer = layer
    hidden = residual(hidden, time)
    if transformer is None:
        return hidden
    return transformer(hidden, encoder_hidden_states=prompt_embeds, return_dict=False)[0]


def _text(block: Any, prompt_embeds: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"encoder_hidden_states": prompt_embeds} if getattr(block, "has_cross_attention", False) else {}
