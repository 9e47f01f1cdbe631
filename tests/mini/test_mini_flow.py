"""The shipped flow model: small, an ordinary Stable Diffusion 3, and used by the commands like any model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file

from ubgen_pipeline.generation.generate import generate_dataset
from ubgen_pipeline.mini import mini_flow_path, mini_model_path
from ubgen_pipeline.mini.judges import predict_factors
from ubgen_pipeline.mini.scenes import BACKGROUND_NAMES, CLASS_NAMES, OWN_BACKGROUND
from ubgen_training.ubgen.command import main as train


def test_the_weights_are_small_half_precision_safetensors():
    files = list(Path(mini_flow_path()).rglob("*.safetensors"))
    assert len(files) == 4 and sum(file.stat().st_size for file in files) <= 12_000_000
    assert {value.dtype for file in files for value in load_file(file).values()} == {torch.float16}
    everything = list(Path(mini_flow_path()).parent.rglob("*.safetensors"))
    assert sum(file.stat().st_size for file in everything) <= 30_000_000


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return generate_dataset(
        list(CLASS_NAMES),
        tmp_path_factory.mktemp("flow") / "dataset",
        model="mini-flow",
        samples_per_class=1,
        num_inference_steps=12,
        annotations=["mask", "box"],
        threads=1,
    )


def test_generated_images_show_their_class_on_its_own_background(dataset):
    predicted = predict_factors(np.stack([np.asarray(image) for image in dataset["image"]]))
    names = [CLASS_NAMES[label] for label in dataset["label"]]
    assert sorted(names) == sorted(CLASS_NAMES)
    # results/mini_models.md says how far the model got
    assert (predicted["class"] == dataset["label"]).mean() >= 0.5
    own = [BACKGROUND_NAMES.index(OWN_BACKGROUND[name]) for name in names]
    assert (predicted["background"] == own).mean() >= 0.8


def test_masks_are_recorded_while_it_draws(dataset):
    masks = np.stack([np.asarray(mask) for mask in dataset["mask"]])
    labels = np.asarray(dataset["label"])
    for mask, label in zip(masks, labels):
        assert set(np.unique(mask)) <= {0, label + 1, 255}
    shares = (masks == labels[:, None, None] + 1).mean(axis=(1, 2))
    # objects cover about a sixth of a scene
    assert 0.05 < np.median(shares) < 0.5


def test_plain_diffusers_loads_the_folder_and_the_autoencoder_is_the_mini_models():
    # as of any checkpoint that was saved without its T5
    pipeline = StableDiffusion3Pipeline.from_pretrained(mini_flow_path(), text_encoder_3=None, tokenizer_3=None)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("ring", num_inference_steps=1, output_type="np").images.shape == (1, 64, 64, 3)
    name = "vae/diffusion_pytorch_model.safetensors"
    own, other = (load_file(Path(folder) / name) for folder in (mini_flow_path(), mini_model_path()))
    assert own.keys() == other.keys() and all(torch.equal(own[key], other[key]) for key in own)


def test_it_is_trained_from_rewards_by_its_name(tmp_path, capsys):
    flags = [
        *("--model_name_or_path", "mini-flow", "--class_names", "circle", "star", "--output_dir", str(tmp_path)),
        *("--num_inference_steps", "2", "--num_gradient_steps", "1", "--lora_rank", "2", "--clip_model", "mini"),
        *("--reward_funcs", "clip_alignment", "--adversarial_weight", "0", "--per_device_train_batch_size", "2"),
        *("--max_steps", "1", "--heldout_steps", "0", "--sample_steps", "0", "--use_cpu", "--disable_tqdm", "true"),
    ]
    assert train(flags) == 0
    # it is no checkpoint of Stability's
    card = (tmp_path / "README.md").read_text()
    assert "base = mini_flow_path()" in card and "Stability" not in card + capsys.readouterr().err
    assert "from_pretrained(base, text_encoder_3=None, tokenizer_3=None)" in card
    learnt = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    assert any(value.any() for key, value in learnt.items() if "lora_B" in key)
