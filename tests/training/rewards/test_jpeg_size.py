"""The JPEG reward against files written by hand, and its place: policy gradient only."""

import io

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from ubgen_training.rewards.jpeg_size import JpegSizeReward
from ubgen_training.rewards.reward_functions import call_reward, check_differentiable

NAMES, LABELS = ["a", "b"], torch.tensor([0, 1])


def _kilobytes(image: Image.Image, quality: int) -> float:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return len(file.getvalue()) / 1000


def _images() -> torch.Tensor:
    """A flat image and one of noise."""
    noise = torch.rand(3, 64, 48, generator=torch.Generator().manual_seed(0))
    return torch.stack([torch.full_like(noise, 0.5), noise])


@pytest.mark.parametrize("quality", [30, 95])
def test_it_is_minus_the_files_size_in_kilobytes(quality):
    images = _images()
    eight_bits = (images * 255).round().to(torch.uint8)
    expected = [-_kilobytes(to_pil_image(image), quality) for image in eight_bits]
    values = JpegSizeReward(quality=quality)(images, NAMES, LABELS)
    assert values.tolist() == pytest.approx(expected) and values.dtype == torch.float32
    assert values[0] > values[1]


def test_incompressibility_is_its_opposite_under_its_own_name():
    images = _images()
    small, large = JpegSizeReward(), JpegSizeReward(incompressible=True)
    assert torch.equal(small(images, NAMES, LABELS), -large(images, NAMES, LABELS))
    assert (small.__name__, large.__name__) == ("jpeg_size", "jpeg_incompressibility")


def test_pixels_beyond_the_range_are_clamped_as_saving_does():
    images = _images()
    beyond = torch.where(images > 0.9, images + 3, torch.where(images < 0.1, images - 3, images))
    inside = torch.where(images > 0.9, 1.0, torch.where(images < 0.1, 0.0, images))
    assert torch.equal(JpegSizeReward()(beyond, NAMES, LABELS), JpegSizeReward()(inside, NAMES, LABELS))


def test_it_has_no_gradient_and_says_so():
    with pytest.raises(ValueError, match="'jpeg_size' is not differentiable"):
        check_differentiable(JpegSizeReward())
    with pytest.raises(ValueError, match="'jpeg_size' returned values without gradient"):
        call_reward(JpegSizeReward(), _images().requires_grad_(), NAMES, LABELS, step=0)
    assert not call_reward(JpegSizeReward(), _images(), NAMES, LABELS, step=0).requires_grad
