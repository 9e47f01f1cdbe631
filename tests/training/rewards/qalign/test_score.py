"""The reward made of Q-Align: prompt, pixels, precision and gradient."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, LlamaTokenizer
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from support.tiny_qalign import EXPECTED, LEVEL_IDS, save_tiny_qalign, scene
from ubgen_training.rewards.qalign.checkpoint import load_qalign_model
from ubgen_training.rewards.qalign.score import PixelSettings, QAlignPrompt, QAlignReward, load_qalign, square_pixels

PIXELS = PixelSettings(56, tuple(OPENAI_CLIP_MEAN), tuple(OPENAI_CLIP_STD))
PROMPT = QAlignPrompt(tuple(EXPECTED["prefix_ids"]), tuple(EXPECTED["suffix_ids"]), LEVEL_IDS)
NAMES, LABELS = ["a", "b"], torch.tensor([0, 1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_qalign(tmp_path_factory.mktemp("qalign"), dtype=torch.float16)


@pytest.fixture
def reward(tmp_path) -> QAlignReward:
    """The float32 weights and the token ids that the reference had."""
    return QAlignReward(load_qalign_model(save_tiny_qalign(tmp_path)), PROMPT, PIXELS)


def to_images(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("size", EXPECTED["photos"])
def test_photos_get_the_references_score(reward, size):
    """The whole way from a picture of any shape; the reference rounds to 8 bits after resizing, this does not.

    Random weights make much of that rounding, so the score is compared closely where the test rounds too.
    """
    height, width = map(int, size.split("x"))
    images, expected = to_images(scene(height, width)), EXPECTED["photos"][size]
    assert square_pixels(images, PIXELS).mean().item() == pytest.approx(expected["pixel_mean"], abs=2e-3)
    assert 5 * reward(images, ["a"], LABELS[:1]).item() == pytest.approx(expected["score"], abs=0.04)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (PIXELS.mean, PIXELS.std))
    rounded = ((square_pixels(images, PIXELS) * std + mean) * 255).round() / 255
    assert 5 * reward(rounded, ["a"], LABELS[:1]).item() == pytest.approx(expected["score"], abs=0.01)


@pytest.mark.parametrize(("height", "width"), [(80, 121), (131, 90), (30, 40), (56, 56), (448, 512)])
def test_pixels_are_those_of_pil_and_the_clip_processor(height, width):
    picture = Image.fromarray(scene(height, width))
    side = max(height, width)
    square = Image.new("RGB", (side, side), tuple(int(255 * mean) for mean in OPENAI_CLIP_MEAN))
    square.paste(picture, ((side - width) // 2, (side - height) // 2))
    processor = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, resample=3)
    expected = torch.as_tensor(processor(square, return_tensors="pt")["pixel_values"])
    pixels = square_pixels(to_images(scene(height, width)), PIXELS)
    assert pixels.shape == expected.shape
    assert (pixels - expected).abs().mean() < 0.01


def test_values_beyond_zero_and_one_keep_their_gradient(reward):
    images = torch.full((2, 3, 64, 48), 1.2, requires_grad=True)
    values = reward(images, NAMES, LABELS)
    assert values.shape == (2,) and values.dtype == torch.float32
    assert ((values > 0.2) & (values < 1)).all()
    (gradient,) = torch.autograd.grad(values.sum(), images)
    assert gradient.abs().amax(dim=(1, 2, 3)).min() > 0


def test_gradient_is_that_of_finite_differences(folder):
    reward = load_qalign(str(folder), dtype=torch.float64)
    images = torch.from_numpy(np.random.default_rng(0).random((1, 3, 40, 56)).astype(np.float32)).requires_grad_()
    direction = torch.from_numpy(np.random.default_rng(1).standard_normal(images.shape).astype(np.float32))
    (gradient,) = torch.autograd.grad(reward(images, ["a"], LABELS[:1]).sum(), images)
    with torch.no_grad():
        up, down = (reward(images + step * direction, ["a"], LABELS[:1]) for step in (1e-3, -1e-3))
    assert (gradient * direction).sum().item() == pytest.approx(((up - down) / 2e-3).item(), rel=2e-2)


def test_tiny_gradients_survive_half_precision(folder):
    """A reward of small weight has gradients far below half precision's range, and must not lose a digit for it."""
    images = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mix = torch.tensor([1.0, -0.5, 0.3, 0.0, -0.8])

    def gradient(dtype: torch.dtype, weight: float) -> torch.Tensor:
        logits = load_qalign(str(folder), dtype=dtype).level_logits(images)
        (result,) = torch.autograd.grad((weight * logits * mix).sum(), images)
        return result / weight

    exact, half = gradient(torch.float32, 1.0), gradient(torch.float16, 1.0)
    assert (half - exact).norm() < 0.1 * exact.norm()
    assert torch.equal(gradient(torch.float16, 2.0**-24), half)
    assert torch.equal(gradient(torch.float32, 2.0**-24), exact)


