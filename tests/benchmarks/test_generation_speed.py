"""The benchmark of generation: its loop draws as the run does, and its errors are those of the formulas."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import SDPBackend

from benchmarks.generation_speed import loop, relative_errors


def test_the_loop_is_drawn_with_the_runs_own_attention(orders):
    class Pipeline(SimpleNamespace):
        def __init__(self, **parts):
            super().__init__(components={"scheduler": self, "safety_checker": None}, device=torch.device("cpu"))
            self.scheduler, self.config = self, {}

        from_config = classmethod(lambda cls, config: cls())

        def with_scheduler(self, scheduler):
            return type(self)()

        def set_progress_bar_config(self, disable):
            pass

        def __call__(self, names, **arguments):
            return SimpleNamespace(images=torch.zeros(len(names), 1))

    settings = SimpleNamespace(num_inference_steps=1, guidance_scale=1.0)
    run = SimpleNamespace(num_threads=1, pipeline=Pipeline(), settings=settings, batch_size=2, attention="efficient")
    sample = SimpleNamespace(prompt=SimpleNamespace(name="a", prompt="a"), seed=0)
    assert len(loop(run, [sample] * 3)) == 3
    assert orders == [SDPBackend.EFFICIENT_ATTENTION]


def test_errors_are_relative_to_each_samples_reference():
    reference = torch.tensor([[3.0, 4.0], [0.0, 2.0]]).view(2, 1, 1, 2)
    latents = reference + torch.tensor([[0.0, 0.5], [0.0, 0.0]]).view(2, 1, 1, 2)
    assert relative_errors(latents, reference).tolist() == pytest.approx([0.1, 0.0])
