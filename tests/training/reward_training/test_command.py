"""What both reward trainings check before a model is loaded; errors name the settings as the user gave them."""

import json

import pytest
import torch

from support.family_models import FAMILY_NAMES, own_pipeline, tiny_pipeline
from support.tiny_models import flux
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_training.ddpo.command import main as ddpo
from ubgen_training.denoising.command import main as denoising
from ubgen_training.lora.lora_files import save_lora
from ubgen_training.nft.forward_sampler import ForwardSampler
from ubgen_training.reward_training.command import build_sampler, start_training, take_defaults
from ubgen_training.reward_training.config import SamplerConfig
from ubgen_training.reward_training.training_prompts import load_prompts
from ubgen_training.sampler.sampler_model import SamplerModel
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


@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_what_is_left_out_is_the_familys_own_and_what_is_given_stays(tmp_path, name):
    pipeline = own_pipeline(name, tiny_pipeline(name))
    scheduler = type(pipeline.scheduler)
    left_out, given = config(tmp_path), config(tmp_path, num_inference_steps=7, guidance_scale=1.0)
    for settings in (left_out, given):
        take_defaults(settings, pipeline)
    own = (pipeline.default_num_inference_steps, pipeline.default_guidance_scale)
    assert (left_out.num_inference_steps, left_out.guidance_scale, left_out.scheduler) == (*own, None)
    assert (given.num_inference_steps, given.guidance_scale) == (7, 1.0)
    assert type(pipeline.scheduler) is scheduler


def test_stable_diffusion_is_trained_as_in_the_paper(random_mini_model, tmp_path, capsys):
    settings, pipeline = config(tmp_path), load_pipeline(random_mini_model)
    take_defaults(settings, pipeline)
    assert (settings.num_inference_steps, settings.guidance_scale, settings.scheduler) == (50, 2.0, "ddpm")
    assert type(pipeline.scheduler).__name__ == "DDPMScheduler"
    assert "num_inference_steps 50 and guidance_scale 2, the model's own" in capsys.readouterr().err


def test_a_distilled_model_takes_no_guidance_and_gradient_at_its_few_steps_only(tmp_path, capsys):
    flux.build(guidance_embeds=False).save_pretrained(tmp_path / "model")
    flags = [
        *("--model_name_or_path", str(tmp_path / "model"), "--output_dir", str(tmp_path / "out")),
        *("--class_names", "circle", "star", "--adversarial_weight", "0"),
        *("--height", "32", "--width", "32", "--lora_rank", "2", "--per_device_train_batch_size", "1", "--use_cpu"),
        *("--reward_funcs", "clip_alignment", "--clip_model", "mini", "--disable_tqdm", "true"),
        *("--heldout_steps", "0", "--sample_steps", "0", "--max_steps", "1", "--save_strategy", "no"),
    ]
    assert ubgen([*flags, "--guidance_scale", "3"]) == 2
    assert "guidance_scale is 3.0, which has no effect on this distilled model" in capsys.readouterr().err
    assert ubgen(flags) == 2
    said = capsys.readouterr().err
    assert "num_inference_steps 4 and guidance_scale 1, the model's own" in said
    assert "num_gradient_steps is 5, but sampling takes 4 steps" in said
    assert ubgen([*flags, "--num_gradient_steps", "2"]) == 0
    kept = json.loads((tmp_path / "out" / "ubgen_config.json").read_text())
    assert (kept["num_inference_steps"], kept["guidance_scale"]) == (4, 1.0)
    assert "num_inference_steps=4" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("sampler_type", [SamplerModel, ForwardSampler])
def test_a_training_begins_with_the_lora_that_it_is_given(sampler_type, tiny_model, tmp_path):
    settings = {
        "model_name_or_path": tiny_model,
        "class_names": ["circle", "star"],
        "lora_rank": 2,
        "scheduler": "ddim",
    }

    def sampler(folder, **more):
        given = config(folder, **{**settings, **more})
        return build_sampler(given, load_prompts(given), sampler_type)

    def images(built):
        with torch.no_grad():
            return built(torch.tensor([0]), [1])

    first = sampler(tmp_path, num_inference_steps=2)
    untrained = images(first)
    with torch.no_grad():
        for weight in filter(lambda weight: weight.requires_grad, first.parameters()):
            weight += 0.1
    save_lora(first.pipeline, tmp_path / "lora")
    second = sampler(tmp_path, num_inference_steps=2, initial_lora=str(tmp_path / "lora"))
    torch.testing.assert_close(images(second), images(first), rtol=0, atol=0)
    # the model without a LoRA stays what a reference compares with
    with second.reference_model():
        torch.testing.assert_close(images(second), untrained, rtol=0, atol=1e-6)
    assert (images(first) - untrained).abs().max() > 0.01
    with pytest.raises(ValueError, match=r"initial_lora is '.*', whose LoRA does not fit"):
        sampler(tmp_path, lora_rank=3, initial_lora=str(tmp_path / "lora"))
    with pytest.raises(ValueError, match=r"initial_lora is '.*', whose LoRA has the alpha 2, and lora_alpha is 4"):
        sampler(tmp_path, lora_alpha=4, initial_lora=str(tmp_path / "lora"))
    with pytest.raises(ValueError, match="initial_lora is 'x', and train_method is 'full', which trains no LoRA"):
        config(tmp_path, initial_lora="x", train_method="full")