def test_no_gradient_stays_no_gradient(folder):
    images = torch.rand(1, 3, 56, 56, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(0.0 * load_qalign(str(folder)).level_logits(images).sum(), images)
    assert torch.equal(gradient, torch.zeros_like(images))


def test_precision_follows_the_device_and_not_an_autocast(folder):
    reward, images = load_qalign(str(folder)), torch.rand(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    assert reward.model.vision.class_token.dtype == torch.float16  # as it lies in the file
    value = reward(images, ["a"], LABELS[:1])
    assert reward.model.vision.class_token.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(reward(images, ["a"], LABELS[:1]), value)
    assert torch.equal(reward.to("cpu")(images, ["a"], LABELS[:1]), value)


def test_the_prefix_is_read_once(folder, monkeypatch):
    reward, images = load_qalign(str(folder)), torch.rand(2, 3, 56, 56)
    language, reads = reward.model.language, []
    read = language.read_prefix
    monkeypatch.setattr(language, "read_prefix", lambda ids: reads.append(ids.tolist()) or read(ids))
    first, second = reward(images, NAMES, LABELS), reward(images, NAMES, LABELS)
    assert torch.equal(first, second) and reads == [list(reward.prompt.prefix_ids)]


def test_an_images_reward_does_not_depend_on_its_batch(folder):
    reward, images = load_qalign(str(folder)), torch.rand(3, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    together = reward(images, ["a"] * 3, torch.zeros(3, dtype=torch.long))
    apart = torch.cat([reward(image[None], ["a"], LABELS[:1]) for image in images])
    assert torch.allclose(together, apart, atol=1e-6)


def test_prompt_is_split_at_the_image(folder):
    reward = load_qalign(str(folder))
    tokenizer = LlamaTokenizer.from_pretrained(folder)
    before, after, levels = (
        "".join(tokenizer.convert_ids_to_tokens(list(ids)))
        for ids in (reward.prompt.prefix_ids, reward.prompt.suffix_ids, reward.prompt.level_ids)
    )
    assert before == "<s>▁USER:▁How▁would▁you▁rate▁the▁quality▁of▁this▁image?<0x0A>"
    assert after == "▁<0x0A>ASSISTANT:▁The▁quality▁of▁the▁image▁is"
    assert levels == "▁b▁p▁f▁g▁e"
    assert (reward.__name__, reward.differentiable) == ("quality", True)


def test_preprocessing_may_say_its_own_colours(folder, tmp_path):
    save_tiny_qalign(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]}')
    assert load_qalign(str(tmp_path)).pixels == PixelSettings(56, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    assert load_qalign(str(folder)).pixels == PIXELS


def test_tokenizers_that_cannot_serve_are_refused(tmp_path, monkeypatch):
    save_tiny_qalign(tmp_path, level_tokens=False)
    with pytest.raises(ValueError, match="do not tell them apart"):
        load_qalign(str(tmp_path))
    (tmp_path / "tokenizer.json").unlink()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install sentencepiece protobuf"):
        load_qalign(str(tmp_path))


def test_a_tokenizer_of_more_words_than_the_model_is_refused(tmp_path):
    save_tiny_qalign(tmp_path)
    characters = [chr(code) for code in range(0x4E00, 0x4E40)]
    text = "▁:?USERASSISTANTHowwouldyouratethequalityofthisimageThebadpoorfairgoodexcellent"
    vocabulary = list(
        dict.fromkeys(["<unk>", "<s>", "</s>", *characters, "<0x0A>", *text, "▁b", "▁p", "▁f", "▁g", "▁e"])
    )
    merges = [("▁", letter) for letter in "bpfge"]
    LlamaTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}, merges=merges).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"gives token \d+, but the model knows 64"):
        load_qalign(str(tmp_path))
