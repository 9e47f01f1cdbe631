"""What both reward trainings check before a model is loaded; errors name the settings as the user gave them."""

import pytest

from ubgen_training.ddpo.command import main as ddpo
from ubgen_training.denoising.command import main as denoising
from ubgen_training.reward_training.command import load_prompts, start_training
from ubgen_training.reward_training.config import SamplerConfig
from ubgen_training.textual_inversion.command import main as textual_inversion
from ubgen_training.ubgen.command import main as ubgen

REWARD_FLAGS = ["--class_names", "circle", "star", "--reward_funcs", "jpeg_size", "--adversarial_weight", "0"]


def config(folder, **settings):
    return SamplerConfig(**{"output_dir": str(folder), "use_cpu": True, "class_names": ["circle", "star"], **settings})


def test_a_start_has_the_classes_and_neither_checkpoint_nor_repository(tmp_path):
    start = start_training(config(tmp_path / "out", prompt_template="a photo of a {name}"))
    assert (start.checkpoint, start.hub, start.class_names) == (None, None, ["circle", "star"])
    assert [prompt.prompt for prompt in start.prompts] == ["a photo of a circle", "a photo of a star"]
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"class_names": None}, "^class_names is empty; give --class_names"),
        ({"classes": "imagenet1k"}, r"^both class_names and classes \('imagenet1k'\) are given"),
        ({"prompt_template": "a photo"}, "^prompt_template is 'a photo'; it must hold {name}"),
        ({"prompt_template": "{name"}, "^prompt_template is '{name'; "),
        ({"prompt_template": "{name}, {definition}"}, "^prompt_template asks for definition, which class 'circle'"),
        ({"class_names": None, "classes": "no_such_list"}, "^classes is 'no_such_list', which is no file"),
    ],
)
def test_classes_and_prompts_that_cannot_be_used_are_named_as_they_were_set(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        load_prompts(config(tmp_path, **settings))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"reward_weights": [1.0]}, "^reward_weights holds 1 numbers for 2 reward_funcs"),
        ({"resume_from_checkpoint": "last"}, "^resume_from_checkpoint is given, but output_dir"),
    ],
)
def test_settings_that_cannot_work_are_found_before_a_model_is_loaded(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        start_training(config(tmp_path, model_name_or_path="no/such/model", **settings))


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^output_dir '.*file/out' cannot be written"):
        start_training(config(tmp_path / "file" / "out"))


@pytest.mark.parametrize(
    "main, flags",
    [
        (ubgen, REWARD_FLAGS),
        (ddpo, REWARD_FLAGS[:-2]),
        (denoising, ["--dataset", "{images}", "--per_device_train_batch_size", "1"]),
        (textual_inversion, ["--images", "novel:heart:2:1"]),
    ],
    ids=["ubgen", "ddpo", "denoising", "textual_inversion"],
)
@pytest.mark.parametrize("model", ["no such model!", "{folder}"])
def test_a_model_that_cannot_be_loaded_is_named_as_it_was_set(tmp_path, capsys, main, flags, model):
    from PIL import Image

    for name in ("circle", "star"):
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / name / "0.png")
    model = model.format(folder=tmp_path)
    flags = [flag.format(images=tmp_path / "images") for flag in flags]
    code = main([*flags, "--model_name_or_path", model, "--output_dir", str(tmp_path / "out"), "--use_cpu"])
    assert code == 2 and f"error: model_name_or_path is {model!r}, which " in capsys.readouterr().err
