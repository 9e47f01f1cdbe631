"""Features of timm's, transformers' and the mini backbone against the models themselves, and the cache."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import ViTConfig, ViTImageProcessorFast, ViTModel

from ubgen_evaluation import feature_extraction
from ubgen_evaluation.backbones import load_backbone, protocol_transform
from ubgen_evaluation.feature_extraction import extract_features, open_image
from ubgen_pipeline.mini.clip import load_mini_clip
from ubgen_training.backbone.backbone_trainer import build_backbone, save_backbone

IMAGES = [np.random.default_rng(i).integers(0, 256, (40, 48, 3), dtype=np.uint8) for i in range(5)]
NAMES = ["apple", "pear", "plum"]


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resnet")
    model = build_backbone("resnet10t", 3, 32, {"channels": [8, 8, 16, 16], "stem_width": 8}, seed=1)
    save_backbone(model, folder, NAMES, 32)
    return folder, model.eval()


def test_a_timm_folder(resnet):
    folder, model = resnet
    backbone = load_backbone(str(folder))
    assert backbone.class_names == tuple(NAMES)
    found = extract_features(backbone, IMAGES, batch_size=2)
    pixels = torch.stack([backbone.transform(Image.fromarray(image)) for image in IMAGES])
    assert pixels.shape == (5, 3, 32, 32)
    with torch.no_grad():
        logits = model(pixels)
        head = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
        features = head(pixels)
    np.testing.assert_allclose(found.probabilities, logits.softmax(dim=1), atol=1e-5)
    np.testing.assert_allclose(found.features, features, atol=1e-5)
    assert found.features.shape == (5, 16)


def test_a_transformers_folder(tmp_path):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8
    )
    model = ViTModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    ViTImageProcessorFast(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    found = extract_features(load_backbone(str(tmp_path)), IMAGES)
    transform = protocol_transform(32, [0.5] * 3, [0.5] * 3)
    with torch.no_grad():
        expected = model(torch.stack([transform(Image.fromarray(image)) for image in IMAGES])).last_hidden_state[:, 0]
    np.testing.assert_allclose(found.features, expected, atol=1e-5)
    assert found.probabilities is None


def test_the_mini_backbone():
    images = [np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8) for i in range(2)]
    found = extract_features(load_backbone("mini"), images)
    clip, _ = load_mini_clip()
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255 * 2 - 1
    with torch.no_grad():
        np.testing.assert_allclose(found.features, clip.encode_image(pixels), atol=1e-4)


def test_the_protocol_crops_the_middle_of_the_scaled_image():
    image = Image.new("RGB", (64, 32), (255, 0, 0))
    image.paste((0, 0, 255), (16, 0, 48, 32))
    pixels = protocol_transform(16, [0, 0, 0], [1, 1, 1])(image)
    assert pixels.shape == (3, 16, 16) and pixels[2].min() > 0.9 and pixels[0].max() < 0.1


def test_the_cache_is_used_and_only_for_the_same(resnet, tmp_path, monkeypatch):
    folder, _ = resnet
    backbone = load_backbone(str(folder))
    first = extract_features(backbone, IMAGES, cache_dir=tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    monkeypatch.setattr(feature_extraction, "_batches", lambda *args: iter(()))
    again = extract_features(backbone, (image for image in IMAGES), cache_dir=tmp_path)
    np.testing.assert_array_equal(again.features, first.features)
    np.testing.assert_array_equal(again.probabilities, first.probabilities)
    changed = [*IMAGES[:4], IMAGES[4] ^ 1]
    with pytest.raises(ValueError, match="images is empty"):
        extract_features(backbone, changed, cache_dir=tmp_path)
    with torch.no_grad():
        next(backbone.model.parameters()).add_(1e-4)
    with pytest.raises(ValueError, match="images is empty"):
        extract_features(backbone, IMAGES, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == [file]


def test_bad_images(resnet, tmp_path):
    backbone = load_backbone(str(resnet[0]))
    file = tmp_path / "broken.png"
    file.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png could not be read as an image"):
        extract_features(backbone, [file])
    with pytest.raises(ValueError, match=r"nowhere\.png could not be read"):
        extract_features(backbone, [tmp_path / "nowhere.png"], cache_dir=tmp_path)
    with pytest.raises(ValueError, match="image 3 could not be read"):
        open_image({"image": None}, 3)
    with torch.no_grad():
        next(backbone.model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or infinite features for image 0"):
        extract_features(backbone, IMAGES)


def test_bad_backbones(resnet, tmp_path):
    for name in (str(tmp_path), "no/such", "timm:no_such_net", "transformers:no-such/model"):
        with pytest.raises(ValueError, match="cannot be loaded"):
            load_backbone(name)
    # weights as a pickle alone are refused, though timm would read them
    config = json.loads((resnet[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"x": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
        load_backbone(str(tmp_path))
