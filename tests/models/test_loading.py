"""Models, schedulers and LoRAs by name; what does not exist or fit is refused by name and changes nothing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

from support.hub_server import READ_TOKEN
from support.tiny_models import sd3
from ubgen_pipeline import load_pipeline
from ubgen_pipeline.commands.main import main as command
from ubgen_pipeline.mini import EMBEDDED_MODELS, embedded_model_path, mini_model_path
from ubgen_pipeline.models.loading import FLOW_SCHEDULERS, SCHEDULERS, resolve_model


def draw(pipeline, **settings):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(["star"], num_inference_steps=2, output_type="np", **settings).images


@pytest.mark.parametrize("name", EMBEDDED_MODELS)
def test_an_embedded_model_has_a_name(monkeypatch, tmp_path, name):
    assert Path(embedded_model_path(name)).parent == Path(mini_model_path()).parent
    monkeypatch.setattr("ubgen_pipeline.models.loading.embedded_model_path", {name: str(tmp_path)}.get)
    with pytest.raises(ValueError, match=f"make {name}`"):
        resolve_model(name)
    (tmp_path / "model_index.json").touch()
    assert resolve_model(name) == str(tmp_path)


def test_hub_ids_pass_through_and_lost_paths_do_not():
    assert resolve_model("owner/some-model.v1") == "owner/some-model.v1"
    for lost in ("./nowhere", "/nowhere/at/all", "a/b/c", ""):
        with pytest.raises(ValueError, match="model is"):
            resolve_model(lost)


def test_unknown_models_are_named(tmp_path):
    with pytest.raises(ValueError, match="model is 'owner/unheard-of'"):
        load_pipeline("owner/unheard-of")
    with pytest.raises(ValueError, match=r"model_index\.json"):
        load_pipeline(tmp_path)


def test_other_families_are_refused(mini_model, tmp_path):
    pipeline = StableDiffusionPipeline.from_pretrained(mini_model)
    pipeline.unet.register_to_config(in_channels=9)
    pipeline.unet.conv_in = torch.nn.Conv2d(9, pipeline.unet.conv_in.out_channels, 3, padding=1)
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"takes 9 channels.*Stable Diffusion 1\.x or 2\.x"):
        load_pipeline(tmp_path)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_keep_the_models_noise_schedule(mini_model, name):
    pipeline = load_pipeline(mini_model, scheduler=name)
    own = load_pipeline(mini_model).scheduler.config
    assert type(pipeline.scheduler) is SCHEDULERS[name]
    assert pipeline.scheduler.config.prediction_type == own.prediction_type
    assert pipeline.scheduler.config.beta_end == own.beta_end
    assert not pipeline.scheduler.config.get("clip_sample", False)
    assert np.isfinite(draw(pipeline)).all()


def test_unknown_scheduler_is_named(mini_model):
    with pytest.raises(ValueError, match=r"scheduler is 'euler'.*dpm\+\+"):
        load_pipeline(mini_model, scheduler="euler")


def test_a_scheduler_of_the_other_kind_is_refused_by_name(mini_model, tmp_path):
    with pytest.raises(ValueError, match=r"scheduler is 'flow-euler', and UbGenPipeline predicts noise"):
        load_pipeline(mini_model, scheduler="flow-euler")
    sd3.build().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"scheduler is 'ddim', .* predicts velocities \(flow matching\)"):
        load_pipeline(tmp_path, scheduler="ddim")
    own = load_pipeline(tmp_path).scheduler.config.shift
    for name, kind in FLOW_SCHEDULERS.items():
        pipeline = load_pipeline(tmp_path, scheduler=name)
        assert type(pipeline.scheduler) is kind and own in (
            pipeline.scheduler.config.get("shift"),
            pipeline.scheduler.config.get("flow_shift"),
        )
        drawn = pipeline(["star"], num_inference_steps=3, output_type="np", height=32, width=32).images
        assert np.isfinite(drawn).all()


def test_textual_inversions_are_for_families_that_learn_words(tmp_path):
    sd3.build().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"embeddings is \['frame.safetensors'\], and UbGenStableDiffusion3Pipeline"):
        load_pipeline(tmp_path, embeddings=["frame.safetensors"])


def test_dtype_is_that_asked_for(mini_model):
    assert load_pipeline(mini_model).unet.dtype == torch.float32
    half = load_pipeline(mini_model, torch_dtype=torch.bfloat16)
    assert half.unet.dtype == half.text_encoder.dtype == torch.bfloat16
    assert np.isfinite(draw(half)).all()


def test_models_of_the_hub_that_cannot_be_read_say_why(hub, monkeypatch):
    api = HfApi()

    def put(name, class_name, revision="main"):
        index = json.dumps({"_class_name": class_name}).encode()
        api.upload_file(path_or_fileobj=index, path_in_repo="model_index.json", repo_id=name, revision=revision)

    for name in ("org/gated", "org/model", "org/empty"):
        api.create_repo(name)
    put("org/gated", "FluxPipeline")
    put("org/model", "FluxPipeline")
    api.create_branch("org/model", branch="other")
    put("org/model", "KandinskyPipeline", "other")
    hub.repositories["model", "org/gated"].gated = True
    refused = {
        ("org/empty", None): "model is 'org/empty', which holds no model in diffusers layout",
        ("org/model", "v9"): "model is 'org/model', which has no revision 'v9'; give a branch, a tag or a commit",
        ("org/model", "other"): "model is 'org/model' at revision 'other', whose model_index.json names the class Kan",
        ("org/gated", None): rf"model is 'org/gated', which is gated: accept its terms on {hub.endpoint}/org/gated, ",
    }
    for token in (READ_TOKEN, None):
        if token is None:
            monkeypatch.delenv("HF_TOKEN")
        else:
            monkeypatch.setenv("HF_TOKEN", token)
        for (model, revision), message in refused.items():
            with pytest.raises(ValueError, match=message) as caught:
                load_pipeline(model, revision=revision)
            assert READ_TOKEN not in str(caught.value)


def test_importing_the_package_does_not_import_torch():
    code = (
        "import json, sys, ubgen_pipeline; print(json.dumps([m for m in ('torch', 'diffusers') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_the_package_names_its_function_even_after_its_module_was_imported():
    code = (
        "from ubgen_pipeline.generation.generate import main; import ubgen_pipeline;"
        "from ubgen_pipeline import generate_dataset; assert callable(generate_dataset), generate_dataset"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def as_variants(model, folder, parts, variant="fp16"):
    """A copy of a model, of which those parts have half-precision weights of that variant alone."""
    shutil.copytree(model, folder)
    for part in parts:
        (file,) = (folder / part).glob("*.safetensors")
        weights = {key: value.half() if value.is_floating_point() else value for key, value in load_file(file).items()}
        name = file.name.replace(".safetensors", f".{variant}.safetensors")
        save_file(weights, file.with_name(name), {"format": "pt"})
        file.unlink()
    return folder


@pytest.mark.parametrize("parts", [("unet",), ("unet", "text_encoder"), ("unet", "text_encoder", "vae")])
def test_the_variant_that_is_there_alone_is_loaded_and_said(random_mini_model, tmp_path, capsys, parts):
    folder = as_variants(random_mini_model, tmp_path / "m", parts)
    pipeline = load_pipeline(folder)
    assert "m: it holds no plain weights; its variant fp16 is loaded" in capsys.readouterr().err
    plain = load_pipeline(random_mini_model)
    for part in ("unet", "text_encoder", "vae"):
        for own, other in zip(getattr(pipeline, part).parameters(), getattr(plain, part).parameters(), strict=True):
            wanted = other.half().float() if part in parts else other
            assert own.dtype == torch.float32 and torch.equal(own, wanted)
    with pytest.raises(ValueError, match=r"variant is 'bf16', and model is '.*', of which there is no variant 'bf16'"):
        load_pipeline(folder, variant="bf16")


def test_a_variant_is_asked_for_by_name(random_mini_model, tmp_path, capsys):
    folder = as_variants(random_mini_model, tmp_path / "m", ("unet",))
    shutil.copy(Path(random_mini_model) / "unet" / "diffusion_pytorch_model.safetensors", folder / "unet")
    plain, half = (next(load_pipeline(folder, variant=v).unet.parameters()) for v in (None, "fp16"))
    assert torch.equal(plain.half().float(), half) and not torch.equal(plain, half)
    assert "no plain weights" not in capsys.readouterr().err
    common = ["--class-names", "star", "--samples-per-class", "1", "--num-inference-steps", "1", "--threads", "1"]
    common += ["--model", str(folder), "--output-dir", str(tmp_path / "d")]
    assert command(["generate", *common, "--variant", "fp16"]) == 0
    again = ["regenerate", str(tmp_path / "d"), "--index", "0", "--model", str(folder)]
    assert command([*again, "--output", str(tmp_path / "0.png")]) == 0
    assert command(["generate", *common]) == 2 and "model was" in capsys.readouterr().err


def test_shards_and_mixed_precisions_load(random_mini_model, tmp_path):
    plain = load_pipeline(random_mini_model)
    plain.unet.half()
    StableDiffusionPipeline(
        **{**plain.components, "safety_checker": None, "feature_extractor": None}, requires_safety_checker=False
    ).save_pretrained(tmp_path / "m", max_shard_size="100KB")
    assert len(list((tmp_path / "m" / "unet").glob("*-of-*.safetensors"))) > 1
    pipeline = load_pipeline(tmp_path / "m")
    assert {part.dtype for part in pipeline.networks.values()} == {torch.float32}
    own, other = pipeline.unet.state_dict(), plain.unet.float().state_dict()
    assert all(torch.equal(own[key], other[key]) for key in other)


def test_pickled_weights_are_refused_with_the_way_out(random_mini_model, tmp_path):
    folder = as_variants(random_mini_model, tmp_path / "m", ("unet",))
    (file,) = (folder / "unet").glob("*.safetensors")
    file.rename(file.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(ValueError, match=r"unet holds pickled weights only .*run code.*save_pretrained\(FOLDER\)"):
        load_pipeline(folder)


def test_a_variant_alone_on_the_hub_is_loaded_too(hub, random_mini_model, tmp_path, capsys):
    folder = as_variants(random_mini_model, tmp_path / "m", ("unet", "text_encoder", "vae"))
    HfApi().create_repo("org/half")
    HfApi().upload_folder(repo_id="org/half", folder_path=folder)
    assert load_pipeline("org/half").unet.dtype == torch.float32
    assert "org/half: it holds no plain weights; its variant fp16" in capsys.readouterr().err


def test_a_model_that_lies_here_has_no_revisions(random_mini_model):
    for model in ("mini", random_mini_model):
        with pytest.raises(ValueError, match=f"model is '{model}', which lies here and has no revisions"):
            load_pipeline(model, revision="x")
