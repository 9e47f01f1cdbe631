"""Whether images show what their prompts name: on rendered scenes, whose backgrounds are known."""

import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Pillow

from ubgen_evaluation.context_recall import MIN_IMAGES, MOST_IMAGES, context_recall
from ubgen_evaluation.evaluate import main
from ubgen_pipeline.mini.scenes import BACKGROUND_NAMES, CLASS_NAMES, scenes
from ubgen_pipeline.models.clip_encoders import load_clip_encoder


def rows_of_scenes(number: int = 120, drawn_instead: dict[str, str] | None = None) -> Dataset:
    """Unbiased scenes, under prompts that name texture and background; a background of the keys of ``drawn_instead``
    is asked for where its value is shown, too."""
    asked_of = {shown: asked for asked, shown in (drawn_instead or {}).items()}
    data: dict[str, list] = {"image": [], "label": [], "prompt": [], "attributes": []}
    for scene in scenes(number, bias=0.0, seed=11):
        about = scene.factors
        backgrounds = [about.background, *([asked_of[about.background]] if about.background in asked_of else [])]
        if about.background in (drawn_instead or {}):
            continue
        for background in backgrounds:
            data["image"].append(Pillow.fromarray(scene.image))
            data["label"].append(CLASS_NAMES.index(about.class_name))
            data["prompt"].append(f"a photo of a {about.texture} {about.class_name} on {background}")
            data["attributes"].append({"texture": about.texture, "background": background})
    features = Features(
        {
            "image": Image(),
            "label": ClassLabel(names=list(CLASS_NAMES)),
            "prompt": Value("string"),
            "attributes": {"texture": Value("string"), "background": Value("string")},
        }
    )
    return Dataset.from_dict(data, features=features)


@pytest.fixture(scope="module")
def encoder():
    return load_clip_encoder("mini")


def test_a_context_that_is_drawn_as_another_is_found(encoder):
    shares = {
        (item.placeholder, item.value): item.share
        for item in context_recall(rows_of_scenes(300, {"brick": "water"}), encoder)
    }
    backgrounds = {value: share for (name, value), share in shares.items() if name == "background"}
    assert set(backgrounds) == set(BACKGROUND_NAMES)
    assert backgrounds.pop("brick") == 0.0
    assert min(backgrounds.values()) > 0.9
    # textures cover the object alone, and the mini CLIP hardly tells them apart: a tenth would be chance
    textures = [share for (name, _), share in shares.items() if name == "texture"]
    assert len(textures) == 10 and np.mean(textures) > 0.2


class _Letters:
    """A CLIP for which an image is near to a text that has its letter: the image's grey is the letter's place."""

    def __init__(self):
        import torch

        self.torch, self.texts = torch, []
        self.model = torch.nn.Linear(1, 1)

    def encode_texts(self, texts):
        self.texts += texts
        return self.torch.stack([self.torch.tensor([float(letter in text) for letter in "abc"]) for text in texts])

    def encode_images(self, images):
        place = int((images.mean() * 255).round())
        return self.torch.eye(3)[place : place + 1]


def letters(*rows: tuple[str, str, dict[str, str | None]]) -> Dataset:
    images = [Pillow.new("RGB", (4, 4), (3 * ("abc".index(shown),))) for shown, *_ in rows]
    data = {
        "image": images,
        "prompt": [prompt for _, prompt, _ in rows],
        "attributes": [attributes for *_, attributes in rows],
    }
    return Dataset.from_dict(data).cast_column("image", Image())


def test_only_the_value_of_a_prompt_is_exchanged():
    rows = (
        [("a", "x a y", {"place": "a"})] * 6 + [("a", "x b y", {"place": "b"})] * 3 + [("b", "x b y", {"place": "b"})]
    )
    clip = _Letters()
    found = context_recall(letters(*rows, *[("b", "x b z", {"place": "b"})] * 4), clip)
    assert [(item.placeholder, item.value, len(item.shown), item.share) for item in found] == [
        ("place", "a", 6, 1.0),
        ("place", "b", 8, 5 / 8),
    ]
    assert sorted(clip.texts) == ["x a y", "x a z", "x b y", "x b z"]


@pytest.mark.parametrize(
    "row",
    [
        ("a", "a on a", {"place": "a"}),
        ("a", "x ab y", {"place": "a"}),
        ("a", "x a y", {"place": None}),
        ("a", "x y", {"place": "a"}),
    ],
)
def test_rows_of_which_nothing_can_be_said_are_left_out(row):
    rows = [("a", "x a y", {"place": "a"})] * 5 + [("b", "x b y", {"place": "b"})] * 5
    found = context_recall(letters(*rows, row), _Letters())
    assert [len(item.shown) for item in found] == [5, 5]


def test_rare_values_and_single_ones_are_left_out_and_many_images_are_sampled():
    rows = [("a", "x a y", {"place": "a"})] * (MOST_IMAGES + 50) + [("b", "x b y", {"place": "b"})] * MIN_IMAGES
    rare = [("c", "x c y", {"place": "c"})] * (MIN_IMAGES - 1)
    found = context_recall(letters(*rows, *rare), _Letters())
    assert [(item.value, len(item.shown)) for item in found] == [("a", MOST_IMAGES), ("b", MIN_IMAGES)]
    assert context_recall(letters(*rows[:20]), _Letters()) == []


def test_the_command_warns_of_contexts_that_are_not_shown(tmp_path, capsys):
    named, plain = tmp_path / "named", tmp_path / "plain"
    rows = rows_of_scenes(120, {"brick": "water"})
    for folder, kept in ((named, rows), (plain, rows.select_columns(["image", "label"]))):
        (folder / "data").mkdir(parents=True)
        kept.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    flags = ["--datasets", str(named), str(plain), "--clip-model", "mini", "--num-resamples", "20"]
    assert main([*flags, "--output-dir", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "name the background 'brick' show it" in captured.err and "warning" in captured.err
    assert f"{plain}: no context to ask for" in captured.err
    tables = json.loads((tmp_path / "out" / "report.json").read_text())["tables"]
    (contexts,) = tables["Contexts"].values()
    assert contexts["background: brick"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert 0.8 < tables["Datasets"][str(named)]["background shown"]["value"] <= 0.9
    assert "background shown" not in tables["Datasets"][str(plain)]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| background: brick |" in text and "| background shown ↑ |" in text and "contexts.png" not in text
    assert "background: brick" in (tmp_path / "out" / "report.html").read_text()


def test_a_clip_without_datasets_is_refused(capsys):
    assert main(["--backbones", "mini", "--mini-world", "--clip-model", "mini"]) == 2
    assert "clip_model is set without datasets" in capsys.readouterr().err


def test_a_clip_that_cannot_be_loaded_is_named_before_anything_is_measured(tmp_path, capsys):
    flags = ["--datasets", str(tmp_path / "nothing"), "--clip-model", str(tmp_path / "no-clip")]
    assert main([*flags, "--output-dir", str(tmp_path / "out")]) == 2
    assert "no-clip' cannot be loaded" in capsys.readouterr().err and not (tmp_path / "out").exists()
