"""The mini model's own training: losses against references, states that resume bit-equal."""

import random
import subprocess
import sys

import pytest
import torch
from torch import nn

from ubgen_pipeline.mini.scenes import BACKGROUND_NAMES, CLASS_NAMES, TEXTURE_NAMES
from ubgen_training.mini.denoiser import build_unet, prompt_table
from ubgen_training.mini.judges import contrastive_loss, damage
from ubgen_training.mini.scene_batches import index_batches, render_set, to_unit_range
from ubgen_training.mini.state import ExponentialAverage, load_training_state, save_training_state
from ubgen_training.mini.tokenizer import UNNAMED, build_tokenizer, draw_caption, factor_table, true_pairs


def test_contrastive_loss_matches_a_loop_over_positives():
    torch.manual_seed(0)
    similarity = torch.randn(5, 5)
    positive = torch.eye(5, dtype=torch.bool)
    positive[0, 3] = positive[4, 1] = True
    rows = []
    for matrix, mask in ((similarity, positive), (similarity.T, positive.T)):
        for i in range(5):
            terms = [-(matrix[i, j] - torch.logsumexp(matrix[i], 0)) for j in range(5) if mask[i, j]]
            rows.append(torch.stack(terms).mean())
    assert torch.allclose(contrastive_loss(similarity, positive), torch.stack(rows).mean(), atol=1e-6)


def test_captions_are_true_of_their_own_scene_and_of_no_scene_that_contradicts_them():
    data = render_set(40, bias=0.0, seed=3, num_workers=1)
    factors, rng = factor_table(data), random.Random(0)
    captions, named = zip(*(draw_caption(row, rng) for row in factors.tolist()))
    pairs = true_pairs(factors, torch.tensor(named))
    assert pairs.diagonal().all()
    vocabularies = (CLASS_NAMES, BACKGROUND_NAMES, TEXTURE_NAMES)
    for column, caption in enumerate(captions):
        words = set(caption.split())
        for row in range(40):
            contradicted = any(
                words & set(vocabulary) and vocabulary[factors[row, i]] not in words
                for i, vocabulary in enumerate(vocabularies)
            )
            assert bool(pairs[row, column]) == (not contradicted)
    assert any(UNNAMED in row for row in named)


def test_render_set_does_not_depend_on_the_number_of_workers():
    one, two = (render_set(9, bias=0.5, seed=4, num_workers=n) for n in (1, 2))
    assert torch.equal(one.images, two.images) and one.factors == two.factors
    assert to_unit_range(one.images).abs().max() <= 1


def test_every_word_of_the_world_is_one_token_and_unknown_text_survives():
    tokenizer = build_tokenizer()
    for word in (*CLASS_NAMES, *TEXTURE_NAMES, *BACKGROUND_NAMES):
        assert len(tokenizer.tokenize(word)) == 1, word
    assert len(tokenizer.tokenize("giraffe")) > 1
    assert tokenizer.decode(tokenizer("giraffe").input_ids, skip_special_tokens=True).strip() == "giraffe"


def test_tokenizer_is_the_same_in_every_process():
    program = (
        "from ubgen_training.mini.tokenizer import build_tokenizer; "
        "print(sorted(build_tokenizer().get_vocab().items()))"
    )
    seen = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert seen == {f"{sorted(build_tokenizer().get_vocab().items())}\n"}


def test_prompt_table_holds_bare_name_caption_and_empty_prompt():
    tokenizer = build_tokenizer()
    table = prompt_table(["a photo of a striped star on sand"], ["star"], tokenizer)
    assert table.shape == (1, 3, tokenizer.model_max_length)
    texts = [tokenizer.decode(row, skip_special_tokens=True).strip() for row in table[0]]
    assert texts == ["star", "a photo of a striped star on sand", ""]


def test_unet_has_cross_and_self_attention_at_16_and_8():
    resolutions = {16: set(), 8: set()}
    unet = build_unet()

    def hook(name):
        return lambda module, args, output: resolutions[int(output.shape[1] ** 0.5)].add(name)

    for name, module in unet.named_modules():
        if name.endswith(("attn1", "attn2")):
            module.register_forward_hook(hook(name[-5:]))
    with torch.no_grad():
        unet(torch.zeros(1, 4, 16, 16), 1, torch.zeros(1, 24, 96))
    assert resolutions == {16: {"attn1", "attn2"}, 8: {"attn1", "attn2"}}


def test_damage_leaves_images_alone_at_zero_and_grows_with_severity():
    torch.manual_seed(0)
    images = to_unit_range(render_set(8, bias=0.0, seed=5, num_workers=1).images) / 2 + 0.5
    for kind in range(4):
        kinds = torch.full((8,), kind)
        distances = [(damage(images, torch.full((8,), s), kinds) - images).abs().mean() for s in (0.0, 0.4, 1.0)]
        assert distances[0] < 1e-4, kind
        assert distances[0] < distances[1] < distances[2], kind


def _train(model, optimizer, averages, start, stop):
    parameters = dict(model.named_parameters())
    for step, batch in enumerate(index_batches(50, 8, seed=1, start_step=start, num_steps=stop), start=start):
        loss = model(batch[:, None].float() / 50).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        averages.update(parameters, step + 1)


def _fresh_state():
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    return model, optimizer, ExponentialAverage(dict(model.named_parameters()))


def test_training_resumes_bit_equal(tmp_path):
    file = tmp_path / "state.safetensors"
    straight = _fresh_state()
    _train(*straight, 0, 10)
    first = _fresh_state()
    _train(*first, 0, 4)
    save_training_state(file, 4, dict(first[0].named_parameters()), first[1], first[2])
    second = _fresh_state()
    step = load_training_state(file, dict(second[0].named_parameters()), second[1], second[2])
    assert step == 4
    _train(*second, 4, 10)
    for (name, expected), (_, value) in zip(straight[0].named_parameters(), second[0].named_parameters()):
        assert torch.equal(expected, value), name
        assert torch.equal(straight[2].averages[name], second[2].averages[name]), name
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_no_state_means_step_zero(tmp_path):
    model, optimizer, averages = _fresh_state()
    parameters = dict(model.named_parameters())
    assert load_training_state(tmp_path / "none.safetensors", parameters, optimizer, averages) == 0


@pytest.mark.parametrize("step", [0, 5])
def test_batches_depend_on_seed_and_step_alone(step):
    straight = list(index_batches(100, 4, seed=9, start_step=0, num_steps=8))
    resumed = list(index_batches(100, 4, seed=9, start_step=step, num_steps=8))
    assert all(torch.equal(a, b) for a, b in zip(straight[step:], resumed))
