"""Names with several meanings: the split of features, its null, and the command on rendered classes that are mixed."""

import json

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import ClassLabel, Features, Image, Value

from support.scene_dataset import png
from ubgen_evaluation.check_names import load_image_encoder, main
from ubgen_evaluation.name_senses import _two_means, split_classes, split_in_two, split_labels
from ubgen_pipeline.dataset.shards import DatasetShards
from ubgen_pipeline.mini.scenes import scenes


def directions(rng, size, *centres):
    """Features about each centre in turn, ``(size, 16)``."""
    rows = rng.normal(size=(size, 16)) * 0.2
    return rows + np.stack([np.eye(16)[centres[i % len(centres)]] for i in range(size)])


def test_two_groups_are_found_and_one_is_not():
    rng = np.random.default_rng(0)
    two, one = split_in_two(directions(rng, 40, 0, 1)), split_in_two(directions(rng, 40, 2))
    assert np.array_equal(two.groups, np.arange(40) % 2) or np.array_equal(two.groups, 1 - np.arange(40) % 2)
    assert two.smaller_share == 0.5 and two.p_value < 0.01 and two.silhouette > 0.3
    assert one.p_value > 0.05 and one.silhouette < 0.2
    assert sorted(np.concatenate(two.centres).tolist()) == list(range(40))
    features = directions(rng, 40, 0, 1)[np.argsort(two.groups, kind="stable")]
    for group, places in enumerate(two.centres):
        assert (two.groups[places] == group).all()
    assert np.isclose(split_in_two(7 * features).cluster_index, split_in_two(features).cluster_index)


def test_the_figures_are_sklearns():
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    rng = np.random.default_rng(1)
    for centres in ((0,), (0, 1), (0, 1, 2)):
        rows = directions(rng, 60, *centres)
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        centred = unit - unit.mean(axis=0)
        reference = KMeans(2, n_init=50, random_state=0).fit(centred).inertia_ / (centred**2).sum()
        split = split_in_two(rows)
        assert reference - 1e-9 <= split.cluster_index < reference + 0.02
        assert np.isclose(split.silhouette, silhouette_score(unit, split.groups))


def test_an_elongated_class_is_one_group():
    """What the null is for: k-means halves a long cloud, too."""
    rng = np.random.default_rng(2)
    false_alarms = 0
    for seed in range(10):
        rows = np.concatenate([np.full((60, 1), 5.0), rng.normal(size=(60, 8)) * [3, 1, 1, 1, 1, 1, 1, 1]], axis=1)
        false_alarms += split_in_two(rows, seed=seed).p_value < 0.05
    assert false_alarms <= 2


def test_the_index_of_a_null_sample_is_about_its_own_mean():
    """A sample of a Gaussian has a mean beside 0; about 0 the index would be (n - 1) / n of sklearn's."""
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(4)
    ratios = []
    for _ in range(20):
        rows = rng.normal(size=(8, 5))
        centred = rows - rows.mean(axis=0)
        reference = KMeans(2, n_init=20, random_state=0).fit(centred).inertia_ / (centred**2).sum()
        ratios.append(_two_means(rows, rng)[0] / reference)
    assert min(ratios) >= 1 - 1e-9 and np.mean(ratios) < 1.08


def test_labels_that_split_come_clearest_first_and_small_groups_do_not_count():
    rng = np.random.default_rng(3)
    odd = directions(rng, 40, 4)
    odd[:3] = directions(rng, 3, 5)
    features = np.concatenate([directions(rng, 40, 2), directions(rng, 40, 0, 1), odd, directions(rng, 7, 0, 1)])
    labels = np.repeat([0, 1, 2, 3], [40, 40, 40, 7])
    splits = split_classes(features, labels)
    assert set(splits) == {0, 1, 2}
    assert split_labels(splits) == [1]
    assert 2 in split_labels(splits, min_share=0.0) or splits[2].p_value > 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split_in_two(np.ones((7, 3))), "at least 8 images"),
        (lambda: split_in_two(np.zeros((9, 3))), "zero or not finite"),
        (lambda: split_classes(np.ones((9, 3)), np.ones(8)), "labels"),
        (lambda: split_labels({}, min_share=0.6), "min_share is 0.6"),
        (lambda: split_labels({}, max_p_value=0), "max_p_value is 0"),
        (lambda: load_image_encoder("/nonexistent"), "clip_model '/nonexistent' cannot be loaded"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_images_are_encoded_as_the_other_commands_encode_them_whatever_their_sizes():
    from ubgen_pipeline.models.clip_encoders import load_clip_encoder, picture_pixels

    pictures = [PIL.Image.fromarray(scene.image) for scene in scenes(3, bias=0.0, seed=4)]
    features = load_image_encoder("mini")(pictures)
    with torch.no_grad():
        expected = load_clip_encoder("mini").encode_images(torch.cat([picture_pixels(one) for one in pictures]))
    np.testing.assert_allclose(features, expected.numpy(), rtol=0, atol=1e-5)
    larger = [pictures[0], pictures[1].resize((128, 96)), pictures[2]]
    mixed = load_image_encoder("mini")(larger)
    np.testing.assert_allclose(mixed[[0, 2]], features[[0, 2]], rtol=0, atol=1e-5)
    assert not np.allclose(mixed[1], features[1], atol=1e-3) and mixed.shape == features.shape


def test_command_finds_the_class_that_shows_two_things(tmp_path, capsys):
    """The class "crane" is drawn as stars and as rings; the others are themselves."""
    drawn = scenes(160, bias=0.95, seed=5, class_names=("circle", "square", "star", "ring"))
    names = ["circle", "square", "crane"]
    features = Features({"image": Image(), "label": ClassLabel(names=names), "index": Value("int64")})
    shards = DatasetShards(tmp_path / "d", {}, 160, 160)
    shards.open()
    rows = ({"image": png(scene.image), "label": min(i % 4, 2), "index": i} for i, scene in enumerate(drawn))
    shards.write(shards.shards[0], rows, features)
    shards.finish("# Scenes\n")
    assert main([str(tmp_path / "d"), "--output", str(tmp_path / "o.json")]) == 0
    printed = capsys.readouterr().out
    assert "crane: 80 images in two groups" in printed and "1 of 3 classes split" in printed
    assert "n02012849" in printed and "n03126707" in printed
    first = json.loads((tmp_path / "o.json").read_text())[0]
    assert first["class_name"] == "crane" and first["splits"] and first["p_value"] < 1e-3
    groups = [{row % 4 for row in rows} for rows in first["examples"]]
    assert sorted(groups, key=min) == [{2}, {3}]
    assert main([str(tmp_path / "nothing")]) == 2 and "holds no data" in capsys.readouterr().err
