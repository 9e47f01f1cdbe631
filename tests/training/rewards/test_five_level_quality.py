"""Five-level quality of tiny random image-text-to-text models, against the models called as their documents say."""

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from transformers import CLIPImageProcessorPil

from support.tiny_vision_language import build_tiny_idefics3, build_tiny_llava, build_tiny_qwen2_vl
from ubgen_training.rewards.five_level_quality import FiveLevelQuality, build_prompt, find_level_tokens
from ubgen_training.rewards.quality import load_quality_reward
from ubgen_training.rewards.quality_levels import QUALITY_LEVELS

BUILDERS = {"llava": build_tiny_llava, "idefics3": build_tiny_idefics3, "qwen2_vl": build_tiny_qwen2_vl}
PHOTOGRAPHS = load_sample_images().images


@pytest.fixture(scope="module", params=BUILDERS)
def tiny(request):
    return BUILDERS[request.param]()


def as_images() -> torch.Tensor:
    return torch.stack([torch.tensor(photograph).float().permute(2, 0, 1) / 255 for photograph in PHOTOGRAPHS])


@torch.no_grad()
def library_logits(model, processor, prompt: str) -> torch.Tensor:
    """The whole prompt with the photographs as PIL images, one after another, nothing cached."""
    rows = []
    for photograph in PHOTOGRAPHS:
        inputs = processor(text=[prompt], images=[[Image.fromarray(photograph)]], return_tensors="pt")
        inputs = {name: value for name, value in inputs.items() if name not in ("rows", "cols")}
        rows.append(model(**inputs, use_cache=False).logits[0, -1])
    words = [processor.tokenizer(f" {level}", add_special_tokens=False)["input_ids"] for level in QUALITY_LEVELS]
    return torch.stack(rows)[:, [word[0] for word in words]]


def test_logits_are_the_models_own(tiny):
    model, processor = tiny
    quality = FiveLevelQuality(model, processor)
    found, expected = quality(as_images()), library_logits(model, processor, quality.prompt)
    # the library rounds the resized image to 8 bits; the bound stands above the widest seen, 0.021 on idefics3
    assert (found - expected).abs().max() < 0.1 * (expected[0] - expected[1]).abs().max()
    assert (found.softmax(-1) - expected.softmax(-1)).abs().max() < 0.03


def test_cached_prefix_changes_nothing(tiny):
    model, processor = tiny
    cached, whole = FiveLevelQuality(model, processor), FiveLevelQuality(model, processor, cache_prefix=False)
    images, others = torch.rand(3, 3, 48, 40, requires_grad=True), torch.rand(2, 3, 48, 40)
    for _ in range(2):
        assert (cached(images) - whole(images)).abs().max() <= 1e-5
        assert (cached(others) - whole(others)).abs().max() <= 1e-5
    weights = torch.randn(3, 5)
    own, expected = (torch.autograd.grad((q(images) * weights).sum(), images)[0] for q in (cached, whole))
    assert torch.allclose(own, expected, atol=1e-5, rtol=1e-3)


def test_the_prefix_is_cached_where_the_architecture_allows_it():
    lengths = {}
    for name, build in BUILDERS.items():
        quality = FiveLevelQuality(*build())
        quality(torch.rand(1, 3, 48, 40))
        lengths[name] = quality._layout(48, 40).prefix_length
    # the question's tokens; Qwen2-VL numbers positions over the whole sequence
    assert lengths["llava"] >= 10 and lengths["idefics3"] >= 10 and lengths["qwen2_vl"] == 0


@pytest.mark.filterwarnings("error::FutureWarning")
def test_the_cached_prefix_is_not_computed_again():
    model, processor = build_tiny_llava()
    lengths = []
    model.model.language_model.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append((args or [kwargs["hidden_states"]])[0].shape[1]), with_kwargs=True
    )
    quality = FiveLevelQuality(model, processor)
    layout = quality._layout(48, 40)
    lengths.clear()
    quality(torch.rand(2, 3, 48, 40))
    assert lengths == [layout.text_inputs["input_ids"].shape[1] - layout.prefix_length]


