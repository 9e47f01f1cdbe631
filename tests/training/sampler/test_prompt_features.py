"""Prompts of trainings, encoded once in a folder that generation shares: the same bits, and encoders that leave."""

import gc
import shutil
import weakref

import pytest
import torch
from safetensors.torch import load_file

from support.image_folders import save_class_folders
from support.small_trainings import LORA_FILE, NAMES, SETTINGS
from ubgen_pipeline.generation.generate import generate_dataset
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.pipeline import UbGenPipeline
from ubgen_training.denoising.command import train as train_denoiser
from ubgen_training.denoising.denoiser_config import DenoiserConfig
from ubgen_training.few_steps.command import train as train_few_steps
from ubgen_training.few_steps.few_step_config import FewStepConfig
from ubgen_training.reward_training import trainer as reward_trainer
from ubgen_training.sampler.sampler_model import SamplerModel
from ubgen_training.ubgen.command import train as train_ubgen
from ubgen_training.ubgen.ubgen_config import UbGenConfig


@pytest.fixture
def encoded(monkeypatch):
    """The prompts that text encoders were asked for."""
    asked, encode = [], UbGenPipeline.encode

    def noted(pipeline, prompts, *arguments, **settings):
        asked.extend(prompts)
        return encode(pipeline, prompts, *arguments, **settings)

    monkeypatch.setattr(UbGenPipeline, "encode", noted)
    return asked


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    save_class_folders(folder, NAMES, 2)
    return str(folder)


def denoiser(images, output_dir, model, **settings):
    given = {**SETTINGS, "max_steps": 2, **settings}
    return DenoiserConfig(dataset=images, output_dir=str(output_dir), model_name_or_path=model, **given)


def ubgen(output_dir, model, **settings):
    return UbGenConfig(
        output_dir=str(output_dir), model_name_or_path=model, class_names=list(NAMES), clip_model="mini",
        reward_funcs=["clip_alignment"], adversarial_weight=0.0, num_inference_steps=2, num_gradient_steps=1,
        guidance_scale=2.0, per_device_train_batch_size=2, max_steps=1, save_strategy="no", lora_rank=2,
        learning_rate=1e-3, heldout_steps=0, sample_steps=0, use_cpu=True, disable_tqdm=True, **settings,
    )  # fmt: skip


def same(one, other):
    own, theirs = (load_file(folder / LORA_FILE) for folder in (one, other))
    return own.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in own.items())


def test_trainings_read_what_generation_has_kept(tiny_model, images, tmp_path, encoded):
    folder = str(tmp_path / "features")
    settings = {"samples_per_class": 1, "num_inference_steps": 1, "guidance_scale": 2.0, "threads": 1}
    place = {"model": tiny_model, "device": "cpu", "prompt_features": folder}
    generate_dataset(list(NAMES), tmp_path / "d", **settings, **place)
    assert sorted(encoded) == sorted([*NAMES, ""])
    encoded.clear()
    with_folder = train_ubgen(ubgen(tmp_path / "with", tiny_model, prompt_features=folder))
    train_denoiser(denoiser(images, tmp_path / "denoiser", tiny_model, prompt_features=folder))
    few = {**SETTINGS, "num_segments": 2, "num_teacher_steps": 4, "max_steps": 1, "save_strategy": "no"}
    train_few_steps(
        FewStepConfig(
            dataset=images, output_dir=str(tmp_path / "few"), model_name_or_path=tiny_model,
            lora_target_modules=["to_q"], prompt_features=folder, **few,
        )
    )  # fmt: skip
    assert encoded == []
    # and the bits are those without a folder
    assert same(with_folder, train_ubgen(ubgen(tmp_path / "without", tiny_model)))
    assert sorted(encoded) == sorted([*NAMES, ""])


def test_features_are_those_of_a_model_without_a_folder(tiny_model, tmp_path, encoded):
    from ubgen_pipeline.inference.prompt_cache import PromptCache, PromptFolder

    def conditioning(cache):
        model = SamplerModel(load_pipeline(tiny_model), [*NAMES, "a photo of a ring"], prompt_cache=cache)
        assert model.negative is not None
        return [model.conditioning["encoder_hidden_states"], model.negative["encoder_hidden_states"]]

    plain = conditioning(None)
    for _ in range(2):
        kept = conditioning(PromptCache(folder=PromptFolder(tmp_path, {"model": "tiny"})))
        assert all(map(torch.equal, kept, plain))
    # the second time from the disk
    assert len(encoded) == 2 * 4


def test_text_encoders_leave_and_a_resumed_run_is_the_same(tiny_model, images, tmp_path, monkeypatch):
    folder, freed = str(tmp_path / "features"), []
    free = reward_trainer.free_text_encoders

    def noted(pipeline):
        encoder = weakref.ref(pipeline.text_encoder)
        free(pipeline)
        gc.collect()
        freed.append(encoder() is None and pipeline.text_encoder is None)

    for module in ("reward_training.trainer", "denoising.denoiser_trainer"):
        monkeypatch.setattr(f"ubgen_training.{module}.free_text_encoders", noted)
    straight = train_denoiser(denoiser(images, tmp_path / "straight", tiny_model))
    assert freed == []
    half = train_denoiser(denoiser(images, tmp_path / "half", tiny_model, max_steps=1, prompt_features=folder))
    shutil.copytree(half / "checkpoint-1", tmp_path / "rest" / "checkpoint-1")
    given = {"prompt_features": folder, "resume_from_checkpoint": "last"}
    assert same(straight, train_denoiser(denoiser(images, tmp_path / "rest", tiny_model, **given)))
    train_ubgen(ubgen(tmp_path / "ubgen", tiny_model, prompt_features=folder))
    assert freed == [True] * 3
    # a whole denoiser is saved with all of its pipeline
    whole = denoiser(images, tmp_path / "whole", tiny_model, train_method="full", prompt_features=folder)
    assert load_pipeline(train_denoiser(whole)).text_encoder is not None and len(freed) == 3


def test_a_folder_is_on_this_machine(images, tmp_path):
    for config in (ubgen, lambda *given, **settings: denoiser(images, *given, **settings)):
        with pytest.raises(ValueError, match="prompt_features is 's3://bucket/features', an address"):
            config(tmp_path, "mini", prompt_features="s3://bucket/features")
