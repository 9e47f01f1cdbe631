"""A tiny Sana-Sprint."""

from typing import Any

from diffusers import SanaSprintPipeline, SCMScheduler

from .sana import STOCK as STOCK
from .sana import sana_components


def build(**settings: Any) -> SanaSprintPipeline:
    """Equal arguments give equal weights; see :func:`.sana.sana_components`."""
    components = sana_components(guidance_embeds=True, qk_norm="rms_norm_across_heads", **settings)
    return SanaSprintPipeline(**components, scheduler=SCMScheduler(prediction_type="trigflow", sigma_data=0.5))
