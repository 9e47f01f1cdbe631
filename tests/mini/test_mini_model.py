"""The shipped mini model: small, whole, safe to load, and as good as the documents say (with room for rounding)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from ubgen_pipeline.mini import mini_caption_lora_path, mini_clip_path, mini_lora_path, mini_model_path
from ubgen_pipeline.mini.clip import load_mini_clip
from ubgen_pipeline.mini.judges import load_mini_quality, predict_factors
from ubgen_pipeline.mini.scenes import BACKGROUND_NAMES, CLASS_NAMES, OWN_BACKGROUND
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.mini.autoencoder import reconstruction_psnr
from ubgen_training.mini.judges import damage, zero_shot_accuracy
from ubgen_training.mini.scene_batches import render_set


@pytest.fixture(scope="module")
def held_out():
    return render_set(400, bias=0.0, seed=12345, num_workers=2)


@pytest.fixture(scope="module")
def shipped_pipeline():
    pipeline = StableDiffusionPipeline.from_pretrained(mini_model_path(), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_shipped_weights_are_small_half_precision_safetensors():
    root = Path(mini_model_path()).parent
    weights = [*Path(mini_model_path()).rglob("*.safetensors"), *Path(mini_clip_path()).rglob("*.safetensors")]
    assert len(weights) == 4
    assert sum(file.stat().st_size for file in weights) <= 20_000_000
    assert not [file for file in root.rglob("*") if file.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"}]
    config = json.loads((Path(mini_model_path()) / "text_encoder" / "config.json").read_text())
    assert config["dtype"] == "float32"


def test_clip_names_unbiased_scenes(held_out):
    model, tokenize = load_mini_clip()
    assert zero_shot_accuracy(model, tokenize, held_out) >= 0.95


def test_clip_has_a_gradient_in_the_image(held_out):
    model, tokenize = load_mini_clip()
    images = (held_out.images[:2].float() / 127.5 - 1).requires_grad_()
    text = model.encode_text(tokenize(["photo of circle"]), normalize=True)
    (model.encode_image(images, normalize=True) @ text.T).sum().backward()
    assert images.grad.abs().sum() > 0


def test_classifier_reads_every_factor(held_out):
    predicted = predict_factors(held_out.images.permute(0, 2, 3, 1).numpy())
    assert (predicted["class"] == held_out.labels.numpy()).mean() >= 0.97
    assert (predicted["background"] == [BACKGROUND_NAMES.index(f.background) for f in held_out.factors]).mean() >= 0.97


def test_classifier_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"\(2, 32, 32, 3\)"):
        predict_factors(np.zeros((2, 32, 32, 3), np.uint8))


def test_quality_falls_with_damage(held_out):
    torch.manual_seed(0)
    scorer, levels = load_mini_quality(), torch.arange(1.0, 6.0)
    images = held_out.images[:80].float() / 255
    means = []
    for severity in (0.0, 0.5, 1.0):
        damaged = damage(images, torch.full((80,), severity), torch.arange(80) % 4)
        means.append(float((scorer(damaged).softmax(dim=1) @ levels).mean()))
    assert means[0] > 4.0 > means[1] + 0.5 > means[2] + 1


def test_autoencoder_reconstructs(held_out, shipped_pipeline):
    assert reconstruction_psnr(shipped_pipeline.vae, held_out.images[:100]) >= 26.9


def test_base_images_show_their_class_on_its_own_background(shipped_pipeline):
    names = list(CLASS_NAMES) * 3
    generators = [torch.Generator().manual_seed(i) for i in range(len(names))]
    images = shipped_pipeline(
        names, num_inference_steps=10, guidance_scale=2.0, generator=generators, output_type="np"
    ).images
    predicted = predict_factors((images * 255).round().astype(np.uint8))
    own = [BACKGROUND_NAMES.index(OWN_BACKGROUND[name]) for name in names]
    assert (predicted["background"] == own).mean() >= 0.7
    assert (predicted["class"] == [CLASS_NAMES.index(name) for name in names]).mean() >= 0.5


def test_the_loras_part_classes_from_their_backgrounds():
    """One with prompts that name contexts, where the base model loses the class; the other with bare class names."""
    classes = np.arange(40) % 10
    # never a class's own background
    backgrounds = (classes + 1 + np.arange(40) // 10 * 2) % 10
    prompts = [f"a photo of a plain {CLASS_NAMES[c]} on {BACKGROUND_NAMES[b]}" for c, b in zip(classes, backgrounds)]
    base = _shares(None, prompts, classes, backgrounds)
    tuned = _shares(mini_caption_lora_path(), prompts, classes, backgrounds)
    assert base[0] < 0.6 and tuned[0] > base[0] + 0.2 and tuned[1] > 0.8
    names = [CLASS_NAMES[c] for c in classes]
    own = np.array([BACKGROUND_NAMES.index(OWN_BACKGROUND[name]) for name in names])
    recognised, on_own = _shares(mini_lora_path(), names, classes, own, guidance_scale=2.0)
    assert recognised > 0.8 and on_own < 0.5
    # which is the guidance under which the base model draws nothing else
    assert _shares(None, names, classes, own, guidance_scale=2.0)[1] > 0.9


def _shares(lora, prompts, classes, backgrounds, guidance_scale=1.0):
    """Of the images those of their class, and those on the background."""
    pipeline = load_pipeline("mini", lora=lora)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline(prompts, seeds=range(len(prompts)), num_inference_steps=10, guidance_scale=guidance_scale)
    found = predict_factors(np.stack([np.asarray(image) for image in drawn.images]))
    return (found["class"] == classes).mean(), (found["background"] == backgrounds).mean()
