"""The model behind Q-Align against the published implementation, on random weights.

The expected numbers come from the reference, github.com/Q-Future/Q-Align at commit 14dfdffb, run in float32 on a CPU
under transformers 4.36.1 and torch 2.2.2 (``data/qalign_expected.json`` has the rest, and the recipe in words). Its
``MPLUGOwl2LlamaForCausalLM`` was built from the tiny configuration in that file, and its forward called with the
prompt's token ids, the image mark and pixels. Both sides drew each weight by its published name from numpy
(``tiny_qalign.drawn_tensor``), so nothing but the numbers had to be kept.
"""

import pytest
import torch

from support.tiny_qalign import CONFIG, EXPECTED, drawn_pixels, published_tensors
from ubgen_training.rewards.qalign.checkpoint import own_name
from ubgen_training.rewards.qalign.model import QAlignModel, QAlignSettings
from ubgen_training.rewards.quality_levels import quality_score

PIXELS = EXPECTED["pixels"]
PREFIX_IDS, SUFFIX_IDS = torch.tensor(EXPECTED["prefix_ids"]), torch.tensor(EXPECTED["suffix_ids"])
LEVEL_IDS = torch.tensor(EXPECTED["level_ids_excellent_to_bad"]).flip(0)


@pytest.fixture(scope="module")
def model() -> QAlignModel:
    model = QAlignModel(QAlignSettings.from_config(CONFIG))
    model.load_state_dict({own_name(name): tensor for name, tensor in published_tensors().items()})
    return model.eval().requires_grad_(False)


def test_vision_and_abstractor_give_the_references_tokens(model):
    with torch.no_grad():
        vision = model.vision(drawn_pixels(1))
        visual = model.abstractor(vision)
    assert vision.square().mean().item() == pytest.approx(PIXELS["vision_mean_square"], abs=1e-4)
    assert visual.shape == (2, 6, 32)
    assert torch.allclose(visual[0, :, :4], torch.tensor(PIXELS["visual_tokens_row"]), atol=1e-4)


def test_logits_are_the_references(model):
    prefix = model.language.read_prefix(PREFIX_IDS)
    with torch.no_grad():
        logits = model(drawn_pixels(1), prefix, SUFFIX_IDS)
        level_logits = model(drawn_pixels(1), prefix, SUFFIX_IDS, LEVEL_IDS)
    assert torch.allclose(logits, torch.tensor(PIXELS["token_logits"]), atol=1e-4)
    assert torch.allclose(level_logits.flip(1), torch.tensor(PIXELS["level_logits_excellent_to_bad"]), atol=1e-4)
    assert quality_score(level_logits).tolist() == pytest.approx(PIXELS["scores"], abs=1e-4)


def test_gradient_in_the_pixels_is_the_references(model):
    pixels = drawn_pixels(1).requires_grad_()
    logits = model(pixels, model.language.read_prefix(PREFIX_IDS), SUFFIX_IDS, LEVEL_IDS)
    (gradient,) = torch.autograd.grad(quality_score(logits).sum(), pixels)
    assert gradient.flatten(1).norm(dim=1).tolist() == pytest.approx(PIXELS["gradient_norms"], rel=1e-4)
    along = (gradient * drawn_pixels(2)).flatten(1).sum(1)
    assert along.tolist() == pytest.approx(PIXELS["gradient_along_direction"], rel=1e-4)


@pytest.mark.parametrize("length", [1, 3])
def test_it_does_not_matter_how_much_text_is_cached(model, length):
    """A sequence of text alone: any cut between cached and new tokens gives the same last state."""
    tokens = torch.cat([PREFIX_IDS, SUFFIX_IDS])
    states = []
    with torch.no_grad():
        for cut in (length, len(PREFIX_IDS)):
            new = model.language.token_embedding(tokens[None, cut:])
            states.append(model.language(new, 0, model.language.read_prefix(tokens[:cut])))
    assert torch.allclose(*states, atol=1e-5)


def test_visual_tokens_take_branches_of_their_own(model):
    prefix = model.language.read_prefix(PREFIX_IDS)
    hidden = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        as_text, as_image = model.language(hidden, 0, prefix), model.language(hidden, 3, prefix)
    assert (as_text - as_image).abs().max() > 0.1


def test_a_prefix_read_in_inference_mode_serves_gradients_later(model):
    with torch.inference_mode():
        prefix = model.language.read_prefix(PREFIX_IDS)
    pixels = drawn_pixels(1).requires_grad_()
    model(pixels, prefix, SUFFIX_IDS).sum().backward()
    assert pixels.grad is not None and pixels.grad.abs().max() > 0


def test_published_sizes_are_the_defaults():
    settings = QAlignSettings.from_config({"model_type": "mplug_owl2"})
    with torch.device("meta"):
        model = QAlignModel(settings)
    assert settings.vision.num_tokens == 1025
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    # LLaMA-2-7B, a second set of keys, values and norms, ViT-L/14 and the abstractor: about 8.2 billion
    assert 8.1e9 < num_parameters < 8.3e9


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_type": "llava"}, "model_type is 'llava'"),
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is"),
        ({"hidden_size": 30}, "hidden_size 30 in config.json"),
        ({"visual_config": {"visual_model": {"hidden_act": "gelu"}}}, "hidden_act is 'gelu'"),
        ({"visual_config": {"visual_model": {"hidden_size": 512}}}, "512 in visual_model but 1024"),
    ],
)
def test_other_architectures_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        QAlignSettings.from_config({**CONFIG, **changed})
