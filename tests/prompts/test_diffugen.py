"""DiffuGen's configurations, one test for each task from file to images, and what is noted or refused."""

import itertools
import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value, load_dataset
from PIL import Image as PilImage

from ubgen_pipeline.generation.generate import generate_dataset, main
from ubgen_pipeline.labelling.annotate import main as annotate
from ubgen_pipeline.mini.scenes import scenes
from ubgen_pipeline.models.text_embeddings import save_embedding
from ubgen_pipeline.samples.prompt_samples import read_prompt_file

NAMES = ["disc", "star", "ring"]
TEMPLATES = ["{view_point} of a {object_name}++ in {weather_condition}, <glow>", "a {object_name} by {time_of_day}"]
ATTRIBUTES = ("view_point", "time_of_day", "sky_condition", "weather_condition", "template")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The root of a project, the working directory, with the folder ``datasets`` for configurations."""
    (tmp_path / "datasets").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_config(project, model, change=None):
    config = {
        "dataset_name": "shapes",
        "dataset_root": "out",
        "image_format": "png",
        "image_size": {"width": 64, "height": 64},
        "steps": 2,
        "dataset_classes": ["disc", "star"],
        "dataset_to_model_class_map": {"disc": "circle", "ring": "circle", "star": "star"},
        "label_model": {"type": "YOLOSeg", "weights": "w.pt", "classes": "c.txt"},
        "unsupervised": False,
        "deterministic": True,
        "images_per_shard": 5,
        "txt2img": {
            "stable_diffusion_model": model,
            "seed_range": {"min": 5, "max": 99},
            "seed_count_per_prompt": 1,
            "textual_inversion": {"weights": "models/glow.safetensors", "keyword": "<glow>"},
            "object_names": NAMES,
            "view_points": ["side"],
            "times_of_day": ["day", "night"],
            "sky_conditions": ["clear"],
            "weather_conditions": ["sun"],
            "prompts": TEMPLATES,
            "negative_prompt": "(dull:1.4)",
        },
        "img2img": {
            "stable_diffusion_model": model,
            "source_dataset": "out/shapes/txt2img",
            "times_of_day": ["day", "dawn"],
            "sky_conditions": ["grey"],
            "weather_conditions": ["heavy rain", "fog"],
        },
        "inpaint": {
            "stable_diffusion_model": model,
            "source_dataset": "scenes",
            "disc": ["red ball", "blue plate"],
            "star": ["golden star"],
        },
    }
    if change is not None:
        change(config)
    file = project / "datasets" / "shapes.json"
    file.write_text(json.dumps(config))
    (project / "models").mkdir(exist_ok=True)
    vectors = torch.randn(2, 96, generator=torch.Generator().manual_seed(3))
    save_embedding("<glow>", vectors, project / "models").rename(project / "models" / "glow.safetensors")
    return str(file)


def save_source(folder, *, attributes=True, masks=True, empty=()):
    """Rows as a run of the ``txt2img`` section with masks has them: discs, stars and rings in turns."""
    drawn = list(scenes(6, bias=0.0, seed=5, class_names=["circle", "star", "ring"]))
    labels = [number % 3 for number in range(6)]
    masks_of_rows = [(scene.mask * (number not in empty)).astype(np.uint8) for number, scene in enumerate(drawn)]
    columns = {
        "image": [PilImage.fromarray(scene.image) for scene in drawn],
        "label": labels,
        "mask": [PilImage.fromarray(mask * (1 + label)) for mask, label in zip(masks_of_rows, labels)],
        "attributes": [dict(zip(ATTRIBUTES, ("top", "noon", "clear", "sun", TEMPLATES[0])))] * 6,
    }
    features = {"image": Image(), "label": ClassLabel(names=NAMES), "mask": Image()}
    features["attributes"] = {name: Value("string") for name in ATTRIBUTES}
    for name, is_kept in (("attributes", attributes), ("mask", masks)):
        if not is_kept:
            del columns[name], features[name]
    Dataset.from_dict(columns, features=Features(features)).save_to_disk(str(folder))


def test_text_to_image_then_image_to_image_run_as_they_are(random_mini_model, project, capsys):
    config = write_config(project, random_mini_model)
    assert main(["--classes", config, "--model", random_mini_model, "--batch-size", "12"]) == 0
    first = load_dataset("out/shapes/txt2img", split="train")
    # 2 templates, 3 objects, 2 times
    assert len(first) == 12 and first.features["label"].names == NAMES
    assert set(first["num_inference_steps"]) == {2} and set(first["negative_prompt"]) == {"(dull:1.4)"}
    assert first["model_class"][:] == [{"star": "star"}.get(name, "circle") for name in first["class_name"]]

    assert main(["--classes", config, "--model", random_mini_model, "--task", "image-to-image"]) == 0
    rows = load_dataset("out/shapes/img2img", split="train")
    lists = (["day", "dawn"], ["grey"], ["heavy rain", "fog"])
    expected = []
    for row in first:
        own = row["attributes"]
        for time, sky, weather in itertools.product(*lists):
            if time in own["time_of_day"]:
                continue
            name = row["class_name"]
            text = own["template"].replace("{object_name}++", f"{name}++").replace("{object_name}", name)
            values = {"view_point": "side", "time_of_day": time, "sky_condition": sky, "weather_condition": weather}
            expected.append((row["index"], row["label"], text.format(**values)))
    found = [(row["source_index"], row["label"], row["prompt"]) for row in rows]
    assert sorted(found) == sorted(expected) and len(found) == 36
    # rows by day are drawn by dawn only; in the first round every row has its turn
    assert found[0][0] == 0 and sorted(index for index, _, _ in found[:12]) == list(range(12))
    assert len({(row["class_name"], row["seed"]) for row in rows}) == 36
    assert set(rows["task"]) == {"image-to-image"} and set(rows["source_dataset"]) == {"txt2img"}
    # again: nothing to do, so the samples are the same
    assert main(["--classes", config, "--model", random_mini_model, "--task", "image-to-image"]) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_inpainting_runs_as_it_is(random_mini_model, project, capsys):
    config = write_config(project, random_mini_model, lambda c: c.update(task="inpaint"))
    save_source(project / "scenes", empty=(3,))
    assert main(["--classes", config, "--model", random_mini_model]) == 0
    error = capsys.readouterr().err
    assert "1 of 6 rows of the source have no object" in error and "2 of 6 rows of the source show what" in error
    rows = load_dataset("out/shapes/inpaint", split="train")
    # disc in rows 0 and 3, whose mask is empty; star in rows 1 and 4; rings have no descriptions
    expected = [(0, "red ball"), (1, "golden star"), (4, "golden star"), (0, "blue plate")]
    assert [(row["source_index"], row["attributes"]["description"]) for row in rows] == expected
    assert rows["prompt"][:] == [f"a top view of {description}" for _, description in expected]
    assert rows["class_name"][:] == ["disc", "star", "star", "disc"] and set(rows["strength"]) == {1.0}
    source = Dataset.load_from_disk(str(project / "scenes"))
    for row in rows:
        original = source[row["source_index"]]
        outside = np.asarray(original["mask"]) == 0
        before, after = np.asarray(original["image"]), np.asarray(row["image"])
        assert np.array_equal(after[outside], before[outside]) and not np.array_equal(after, before)
        assert np.array_equal(np.asarray(row["mask"]), np.asarray(original["mask"]))


def test_the_keyword_of_a_textual_inversion_is_taught(random_mini_model, project, capsys):
    def one_prompt(config):
        config["txt2img"].update(object_names=["star"], times_of_day=["day"], prompts=TEMPLATES[:1])

    config = write_config(project, random_mini_model, one_prompt)
    assert read_prompt_file(config).defaults(random_mini_model)["embeddings"] == ["models/glow.safetensors=<glow>"]
    taught = generate_dataset(config, project / "taught", model=random_mini_model)
    plain = write_config(project, "another", one_prompt)
    capsys.readouterr()
    untaught = generate_dataset(plain, project / "plain", model=random_mini_model)
    assert taught["prompt"][:] == untaught["prompt"][:] == ["side of a star++ in sun, <glow>"]
    assert taught[0]["image"].tobytes() != untaught[0]["image"].tobytes()
    error = capsys.readouterr().err
    assert "textual_inversion is another's; its word is read as plain letters" in error
    assert "written for another" in error


def test_labelling_by_attention_is_asked_for_with_unsupervised(random_mini_model, project):
    config = write_config(project, random_mini_model, lambda c: c.update(unsupervised=True))
    rows = generate_dataset(config, model=random_mini_model, samples_per_class=1)
    assert {"mask", "heatmaps", "objects"} <= set(rows.column_names) and len(rows) == 3
    assert (project / "out" / "shapes" / "txt2img").is_dir()


def test_its_class_map_tells_classes_with_one_word_apart(project, tmp_path, monkeypatch):
    from ubgen_pipeline.labelling import annotators, build_annotator
    from ubgen_pipeline.mask_regions import MaskObject

    config = write_config(project, "m")
    save_source(project / "scenes")
    seen = []

    class Finder:
        """Finds a circle in the upper half of every image, and a star below it."""

        def __call__(self, image, own_label=None):
            mask = np.repeat(np.uint8([1, 2]), 32)[:, None] * np.ones((1, 64), np.uint8)
            objects = [MaskObject(value, (0, 0, 64, 32), 2048, 1.0, mask == value) for value in (1, 2)]
            seen.append(own_label)
            return annotators.Labelling(mask, objects)

    def build(model, class_names, class_map, **settings):
        assert class_names == NAMES and dict(class_map) == {"circle": "disc", "star": "star"}
        return Finder()

    monkeypatch.setattr(build_annotator, "build_annotator", build)
    flags = ["scenes", "--model", "m", "--class-map", config, "--own-class-only"]
    assert annotate([*flags, "--output-dir", "labelled"]) == 0
    rows = load_dataset("labelled", split="train")
    for row in rows:
        # the circle is a ring in a row of a ring
        circle = 2 if row["label"] == 2 else 0
        assert row["objects"]["category"] == [circle, 1]
        assert np.unique(np.asarray(row["mask"])[:32]).tolist() == [1 + circle]
    # a ring is looked for as what its word stands for; the first call is a trial
    assert seen[1:] == [0, 1, 0] * 2


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda c: c.update(deterministic=False), "deterministic is false, which is not followed"),
        (lambda c: c.update(image_format="bmp"), "image_format is 'bmp'"),
        (lambda c: c.update(colour="red"), "colour is not read"),
        (lambda c: c["txt2img"].update(sampler="ddim"), "txt2img.sampler is not read"),
        (lambda c: c["txt2img"].update(prompts=TEMPLATES[1:]), "teaches <glow>, which stands in no prompt"),
        (lambda c: c["dataset_to_model_class_map"].update(tree="plant"), "has 'tree', which is no class"),
        (lambda c: c["dataset_to_model_class_map"].pop("ring"), "has no 'ring'; rows of it have no model_class"),
        (lambda c: None, "label_model is not read: label the finished dataset with `ubgen annotate"),
        (lambda c: None, "its section inpaint is drawn with --task inpaint"),
    ],
)
def test_what_is_not_followed_is_said(project, capsys, change, note):
    assert main(["--classes", write_config(project, "m", change), "--dry-run"]) == 0
    assert note in capsys.readouterr().err


IMAGE_TO_IMAGE = ["--task", "image-to-image"]


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        (IMAGE_TO_IMAGE, lambda c: c["img2img"].pop("sky_conditions"), "img2img has no sky_conditions"),
        (IMAGE_TO_IMAGE, lambda c: c["img2img"].update(times_of_day=[]), "no values for time_of_day"),
        (IMAGE_TO_IMAGE, lambda c: c["img2img"].update(source_dataset="nowhere"), "could not be read"),
        (IMAGE_TO_IMAGE, lambda c: c["img2img"].update(source_dataset="bare"), "have no attribute 'template'"),
        (IMAGE_TO_IMAGE, lambda c: c.pop("img2img"), "need a source dataset"),
        (["--task", "inpaint"], lambda c: c["inpaint"].update(disc="red ball"), "disc is 'red ball'"),
        (["--task", "inpaint"], lambda c: [c["inpaint"].pop(n) for n in ("disc", "star")], "describes none of the"),
        (["--task", "inpaint"], lambda c: c["inpaint"].update(source_dataset="bare"), "no column 'mask'"),
        (["--task", "inpaint", "--max-prompts", "1"], None, "max_prompts is given"),
        ([], lambda c: c.update(task="txt2video"), "task is 'txt2video'"),
        ([], lambda c: c.update(dataset_to_model_class_map=["car"]), "dataset_to_model_class_map is"),
        ([], lambda c: c["txt2img"].update(textual_inversion="glow.pt"), "textual_inversion is 'glow.pt'"),
    ],
)
def test_bad_configurations_are_refused(project, capsys, task, change, message):
    save_source(project / "scenes")
    save_source(project / "bare", attributes=False, masks=False)
    assert main(["--classes", write_config(project, "m", change), "--dry-run", *task]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_missing_embedding_is_refused_before_anything_is_written(random_mini_model, project, capsys):
    config = write_config(project, random_mini_model)
    (project / "models" / "glow.safetensors").unlink()
    assert main(["--classes", config, "--model", random_mini_model]) == 2
    assert "is no file" in capsys.readouterr().err and not (project / "out").exists()
