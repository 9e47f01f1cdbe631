"""The mini world: equal seeds give equal pixels, masks and boxes are exact, bias is what the dial says."""

import math
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from ubgen_pipeline.mini.scenes import (
    BACKGROUND_NAMES,
    CLASS_NAMES,
    NOVEL_CLASS_NAMES,
    OWN_BACKGROUND,
    OWN_TEXTURE,
    TEXTURE_NAMES,
    SceneFactors,
    background_swap_scenes,
    cue_conflict_scenes,
    draw_factors,
    novel_scenes,
    pair_scenes,
    render_scene,
    scenes,
)
from ubgen_pipeline.mini.silhouettes import CLASS_OUTLINES, NOVEL_OUTLINES
from ubgen_pipeline.mini.surfaces import BACKGROUNDS, IMAGE_SIZE, TEXTURES

OUTLINES = CLASS_OUTLINES | NOVEL_OUTLINES


def inside(ring: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Even-odd rule: whether the points lie in the closed ring ``(K, 2)``."""
    result = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0)):
        if y0 != y1:
            crosses = (y0 > y) != (y1 > y)
            result ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return result


def exact_coverage(factors: SceneFactors, samples: int = 8) -> np.ndarray:
    """Share of every pixel that the silhouette covers, from ``samples`` squared points of each pixel."""
    at = (np.arange(IMAGE_SIZE * samples) + 0.5) / samples
    x, y = np.meshgrid(at, at)
    angle = math.radians(factors.turn)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    covered = np.zeros(x.shape, bool)
    for number, outline in enumerate(OUTLINES[factors.class_name]):
        ring = np.array(outline) @ turn * factors.radius + np.array(factors.centre)
        covered = inside(ring, x, y) if number == 0 else covered & ~inside(ring, x, y)
    return covered.reshape(IMAGE_SIZE, samples, IMAGE_SIZE, samples).mean(axis=(1, 3))


def grown(mask: np.ndarray) -> np.ndarray:
    """The mask and all pixels up to two away from it."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(mask, 2), (5, 5)).any(axis=(2, 3))


def draw(class_name: str, seed: int = 0, bias: float = 0.0) -> SceneFactors:
    return draw_factors(class_name, bias=bias, rng=np.random.default_rng(seed))


def test_the_world_has_ten_of_everything():
    assert len(CLASS_NAMES) == len(NOVEL_CLASS_NAMES) == len(BACKGROUND_NAMES) == len(TEXTURE_NAMES) == 10
    assert not set(CLASS_NAMES) & set(NOVEL_CLASS_NAMES)
    # every class owns another background and another texture, or bias could not be told by class
    assert sorted(OWN_BACKGROUND.values()) == sorted(BACKGROUND_NAMES)
    assert sorted(OWN_TEXTURE.values()) == sorted(TEXTURE_NAMES)


@pytest.mark.parametrize("class_name", [*CLASS_NAMES, *NOVEL_CLASS_NAMES])
def test_masks_match_an_independent_rasterisation(class_name):
    for seed in range(3):
        factors = draw(class_name, seed)
        mask, coverage = render_scene(factors).mask, exact_coverage(factors)
        # the drawing library fills every sub-pixel that an edge touches, so edges lie up to 0.35 pixels off
        assert mask[coverage > 0.7].all()
        assert not mask[coverage < 0.15].any()


@pytest.mark.parametrize("class_name", [*CLASS_NAMES, *NOVEL_CLASS_NAMES])
def test_outlines_lie_in_the_unit_disc_or_little_beyond(class_name):
    for ring in OUTLINES[class_name]:
        assert len(ring) >= 3
        # a corner beyond the disc must still lie in the image: the centre keeps one pixel more than the radius
        assert max(math.hypot(x, y) for x, y in ring) <= 1.25


def test_boxes_enclose_the_mask_exactly():
    for scene in scenes(40, bias=0.5, seed=8):
        x0, y0, x1, y1 = scene.box
        assert scene.mask[y0:y1, x0:x1].sum() == scene.mask.sum() > 0
        for edge in (scene.mask[y0], scene.mask[y1 - 1], scene.mask[:, x0], scene.mask[:, x1 - 1]):
            assert edge.any()


def test_the_object_stays_in_the_image():
    for scene in [*scenes(100, bias=0.0, seed=1), *novel_scenes(100, seed=1)]:
        x0, y0, x1, y1 = scene.box
        assert x0 >= 0 and y0 >= 0 and x1 <= IMAGE_SIZE and y1 <= IMAGE_SIZE
        touching = scene.mask[[0, -1]].sum() + scene.mask[:, [0, -1]].sum()
        assert touching == 0, scene.factors


def test_pixels_outside_the_mask_are_the_background():
    for seed in range(10):
        factors = draw("star", seed)
        scene = render_scene(factors)
        background = BACKGROUNDS[factors.background](np.random.default_rng(factors.surface_seed))
        # leave the ring of half-covered pixels around the object out
        outside = (exact_coverage(factors) == 0) & ~grown(scene.mask)
        expected = np.clip(background + 0.5, 0, 255).astype(np.uint8)
        np.testing.assert_array_equal(scene.image[outside], expected[outside])


def test_equal_seeds_give_equal_scenes_and_others_do_not():
    first, again, other = (list(scenes(12, bias=0.7, seed=seed)) for seed in (3, 3, 4))
    for one, two in zip(first, again):
        assert one.factors == two.factors and np.array_equal(one.image, two.image)
    assert any(one.factors != two.factors for one, two in zip(first, other))


def test_a_scene_depends_on_seed_and_index_alone():
    whole = list(scenes(9, bias=0.3, seed=6))
    tail = list(scenes(4, bias=0.3, seed=6, start=5))
    assert [scene.factors for scene in whole[5:]] == [scene.factors for scene in tail]


def test_classes_take_turns():
    drawn = [scene.factors.class_name for scene in scenes(20, bias=0.0, seed=0)]
    assert drawn == [*CLASS_NAMES, *CLASS_NAMES]


@pytest.mark.parametrize("bias", [0.0, 0.4, 0.95, 1.0])
def test_bias_is_the_share_of_own_surfaces(bias):
    count = 4000
    drawn = [draw(CLASS_NAMES[i % 10], seed=i, bias=bias) for i in range(count)]
    # an uniform draw hits the own value one time in ten
    expected = bias + (1 - bias) / 10
    tolerance = 4 * math.sqrt(expected * (1 - expected) / count) + 1e-9
    background = np.array([f.background == OWN_BACKGROUND[f.class_name] for f in drawn])
    texture = np.array([f.texture == OWN_TEXTURE[f.class_name] for f in drawn])
    assert abs(background.mean() - expected) <= tolerance
    assert abs(texture.mean() - expected) <= tolerance
    # the two are drawn apart
    assert abs((background & texture).mean() - expected**2) <= 4 * math.sqrt(0.25 / count)


def test_without_bias_every_surface_is_as_common():
    drawn = [draw("ring", seed=i) for i in range(3000)]
    for values, names in (
        ((f.background for f in drawn), BACKGROUND_NAMES),
        ((f.texture for f in drawn), TEXTURE_NAMES),
    ):
        counts = Counter(values)
        assert set(counts) == set(names)
        # chi-squared with 9 degrees of freedom; 27.9 is passed one time in a thousand
        assert sum((counts[name] - 300) ** 2 / 300 for name in names) < 27.9


def test_fixed_surfaces_win_over_the_dial():
    factors = draw_factors("star", bias=1.0, rng=np.random.default_rng(0), texture="dotted", background="lava")
    assert (factors.texture, factors.background) == ("dotted", "lava")
    assert factors.caption == "a photo of a dotted star on lava"


def test_cue_conflict_crosses_every_shape_with_every_other_texture():
    drawn = list(cue_conflict_scenes(1, seed=2))
    owner = {texture: name for name, texture in OWN_TEXTURE.items()}
    pairs = Counter((s.factors.class_name, owner[s.factors.texture]) for s in drawn)
    assert set(pairs) == {(a, b) for a in CLASS_NAMES for b in CLASS_NAMES if a != b}
    assert set(pairs.values()) == {1}
    assert len({s.factors.background for s in drawn}) == 10


def test_background_swaps_keep_the_foreground():
    same, random = (list(background_swap_scenes(200, seed=4, kind=kind)) for kind in ("same", "random"))
    for one, two in zip(same, random):
        assert one.factors == replace(two.factors, background=one.factors.background)
        assert np.array_equal(one.mask, two.mask)
        assert one.factors.background == OWN_BACKGROUND[one.factors.class_name]
        inner = ~grown(~one.mask)
        assert inner.any()
        assert np.array_equal(one.image[inner], two.image[inner])
    for scene in [*same, *random]:
        surface = BACKGROUNDS[scene.factors.background](np.random.default_rng(scene.factors.surface_seed))
        mean = surface.reshape(-1, 3).mean(axis=0)
        assert all(np.linalg.norm(np.array(colour) - mean) > 90 for colour in scene.factors.colours)
    own = np.mean([s.factors.background == OWN_BACKGROUND[s.factors.class_name] for s in random])
    assert 0.03 <= own <= 0.2
    with pytest.raises(ValueError, match=r"kind must be .* got 'other'"):
        next(background_swap_scenes(1, seed=0, kind="other"))


def test_pairs_are_two_whole_objects_apart_on_the_background_of_the_first():
    drawn = list(pair_scenes(60, bias=0.8, seed=4))
    own = []
    for index, scene in enumerate(drawn):
        first, second = scene.factors
        assert first.class_name == CLASS_NAMES[index % 10] != second.class_name
        assert first.background == second.background
        assert not (scene.masks[0] & scene.masks[1]).any()
        for factors, mask in zip(scene.factors, scene.masks):
            alone = render_scene(factors)
            assert np.array_equal(mask, alone.mask)
            inner = ~grown(~mask)
            assert np.array_equal(scene.image[inner], alone.image[inner])
        own.append(first.background == OWN_BACKGROUND[first.class_name])
    assert 0.65 <= np.mean(own) <= 0.95
    (again,) = pair_scenes(1, bias=0.8, seed=4, start=59)
    assert np.array_equal(again.image, drawn[59].image)


def test_novel_scenes_are_novel_and_unbiased():
    drawn = list(novel_scenes(60, seed=5))
    assert [s.factors.class_name for s in islice(drawn, 10)] == list(NOVEL_CLASS_NAMES)
    assert len({s.factors.background for s in drawn}) >= 9


def test_objects_stand_out_from_their_background():
    for scene in scenes(50, bias=0.5, seed=9):
        background = BACKGROUNDS[scene.factors.background](np.random.default_rng(scene.factors.surface_seed))
        mean = background.reshape(-1, 3).mean(axis=0)
        for colour in scene.factors.colours:
            assert np.linalg.norm(np.array(colour) - mean) > 90


@pytest.mark.parametrize("name", BACKGROUND_NAMES)
def test_backgrounds_are_seeded_and_in_range(name):
    first, again, other = (BACKGROUNDS[name](np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.min() >= 0 and first.max() <= 255


@pytest.mark.parametrize("name", TEXTURE_NAMES)
def test_textures_are_shares(name):
    share = TEXTURES[name](np.random.default_rng(0), 30.0, 34.0)
    assert share.shape == (IMAGE_SIZE, IMAGE_SIZE)
    assert share.min() >= 0 and share.max() <= 1
    assert (share.std() > 0) == (name != "plain")


@pytest.mark.parametrize(("class_name", "bias", "message"), [("cube", 0.5, "'cube'"), ("star", 1.1, r"got 1\.1")])
def test_bad_input_is_named(class_name, bias, message):
    with pytest.raises(ValueError, match=message):
        draw_factors(class_name, bias=bias, rng=np.random.default_rng(0))
