"""A scheduler of each kind of prediction that a denoiser makes, set to a few steps."""

from typing import Any

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

NUM_STEPS = 6
KINDS = ["epsilon", "v_prediction", "flow"]


def scheduler_of(kind: str) -> Any:
    """One whose model predicts noise, velocities, or flows."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=2.0) if kind == "flow" else DDIMScheduler(prediction_type=kind)
    scheduler.set_timesteps(NUM_STEPS)
    return scheduler
