"""What is Sana-Sprint's alone: its own kind of steps, whose number changes the timesteps."""

import inspect

import pytest
import torch
from diffusers import SanaPipeline, SanaSprintPipeline

from support.family_models import CASES
from ubgen_pipeline.models.loading import set_scheduler

CASE = CASES["sana-sprint"]


@pytest.mark.parametrize("num_steps", [1, 4])
def test_images_equal_the_stock_call_without_its_middle_step(num_steps):
    settings = {"num_inference_steps": num_steps, "guidance_scale": 2.0}
    ours = CASE.draw(CASE.pipeline, ["a circle"], **settings)
    # which the stock call wants left out wherever there are not two steps
    expected = CASE.draw_stock(CASE.stock, ["a circle"], intermediate_timesteps=None, **settings)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_its_instruction_is_sanas():
    sprint, sana = (inspect.signature(kind.__call__).parameters for kind in (SanaSprintPipeline, SanaPipeline))
    assert sprint["complex_human_instruction"].default == sana["complex_human_instruction"].default


@pytest.mark.parametrize("scheduler", ["ddim", "flow-euler"])
def test_a_scheduler_of_another_kind_is_refused(scheduler):
    message = rf"scheduler is '{scheduler}', and UbGenSanaSprintPipeline has steps of its own kind \(SCMScheduler\)"
    with pytest.raises(ValueError, match=message):
        set_scheduler(CASE.pipeline, scheduler)
