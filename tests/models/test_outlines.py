"""A model's configurations tell what does not go with it, before any of its weights are read."""

import json
import shutil

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import save_file

from support.family_models import FAMILY_NAMES, TinyModels
from ubgen_pipeline.commands.main import main
from ubgen_pipeline.models.families import FAMILIES
from ubgen_pipeline.models.loading import FLOW_SCHEDULERS, SCHEDULERS, load_pipeline, resolve_model
from ubgen_pipeline.models.outlines import model_outline


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return TinyModels(tmp_path_factory.mktemp("models"))


@pytest.fixture(params=("sd", *FAMILY_NAMES))
def name(request):
    return request.param


@pytest.fixture
def folder(name, models):
    return resolve_model("mini") if name == "sd" else str(models.folder(name))


@pytest.fixture
def no_weights(monkeypatch):
    """Reading weights fails."""

    def read(cls, *_, **__):
        raise AssertionError(f"the weights of {cls.__name__} are read")

    for kind in (diffusers.ModelMixin, transformers.PreTrainedModel):
        monkeypatch.setattr(kind, "from_pretrained", classmethod(read))


def shapes(network):
    return {name: tuple(weight.shape) for name, weight in network.named_parameters()}


def test_an_outline_is_the_model_without_its_numbers(name, folder):
    outline, loaded = model_outline(FAMILIES[name].pipeline_class(), folder), load_pipeline(folder)
    assert {weight.device.type for part in outline.networks.values() for weight in part.parameters()} == {"meta"}
    assert {key: shapes(part) for key, part in outline.networks.items()} == {
        key: shapes(part) for key, part in loaded.networks.items()
    }
    for told in ("guidance", "default_num_inference_steps", "default_guidance_scale"):
        assert getattr(outline, told) == getattr(loaded, told)
    assert outline.latent_shape(64, 32) == loaded.latent_shape(64, 32) and outline.family_misfit() is None
    assert outline.scheduler.config == loaded.scheduler.config


@pytest.mark.usefixtures("no_weights")
def test_what_does_not_go_with_a_model_is_said_before_its_weights_are_read(name, folder, tmp_path):
    other = next(iter(FLOW_SCHEDULERS if name in ("sd", "sdxl", "pixart-sigma") else SCHEDULERS))
    layer = "transformer.single_transformer_blocks.77.attn.to_q"
    lora = {f"{layer}.lora_A.weight": torch.zeros(4, 9), f"{layer}.lora_B.weight": torch.zeros(9, 4)}
    save_file(lora, tmp_path / "lora.safetensors")
    for arguments, message in (
        ({"check": lambda model: model.latent_shape(36, 32)}, "height is 36; give a positive multiple"),
        ({"scheduler": other}, f"scheduler is '{other}', and UbGen"),
        ({"lora": str(tmp_path / "lora.safetensors")}, "lora is .*which does not fit the model"),
    ):
        with pytest.raises(ValueError, match=message):
            load_pipeline(folder, **arguments)


@pytest.mark.usefixtures("no_weights")
def test_a_part_that_a_model_does_not_name_is_named(name, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "model")
    index = json.loads((tmp_path / "model/model_index.json").read_text())
    family = FAMILIES[name].pipeline_class()
    for part in (family.denoiser_part, "vae", "tokenizer", *family.text_encoder_parts):
        (tmp_path / "model/model_index.json").write_text(json.dumps({**index, part: [None, None]}))
        if part in family.optional_parts:
            with pytest.raises(AssertionError, match="are read"):
                load_pipeline(tmp_path / "model")
        else:
            with pytest.raises(ValueError, match=rf"model is '.*', which has no {part}[;,] .*(give|only)"):
                load_pipeline(tmp_path / "model")


@pytest.mark.usefixtures("no_weights")
def test_commands_ask_before_weights_are_read(models, tmp_path, capsys):
    folder = str(models.folder("sd3"))
    generate = ["generate", "--class-names", "star", "--samples-per-class", "1", "--output-dir", str(tmp_path / "d")]
    for more, message in (
        (["--height", "36"], "height is 36"),
        (["--true-cfg-scale", "3"], "true_cfg_scale is 3.0"),
    ):
        assert main([*generate, "--model", folder, *more]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_where_configurations_do_not_tell_enough_there_is_none(models, tmp_path):
    shutil.copytree(models.folder("sd3"), tmp_path / "model")
    kind = FAMILIES["sd3"].pipeline_class()
    (tmp_path / "model/vae/config.json").write_text('{"latent_channels": "many"}')
    assert model_outline(kind, str(tmp_path / "model")) is None
    assert model_outline(kind, str(tmp_path / "nothing")) is None


def test_no_module_is_imported_that_a_model_names(models, tmp_path, monkeypatch):
    shutil.copytree(models.folder("sd3"), tmp_path / "model")
    (tmp_path / "a_strangers.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "model/model_index.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "vae": ["a_strangers", "AutoencoderKL"]}))
    assert model_outline(FAMILIES["sd3"].pipeline_class(), str(tmp_path / "model")) is None
