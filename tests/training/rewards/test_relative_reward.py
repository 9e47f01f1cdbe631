"""A reward less what it gives for other words: its values, what it passes on, and what it refuses."""

import re

import pytest
import torch

from ubgen_training.reward_training.build_rewards import build_reward, probe_rewards
from ubgen_training.reward_training.config import SamplerConfig
from ubgen_training.rewards.relative_reward import RelativeReward

WORDS = {"star": 2.0, "ring": 3.0, "blurry star": 0.5, "blurry ring": 1.0}


def by_words(images, class_names, labels, **kwargs):
    """The brightness, times a number of the words."""
    return images.mean(dim=(1, 2, 3)) * torch.tensor([WORDS[name] for name in class_names])


def brightness(images, class_names, labels, **kwargs):
    return images.mean(dim=(1, 2, 3))


def config(**settings):
    return SamplerConfig(output_dir="unused", use_cpu=True, class_names=["star", "ring"], **settings)


def test_what_both_texts_earn_is_taken_off_and_the_gradient_with_it():
    reward = RelativeReward(by_words, "blurry {name}")
    images = torch.rand(2, 3, 4, 4, requires_grad=True)
    values = reward(images, ["ring", "star"], torch.tensor([1, 0]), step=0)
    torch.testing.assert_close(values, images.mean(dim=(1, 2, 3)) * torch.tensor([2.0, 1.5]))
    values.sum().backward()
    torch.testing.assert_close(images.grad[0], torch.full((3, 4, 4), 2.0 / 48))
    assert reward.__name__ == "relative_by_words" and reward.differentiable and not reward.reads_whole_batch


def test_it_is_named_among_the_rewards():
    settings = config(relative_prompt="blurry {name}")
    reward = build_reward(f"relative:{__name__}:by_words", settings, None, settings.class_names)
    probe_rewards([reward], settings.class_names, height=4, width=4)
    blind = build_reward(f"relative:{__name__}:brightness", settings, None, settings.class_names)
    same = re.escape("'brightness' gives the same for a class's name and for 'blurry {name}'")
    with pytest.raises(ValueError, match=same):
        probe_rewards([blind], settings.class_names, height=4, width=4)
    blind.differentiable = False
    with pytest.warns(UserWarning, match=same):
        probe_rewards([blind], settings.class_names, height=4, width=4, differentiable=False)


@pytest.mark.parametrize("prompt", [None, "blurry"])
def test_other_words_hold_the_name(prompt):
    settings = config(relative_prompt=prompt)
    with pytest.raises(ValueError, match=f"relative_prompt is {prompt!r}; it must hold {{name}}"):
        build_reward(f"relative:{__name__}:by_words", settings, None, settings.class_names)


def test_a_reward_of_sets_is_refused():
    class Remembers:
        def __call__(self, images, class_names, labels, **kwargs):
            return images.mean(dim=(1, 2, 3))

        def remember(self):
            pass

    with pytest.raises(ValueError, match="'Remembers' compares sets of images"):
        RelativeReward(Remembers(), "blurry {name}")