def test_a_prefix_that_changes_the_answer_is_dropped_with_a_warning(monkeypatch):
    model, processor = build_tiny_llava()
    quality, images = FiveLevelQuality(model, processor), torch.rand(2, 3, 48, 40)
    prefix = FiveLevelQuality._prefix

    def wrong(self, images, layout):
        cache = prefix(self, images, layout)
        cache.layers[0].values = cache.layers[0].values + 1
        return cache

    monkeypatch.setattr(FiveLevelQuality, "_prefix", wrong)
    with pytest.warns(UserWarning, match="LlavaForConditionalGeneration answers differently"):
        found = quality(images)
    assert torch.equal(found, FiveLevelQuality(model, processor, cache_prefix=False)(images))


def test_gradient_is_that_of_finite_differences(tiny):
    quality = FiveLevelQuality(*tiny)
    torch.manual_seed(0)
    images = torch.rand(1, 3, 48, 40, requires_grad=True)
    direction, step, weights = torch.randn(1, 3, 48, 40), 1e-3, torch.randn(5)
    (gradient,) = torch.autograd.grad((quality(images) * weights).sum(), images)
    with torch.no_grad():
        ends = [(quality(images + sign * step * direction) * weights).sum() for sign in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=3e-2, abs=3e-2)
    assert not any(parameter.requires_grad for parameter in quality.parameters())


def test_a_folder_becomes_the_quality_reward(tiny, tmp_path):
    model, processor = tiny
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    reward, images = load_quality_reward(str(tmp_path)), as_images()
    assert reward.__name__ == "quality"
    assert reward.level_logits.model.config._attn_implementation == "sdpa"
    probabilities = FiveLevelQuality(model, processor)(images).softmax(dim=-1)
    expected = (probabilities * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])).sum(dim=-1) / 5
    assert torch.allclose(reward(images, ["a", "b"], torch.tensor([0, 1])), expected, atol=1e-5)


def test_moving_the_model_computes_the_prefix_anew():
    quality, images = FiveLevelQuality(*build_tiny_llava()), torch.rand(1, 3, 48, 40)
    in_single = quality(images)
    quality.to(torch.bfloat16)
    assert torch.allclose(quality(images), in_single, atol=0.3)
    assert not torch.equal(quality(images), in_single)


def test_the_chat_template_and_the_plain_form_write_the_prompt():
    _, processor = build_tiny_qwen2_vl()
    assert build_prompt(processor) == (
        "USER: How would you rate the quality of this image?<|vision_start|><|image_pad|><|vision_end|> "
        "ASSISTANT: The quality of the image is"
    )
    _, processor = build_tiny_llava()
    assert build_prompt(processor, "Good?", "It is") == "USER: Good?\n<image>\nASSISTANT: It is"
    processor.image_token = None
    with pytest.raises(ValueError, match="LlavaProcessor has neither a chat template nor an image token"):
        build_prompt(processor)


def test_the_levels_tokens_are_those_that_go_on_after_the_prompt():
    _, processor = build_tiny_llava()
    tokens = find_level_tokens(processor.tokenizer, build_prompt(processor))
    assert processor.tokenizer.convert_ids_to_tokens(tokens) == [f"Ġ{level}" for level in QUALITY_LEVELS]


def test_levels_that_begin_alike_are_refused():
    class Letters:
        """Every space-separated word begins with the same token."""

        def __call__(self, text, add_special_tokens):
            return {"input_ids": [token for word in text.split(" ") for token in (0, *map(ord, word))]}

    with pytest.raises(ValueError, match="which are not five different ones"):
        find_level_tokens(Letters(), "The quality is")


def test_a_processor_without_gradient_is_named():
    model, processor = build_tiny_llava()
    processor.image_processor = CLIPImageProcessorPil()
    with pytest.raises(ValueError, match="image processor CLIPImageProcessorPil is not differentiable"):
        FiveLevelQuality(model, processor)


def test_a_folder_of_another_kind_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match=r"quality_model '.*' cannot be loaded"):
        load_quality_reward(str(tmp_path))
