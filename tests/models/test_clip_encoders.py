"""CLIP, SigLIP, SigLIP 2 and open_clip encoders against their libraries, on photographs and on texts."""

import open_clip
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.nn.functional import cosine_similarity
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, CLIPConfig, CLIPTextModel

from support.tiny_clip import build_tiny_clip, build_tiny_open_clip, build_tiny_siglip
from ubgen_pipeline.models.clip_encoders import load_clip_encoder

PHOTOGRAPHS = load_sample_images().images
TEXTS = ["photo of circle", "photo of STAR"]
BUILDERS = {
    "clip": build_tiny_clip,
    "siglip": build_tiny_siglip,
    "siglip2": lambda folder: build_tiny_siglip(folder, second=True),
    "open_clip": build_tiny_open_clip,
    "open_clip_squash": lambda folder: build_tiny_open_clip(folder, "squash"),
    "open_clip_longest": lambda folder: build_tiny_open_clip(folder, "longest"),
}


@pytest.fixture(scope="module", params=BUILDERS)
def name(request, tmp_path_factory):
    return BUILDERS[request.param](tmp_path_factory.mktemp(request.param))


@torch.no_grad()
def library_image_features(name: str) -> torch.Tensor:
    """What the library's own processor and model make of the photographs, from 8-bit images."""
    pictures = [Image.fromarray(photograph) for photograph in PHOTOGRAPHS]
    if name.startswith("open_clip:"):
        model, _, transform = open_clip.create_model_and_transforms(name.removeprefix("open_clip:"))
        return model.eval().encode_image(torch.stack([transform(picture) for picture in pictures]))
    processor = AutoImageProcessor.from_pretrained(name, backend="pil")
    assert type(processor).__name__.endswith("Pil")
    model = AutoModel.from_pretrained(name).eval()
    return model.get_image_features(**processor(images=pictures, return_tensors="pt")).pooler_output


@torch.no_grad()
def library_text_features(name: str) -> torch.Tensor:
    if name.startswith("open_clip:"):
        name = name.removeprefix("open_clip:")
        model = open_clip.create_model(name)
        return model.eval().encode_text(open_clip.get_tokenizer(name)(TEXTS))
    model = AutoModel.from_pretrained(name).eval()
    padding = (
        {"padding": True} if isinstance(model.config, CLIPConfig) else {"padding": "max_length", "max_length": 16}
    )
    encoded = AutoTokenizer.from_pretrained(name)(TEXTS, return_tensors="pt", **padding)
    return model.get_text_features(**encoded).pooler_output


def as_images() -> torch.Tensor:
    return torch.stack([torch.tensor(photograph).float().permute(2, 0, 1) / 255 for photograph in PHOTOGRAPHS])


def centred(features: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Features without what all images share, which in an untrained tower is nearly everything."""
    return features - other.mean(dim=0)


def test_image_features_are_the_librarys(name):
    found, expected = load_clip_encoder(name).encode_images(as_images()), library_image_features(name)
    assert (cosine_similarity(found, expected) >= 0.999).all()
    assert (cosine_similarity(centred(found, expected), centred(expected, expected)) >= 0.98).all()
    assert torch.allclose(found.norm(dim=1), expected.norm(dim=1), rtol=1e-2)


def test_text_features_are_the_librarys(name):
    encoder = load_clip_encoder(name)
    assert torch.allclose(encoder.encode_texts(TEXTS), library_text_features(name), atol=1e-5)
    assert torch.allclose(encoder.encode_texts(TEXTS, batch_size=1), encoder.encode_texts(TEXTS), atol=1e-5)


def test_the_scale_of_cosines_is_the_models_own(name):
    if name.startswith("open_clip:"):
        model = open_clip.create_model(name.removeprefix("open_clip:"))
    else:
        model = AutoModel.from_pretrained(name)
    assert load_clip_encoder(name).logit_scale == pytest.approx(model.logit_scale.exp().item())


def test_gradient_reaches_the_image_and_no_weight(name):
    images, encoder = as_images()[..., :320].requires_grad_(True), load_clip_encoder(name)
    features = encoder.encode_images(images)
    (gradient,) = torch.autograd.grad(features.square().sum(), images)
    assert ((gradient != 0).flatten(1).float().mean(dim=1) > 0.3).all()
    assert not any(parameter.requires_grad for parameter in encoder.model.parameters())


def test_the_features_differentiate_as_finite_differences_do(name):
    torch.manual_seed(0)
    encoder, images = load_clip_encoder(name), torch.rand(1, 3, 24, 36)
    encoder.model.double()
    # preprocessing is in float32, so the step has to be coarse
    direction, step = torch.randn_like(images), 1e-2
    images.requires_grad_(True)

    def value(pixels):
        inputs = {k: v.double() if v.is_floating_point() else v for k, v in encoder.preprocess(pixels).items()}
        return encoder.image_features(**inputs).sum()

    (gradient,) = torch.autograd.grad(value(images), images)
    with torch.no_grad():
        slope = (value(images + step * direction) - value(images - step * direction)) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=2e-2, abs=1e-4)


def test_features_are_not_normalised(name):
    norms = load_clip_encoder(name).encode_images(as_images()).norm(dim=1)
    assert ((norms - 1).abs() > 1e-3).all()


def test_open_clip_without_weights_is_refused(tmp_path):
    name = build_tiny_open_clip(tmp_path)
    (tmp_path / "open_clip_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"clip_model 'open_clip:local-dir:.*cannot be loaded"):
        load_clip_encoder(name)


def test_a_model_without_image_features_is_refused(tmp_path):
    build_tiny_clip(tmp_path)
    CLIPTextModel.from_pretrained(tmp_path).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no image and text features in one space"):
        load_clip_encoder(str(tmp_path))


def test_a_folder_without_image_processor_is_refused(tmp_path):
    build_tiny_clip(tmp_path)
    for file in (*tmp_path.glob("*processor*"),):
        file.unlink()
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_clip_encoder(str(tmp_path))
