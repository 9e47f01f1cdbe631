"""The losses and the damage that the judges learn from."""

import pytest
import torch

from ubgen_training.mini.judges import (
    contrastive_loss,
    damage,
    train_clip,
    train_factor_classifier,
    train_quality_scorer,
    zero_shot_accuracy,
)
from ubgen_training.mini.scene_batches import render_set, to_unit_range
from ubgen_training.mini.tokenizer import build_tokenizer


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


def test_damage_leaves_images_alone_at_zero_and_grows_with_severity():
    torch.manual_seed(0)
    images = to_unit_range(render_set(8, bias=0.0, seed=5, num_workers=1).images) / 2 + 0.5
    for kind in range(4):
        kinds = torch.full((8,), kind)
        distances = [(damage(images, torch.full((8,), s), kinds) - images).abs().mean() for s in (0.0, 0.4, 1.0)]
        assert distances[0] < 1e-4, kind
        assert distances[0] < distances[1] < distances[2], kind


@pytest.mark.parametrize("train", [train_factor_classifier, train_quality_scorer])
def test_a_seed_trains_one_judge(train):
    data = render_set(8, bias=0.0, seed=6, num_workers=1)
    one, again, other = (train(data, num_steps=2, batch_size=4, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[name]) for name, value in one.items())
    assert any(not torch.equal(value, other[name]) for name, value in one.items())
    assert all(torch.isfinite(value).all() for value in one.values())


def test_a_clip_that_puts_each_image_at_its_name_is_never_wrong():
    tokenizer, data = build_tokenizer(), render_set(8, bias=0.0, seed=7, num_workers=1)
    clip = train_clip(data, tokenizer, num_steps=1, batch_size=4)
    names = torch.eye(10)
    clip.encode_text = lambda tokens, normalize: names
    clip.encode_image = lambda images, normalize: names[data.labels]
    assert zero_shot_accuracy(clip, lambda texts: texts, data) == 1.0
    clip.encode_image = lambda images, normalize: names[(data.labels + 1) % 10]
    assert zero_shot_accuracy(clip, lambda texts: texts, data) == 0.0
