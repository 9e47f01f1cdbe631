"""Preprocessing with gradient against each library's own, on photographs, and what has no gradient."""

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from sklearn.datasets import load_sample_images
from transformers import (
    CLIPImageProcessor,
    CLIPImageProcessorPil,
    Siglip2ImageProcessor,
    Siglip2ImageProcessorPil,
    SiglipImageProcessor,
    SiglipImageProcessorPil,
)

from ubgen_pipeline.models.clip_preprocessing import (
    ImagePreprocessing,
    open_clip_preprocessing,
    transformers_preprocessing,
)

# 427 x 640 pixels; the second is turned, so that both orientations are read
PHOTOGRAPHS = [
    photograph if index == 0 else np.ascontiguousarray(photograph.transpose(1, 0, 2))
    for index, photograph in enumerate(load_sample_images().images)
]
SMALL = [np.ascontiguousarray(photograph[::8, ::8]) for photograph in PHOTOGRAPHS]


def as_images(photograph: np.ndarray) -> torch.Tensor:
    return (torch.tensor(photograph).float() / 255).permute(2, 0, 1)[None].requires_grad_(True)


@pytest.mark.parametrize("photographs", [PHOTOGRAPHS, SMALL], ids=["downscaled", "upscaled"])
@pytest.mark.parametrize(
    "ours, own",
    [
        (CLIPImageProcessor, CLIPImageProcessorPil),
        (SiglipImageProcessor, SiglipImageProcessorPil),
        (Siglip2ImageProcessor, Siglip2ImageProcessorPil),
    ],
)
def test_transformers_processors_are_matched(ours, own, photographs):
    preprocess = transformers_preprocessing(ours())
    for photograph in photographs:
        images = as_images(photograph)
        found = preprocess(images)
        expected = own()(images=[Image.fromarray(photograph)], return_tensors="pt")
        assert set(found) == set(expected)
        assert found["pixel_values"].shape == expected["pixel_values"].shape
        assert (found["pixel_values"] - expected["pixel_values"]).abs().mean() <= 0.01
        (gradient,) = torch.autograd.grad(found["pixel_values"].square().sum(), images)
        assert (gradient != 0).float().mean() > 0.3


@pytest.mark.parametrize("photographs", [PHOTOGRAPHS, SMALL], ids=["downscaled", "upscaled"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"interpolation": "bilinear"},
        {"size": (96, 160)},
        {"size": (96, 160), "interpolation": "bilinear"},
        {"size": 112, "resize_mode": "squash", "interpolation": "bilinear"},
        {"size": 112, "resize_mode": "longest", "fill_color": 127},
    ],
)
def test_open_clip_transforms_are_matched(settings, photographs):
    own = PreprocessCfg(**settings)
    preprocess = open_clip_preprocessing(vars(own))
    for photograph in photographs:
        images = as_images(photograph)
        found = preprocess(images)["pixel_values"]
        expected = image_transform_v2(own, is_train=False)(Image.fromarray(photograph))[None]
        assert found.shape == expected.shape
        assert (found - expected).abs().mean() <= 0.01
        (gradient,) = torch.autograd.grad(found.square().sum(), images)
        assert (gradient != 0).float().mean() > 0.3


def test_squashing_would_not_pass_for_cropping():
    """The tolerance tells apart what a wrong resize mode gives."""
    images = as_images(PHOTOGRAPHS[0])
    cropped, squashed = (ImagePreprocessing(224, 224, resize_mode=mode)(images) for mode in ("shortest", "squash"))
    assert (cropped["pixel_values"] - squashed["pixel_values"]).abs().mean() > 0.05


def test_images_out_of_range_are_neither_clamped_nor_refused():
    images = 2 * torch.rand(1, 3, 224, 224) - 0.5
    found = transformers_preprocessing(CLIPImageProcessor())(images)["pixel_values"]
    mean, std = (
        torch.tensor(v).view(1, 3, 1, 1) for v in (CLIPImageProcessor.image_mean, CLIPImageProcessor.image_std)
    )
    assert torch.allclose(found, (images - mean) / std, atol=1e-5)


def test_every_built_in_open_clip_mode_is_known():
    for name in open_clip.list_pretrained():
        settings = open_clip.get_pretrained_cfg(*name)
        merged = {**vars(PreprocessCfg()), **{k: v for k, v in settings.items() if k in vars(PreprocessCfg())}}
        open_clip_preprocessing(merged)


def test_a_processor_without_gradient_is_named():
    with pytest.raises(ValueError, match="CLIPImageProcessorPil is not differentiable"):
        transformers_preprocessing(CLIPImageProcessorPil())


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="resize_mode is 'fit'"):
        ImagePreprocessing(8, 8, resize_mode="fit")
    with pytest.raises(ValueError, match="interpolation is 'lanczos'"):
        ImagePreprocessing(8, 8, interpolation="lanczos")
