"""The checks that every reward's answer passes."""

import pytest
import torch

from ubgen_training.rewards.reward_functions import call_reward, check_differentiable, check_reward_weights

IMAGES, LABELS = torch.rand(3, 3, 4, 4, requires_grad=True), torch.tensor([0, 1, 0])


def brightness(images, class_names, labels, **kwargs):
    return images.mean(dim=(1, 2, 3))


def test_a_good_reward_passes_through():
    assert torch.equal(call_reward(brightness, IMAGES, "aba", LABELS, step=0), IMAGES.mean(dim=(1, 2, 3)))


@pytest.mark.parametrize(
    "answer, named",
    [(lambda x: x.mean(), r"returned \(\)"), (lambda x: x, r"\(3, 3, 4, 4\)"), (lambda x: 1.0, "float")],
)
def test_a_wrong_shape_is_named(answer, named):
    def odd(images, class_names, labels, **kwargs):
        return answer(images)

    with pytest.raises(ValueError, match=f"reward .odd. returned .*{named}|reward .odd. {named}"):
        call_reward(odd, IMAGES, "aba", LABELS, step=0)


def test_a_reward_without_gradient_is_named():
    def detached(images, class_names, labels, **kwargs):
        return images.detach().mean(dim=(1, 2, 3))

    with pytest.raises(ValueError, match="'detached' returned values without gradient"):
        call_reward(detached, IMAGES, "aba", LABELS, step=0)
    detached.differentiable = False
    with pytest.raises(ValueError, match="'detached' is not differentiable"):
        check_differentiable(detached)


def test_nan_names_step_and_reward():
    def broken(images, class_names, labels, **kwargs):
        return images.mean(dim=(1, 2, 3)) * float("nan")

    with pytest.raises(FloatingPointError, match="step 7: broken is not finite"):
        call_reward(broken, IMAGES, "aba", LABELS, step=7)


def test_weights_match_rewards():
    assert check_reward_weights([brightness], None) == [1.0]
    with pytest.raises(ValueError, match="holds 2 numbers for 1"):
        check_reward_weights([brightness], [1.0, 2.0])
