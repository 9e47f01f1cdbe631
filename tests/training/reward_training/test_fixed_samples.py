"""Fixed samples: the same images whatever batch and number of ranks, in order; grids on disk and in trackers."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from ubgen_pipeline.initial_latents import sample_seed
from ubgen_training.reward_training.fixed_samples import FixedSamples, evenly_spread, log_images, save_grid

NAMES = [f"class {label}" for label in range(7)]


class _Sampler:
    """An "image" that holds its label and what its seed draws, beyond [0, 1] here and there."""

    def __init__(self):
        self.sizes = []

    def __call__(self, labels, seeds):
        assert not torch.is_grad_enabled()
        self.sizes.append(len(seeds))
        noise = [torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return labels.view(-1, 1, 1, 1) + torch.stack(noise)


def _ranks(num_ranks, **settings):
    """What each rank draws, and what they collect together through a gather that joins in rank order."""
    shares = {}
    for rank in range(num_ranks):
        samples = FixedSamples(_Sampler(), NAMES, seed=3, rank=rank, num_ranks=num_ranks, **settings)
        shares[rank] = torch.cat([batch.images for batch in samples.batches()])
    joined = FixedSamples(
        _Sampler(), NAMES, seed=3, num_ranks=num_ranks, gather=lambda _: torch.cat(list(shares.values())), **settings
    )
    return shares, joined.collect(shares[0])


@pytest.mark.parametrize("num_ranks, batch_size", [(1, 3), (2, 4), (4, 2), (3, 1), (5, 4)])
def test_images_do_not_depend_on_ranks_and_batches(num_ranks, batch_size):
    _, expected = _ranks(1, num_classes=3, num_per_class=3, batch_size=9)
    shares, collected = _ranks(num_ranks, num_classes=3, num_per_class=3, batch_size=batch_size)
    assert torch.equal(collected, expected) and len(expected) == 9
    # sharded weights are gathered by all ranks together, so each must draw as often
    assert len({len(share) for share in shares.values()}) == 1
    assert expected.min() >= 0 and expected.max() <= 1


def test_samples_are_rows_of_classes_with_the_pipelines_own_seeds():
    samples = FixedSamples(_Sampler(), NAMES, seed=3, num_classes=2, num_per_class=2)
    assert samples.labels.tolist() == [0, 0, 3, 3]
    assert samples.seeds == [sample_seed(3, name, k) for name in ("class 0", "class 3") for k in range(2)]


@pytest.mark.parametrize("length, count, expected", [(3, 8, [0, 1, 2]), (1000, 4, [0, 250, 500, 750]), (10, 1, [0])])
def test_classes_are_spread_over_the_list(length, count, expected):
    assert evenly_spread(length, count) == expected


def test_the_global_random_state_is_left_alone(random_mini_model):
    from ubgen_pipeline.models.loading import load_pipeline
    from ubgen_training.lora.adapter import LoraSettings
    from ubgen_training.sampler.sampler_model import SamplerModel, SamplingSettings

    sampler = SamplerModel(
        load_pipeline(random_mini_model, scheduler="ddpm"), ["a"], LoraSettings(2), SamplingSettings(2)
    )
    samples = FixedSamples(sampler, ["a"], seed=0, num_per_class=2)
    before = torch.random.get_rng_state()
    first, second = (next(iter(samples.batches())) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.images, second.images) and not first.images.requires_grad
    assert not torch.equal(first.images[0], first.images[1])


def test_grid_is_a_row_per_class_and_reads_back(tmp_path):
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    grid = save_grid(images, tmp_path / "samples" / "step_000000.png", num_per_row=3)
    read = pil_to_tensor(Image.open(tmp_path / "samples" / "step_000000.png"))
    assert torch.equal(read, grid)
    # two pixels between them: the second image of the second row
    assert torch.equal(read[:, 12:20, 12:20], images[4])
    assert [file.name for file in (tmp_path / "samples").iterdir()] == ["step_000000.png"]


def test_trackers_get_the_image_and_others_nothing():
    image, seen = torch.zeros(3, 4, 6, dtype=torch.uint8), []
    writer = SimpleNamespace(add_image=lambda *arguments: seen.append(arguments))
    tracker = SimpleNamespace(Image=lambda value: ("image", value.size), log=seen.append)
    log_images(
        [
            SimpleNamespace(tb_writer=writer),
            SimpleNamespace(_wandb=tracker, _initialized=True),
            SimpleNamespace(_trackio=tracker, _initialized=False),
            SimpleNamespace(tb_writer=None),
            object(),
        ],
        "samples",
        image,
        7,
    )
    assert seen[0][0] == "samples" and seen[0][1] is image and seen[0][2] == 7
    assert seen[1:] == [{"samples": ("image", (6, 4)), "train/global_step": 7}]
