"""The sweep's combined maps are those that the pipeline itself records with the same settings."""

import numpy as np
import pytest
import torch

from benchmarks.joint_mask_recordings import joint_candidates, record_joint_maps
from benchmarks.mask_sweep import KnownScene, SweepSettings
from ubgen_pipeline.attention_masks import heat_maps
from ubgen_pipeline.mask_settings import MaskSettings
from ubgen_pipeline.mini.scenes import pair_scenes
from ubgen_pipeline.models.loading import load_pipeline


@pytest.mark.slow
@pytest.mark.parametrize(("source", "blocks"), [("attention", (0, 2)), ("concepts", (0, 1))])
def test_combined_maps_are_those_of_the_pipeline(source, blocks):
    pipeline = load_pipeline("mini-flow")
    pipeline.set_progress_bar_config(disable=True)
    rendered = [KnownScene.of(scene, False) for scene in pair_scenes(2, bias=0.95, seed=1)]
    sweep = SweepSettings(num_objects=2, strength=0.5, seed=5)
    recorded = record_joint_maps(pipeline, rendered, 8, 3.0, sweep)
    settings = MaskSettings(
        source=source,
        background=("a",),
        class_prompt=False,
        cross_levels=blocks,
        self_level=1,
        self_power=2,
        first_step=0.25,
        last_step=0.75,
    )
    drawn = pipeline(
        [" and ".join(scene.class_names) for scene in rendered],
        prompts=[scene.prompt for scene in rendered],
        shown_classes=[scene.class_names for scene in rendered],
        shown_labels=[[0, 1]] * 2,
        seeds=[5, 6],
        source_images=torch.from_numpy(np.stack([scene.image for scene in rendered])).permute(0, 3, 1, 2) / 255,
        strength=sweep.strength,
        num_inference_steps=8,
        guidance_scale=3.0,
        annotations=["heatmap"],
        mask_settings=settings,
    )
    found = heat_maps(recorded.combined(settings), settings, (64, 64)).numpy()
    expected = np.stack([annotation.heat_maps for annotation in drawn.annotations])
    assert found.shape == (2, 2, 64, 64)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_every_candidate_was_recorded():
    candidates = list(joint_candidates(load_pipeline("mini-flow").mask_attention, ["a"]))
    assert len(set(candidates)) == len(candidates)
    assert {item.cross_levels for item in candidates} >= {(0,), (2, 3), (0, 1, 2, 3)}
    assert {(item.source, item.invert) for item in candidates} == {
        ("attention", False),
        ("attention", True),
        ("concepts", False),
    }
    assert max(max(item.cross_levels) for item in candidates if item.source == "concepts") == 2
    recorded = {item.self_power for item in candidates}
    with pytest.raises(ValueError, match="self_power is 3"):
        from benchmarks.joint_mask_recordings import JointMaps

        assert 3 not in recorded and JointMaps({}).combined(MaskSettings(self_power=3))
