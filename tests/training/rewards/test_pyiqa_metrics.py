"""The wiring to pyiqa on a stand-in for it, and the library itself where it is installed."""

import sys
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
from torch import nn

from ubgen_training.reward_training.build_rewards import build_reward, probe_rewards
from ubgen_training.rewards.pyiqa_metrics import PyiqaReward
from ubgen_training.rewards.reward_functions import call_reward

NAMES, LABELS = ["a", "b"], torch.tensor([0, 1])


class _Metric(nn.Module):
    """As pyiqa's InferenceModel: a score in one column for each image."""

    def __init__(self, name, mode, lower_better):
        super().__init__()
        self.metric_mode, self.lower_better = mode, lower_better
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, images):
        return self.weight * images.mean(dim=(1, 2, 3), keepdim=True).flatten(1)


@pytest.fixture
def library(monkeypatch):
    """A module called pyiqa with four metrics; notes how they are made."""
    metrics = {"sharp": ("NR", False), "noisy": ("NR", True), "ssim": ("FR", False), "remote": ("NR", False)}
    calls = []

    def create_metric(name, **kwargs):
        if name == "remote":
            raise URLError("no route")
        calls.append((name, kwargs))
        return _Metric(name, *metrics[name])

    def list_models(metric_mode=None):
        return [name for name, (mode, _) in metrics.items() if metric_mode in (None, mode)]

    monkeypatch.setitem(sys.modules, "pyiqa", SimpleNamespace(create_metric=create_metric, list_models=list_models))
    return calls


def test_it_is_made_as_a_loss_without_reduction(library):
    PyiqaReward("sharp")
    ((name, kwargs),) = library
    assert name == "sharp" and kwargs["as_loss"] and kwargs["loss_reduction"] == "none"


def test_values_are_one_each_with_gradient_and_the_metric_is_frozen(library):
    reward, images = PyiqaReward("sharp"), torch.rand(2, 3, 4, 4, requires_grad=True)
    values = call_reward(reward, images, NAMES, LABELS, step=0)
    assert torch.allclose(values, 2 * images.mean(dim=(1, 2, 3)))
    (gradient,) = torch.autograd.grad(values.sum(), images)
    assert gradient.abs().min() > 0
    assert not any(parameter.requires_grad for parameter in reward.metric.parameters())
    assert not reward.metric.training


def test_the_sign_is_turned_where_lower_is_better(library):
    images = torch.rand(2, 3, 4, 4)
    sharp, noisy = (PyiqaReward(name)(images, NAMES, LABELS) for name in ("sharp", "noisy"))
    assert torch.equal(sharp, -noisy)


def test_one_image_gives_one_value(library):
    assert PyiqaReward("sharp")(torch.rand(1, 3, 4, 4), NAMES[:1], LABELS[:1]).shape == (1,)


def test_the_registry_finds_it_by_prefix_and_logs_it_under_a_plain_name(library):
    reward = build_reward("pyiqa:sharp", None, None, NAMES)
    assert isinstance(reward, PyiqaReward) and reward.__name__ == "pyiqa_sharp"
    probe_rewards([reward], NAMES, height=8, width=8)


@pytest.mark.parametrize(
    "metric, named",
    [
        ("ssim", "'pyiqa:ssim', which compares an image with a reference; choose from sharp, noisy"),
        ("beauty", "'pyiqa:beauty', which this pyiqa does not have; choose from sharp, noisy"),
        ("remote", "'pyiqa:remote', which pyiqa cannot build here .*no route"),
        ("", "'pyiqa:', which this pyiqa does not have"),
    ],
)
def test_metrics_that_cannot_be_rewards_are_named(library, metric, named):
    with pytest.raises(ValueError, match=named):
        PyiqaReward(metric)


def test_without_the_library_the_extra_is_named(monkeypatch):
    # None makes the import fail, also where it is installed
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(ValueError, match=r"pyiqa is not installed; pip install 'ubgen\[iqa\]'"):
        build_reward("pyiqa:musiq", None, None, NAMES)


def test_the_library_itself():
    """A metric without weights to download, and without gradient; skipped where the extra is not installed."""
    pytest.importorskip("pyiqa")
    reward = PyiqaReward("entropy")
    images = torch.stack([torch.full((3, 96, 96), 0.5), torch.rand(3, 96, 96)])
    values = reward(images, NAMES, LABELS)
    # in bits of 256 grey levels
    assert values.shape == (2,) and values[0].abs() < 0.01 and 6 < values[1] < 8
    with pytest.raises(ValueError, match="'pyiqa_entropy' returned values without gradient"):
        probe_rewards([reward], NAMES, height=96, width=96)
    with pytest.raises(ValueError, match="'pyiqa:ssim', which compares an image with a reference"):
        PyiqaReward("ssim")
