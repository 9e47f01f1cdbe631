"""The losses and the damage that the judges learn from."""

import torch

from ubgen_training.mini.judges import contrastive_loss, damage
from ubgen_training.mini.scene_batches import render_set, to_unit_range


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
