"""LoRAs as users name them, and several at a time: the weights of a merge by hand, and the base at strength 0."""

import math
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file

from support.family_models import CASES, TinyModels
from support.random_loras import save_random_lora
from ubgen_pipeline.inference.prepared_pipeline import prepare_pipeline
from ubgen_pipeline.models.loading import load_pipeline
from ubgen_pipeline.models.loras import Lora, as_loras, lora_columns, split_lora, stored_loras

# one of UNets with text encoders, and transformers with LoRA loaders of different kinds
FAMILIES = ("sdxl", "sd3", "flux", "pixart-sigma")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return TinyModels(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def loras(models, tmp_path_factory):
    """Two of a family, of different ranks and alphas."""
    folder = tmp_path_factory.mktemp("loras")

    def save(name):
        folders = []
        for rank in (2, 3):
            pipeline = CASES[name].ours(CASES[name].build())
            config = LoraConfig(
                r=rank, lora_alpha=2 * rank - 1, init_lora_weights=False, target_modules=list(pipeline.lora_targets)
            )
            torch.manual_seed(rank)
            network, part = pipeline.denoiser_network, pipeline.denoiser_part
            if hasattr(network, "add_adapter"):
                network.add_adapter(config)
            else:
                from peft import inject_adapter_in_model

                inject_adapter_in_model(config, network)
            settings = {key: sorted(v) if isinstance(v, set) else v for key, v in config.to_dict().items()}
            weights = {f"{part}_lora_layers": get_peft_model_state_dict(network)}
            folders.append(folder / f"{name}-{rank}")
            pipeline.save_lora_weights(folders[-1], **weights, **{f"{part}_lora_adapter_metadata": settings})
        return folders

    return save


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("a", ("a", None)),
        ("a:0.5", ("a", 0.5)),
        ("a:1", ("a", 1.0)),
        ("a:-.25", ("a", -0.25)),
        ("a:1e-1", ("a", 0.1)),
        # a folder of that very name
        ("b:0.5", ("b:0.5", None)),
        ("b:0.5:2", ("b:0.5", 2.0)),
        ("owner/name", ("owner/name", None)),
        ("owner/name:0", ("owner/name", 0.0)),
        (r"C:\loras\style.safetensors", (r"C:\loras\style.safetensors", None)),
        ("C:/loras/style", ("C:/loras/style", None)),
        ("/not/there:0.5", ("/not/there:0.5", None)),
        ("time 12:30/x", ("time 12:30/x", None)),
    ],
)
def test_a_strength_is_a_number_after_what_is_there(entry, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "b:0.5"):
        (tmp_path / name).mkdir()
    assert split_lora(entry) == expected


def test_a_strength_that_is_none_is_refused_by_name(tmp_path):
    for tail in ("strong", "nan", "inf", "1e400", "0,5", ""):
        for head in (str(tmp_path), "owner/name"):
            with pytest.raises(ValueError, match=rf"lora is '{head}:{tail}', whose strength '{tail}' is no number"):
                split_lora(f"{head}:{tail}")
    for entry, message in ((f"{tmp_path}:0.5:2", "with two strengths; give"), ("0.8", "a strength without a LoRA")):
        with pytest.raises(ValueError, match=rf"lora is '{entry}', {message}"):
            split_lora(entry)
    for strength in (math.nan, -math.inf, "strong", None):
        with pytest.raises(ValueError, match=rf"the LoRA 'a' has the strength {strength!r}; give a finite number"):
            Lora("a", strength)
    # as a row and a manifest tell it
    assert type(Lora("a", np.float32(0.5)).strength) is float
    with pytest.raises(ValueError, match="few_step_lora is ''"):
        split_lora("", "few_step_lora")
    with pytest.raises(ValueError, match=r"lora_revision is 'abc' beside 2 LoRAs"):
        as_loras(["a", "b"], "abc")


def test_what_is_told_of_loras_is_read_back():
    for loras in ((), (Lora("a", 1.0, "abc"),), (Lora("a", 0.5),), (Lora("a"), Lora("b", -1.0, "abc"))):
        assert stored_loras(lora_columns(loras, str)) == loras
    assert stored_loras({}) == ()


def merged_by_hand(pipeline, lora, rank, strength):
    """``W + strength * alpha / r * B A`` for every layer of the denoiser; no library's loader reads the file."""
    weights = load_file(next(lora.glob("*.safetensors")))
    state = dict(pipeline.denoiser_network.named_parameters())
    # transformer.<module>, unet.<module>, base_model.model.<module>
    prefix = "base_model.model." if "adapter_model" in str(next(lora.glob("*.safetensors"))) else None
    prefix = prefix or f"{pipeline.denoiser_part}."
    for key, down in weights.items():
        if not key.endswith("lora_A.weight"):
            continue
        up = weights[key.replace("lora_A", "lora_B")]
        name = key.removeprefix(prefix).replace(".lora_A.weight", ".weight")
        with torch.no_grad():
            state[name] += strength * (2 * rank - 1) / rank * (up.double() @ down.double()).float()


@pytest.mark.parametrize("name", FAMILIES)
def test_two_loras_equal_a_merge_by_hand_and_strength_0_the_base(name, models, loras):
    folders, model = loras(name), models.folder(name)
    by_hand = load_pipeline(model)
    base = {key: value.clone() for key, value in by_hand.denoiser_network.state_dict().items()}
    strengths = (0.5, -1.25)
    for folder, rank, strength in zip(folders, (2, 3), strengths):
        merged_by_hand(by_hand, folder, rank, strength)
    entries = [f"{folder}:{strength}" for folder, strength in zip(folders, strengths)]
    fused = load_pipeline(model, lora=entries)
    beside = CASES[name].draw(fused, ["a", "b"])
    prepare_pipeline(fused, "fused", keeps_projections=True)
    wanted = by_hand.denoiser_network.state_dict()
    for key, value in fused.denoiser_network.state_dict().items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-5, atol=1e-5)
    assert max((value - base[key]).abs().max() for key, value in wanted.items()) > 0.01
    # beside the weights, they draw the same images
    torch.testing.assert_close(beside, CASES[name].draw(by_hand, ["a", "b"]), rtol=0, atol=1e-3)
    none = load_pipeline(model, lora=[f"{folder}:0" for folder in folders])
    assert none.denoiser_network.state_dict().keys() == base.keys()
    assert torch.equal(CASES[name].draw(none, ["a"]), CASES[name].draw(load_pipeline(model), ["a"]))


def test_one_of_several_that_does_not_fit_is_named(random_mini_model, loras, tmp_path):
    fits = save_random_lora(random_mini_model, tmp_path / "fits")
    (other, _) = loras("sd3")
    for entries in ([fits, other], [f"{fits}:0.5", f"{other}:0"]):
        with pytest.raises(ValueError, match=rf"lora is '{other}', which does not fit the model"):
            load_pipeline(random_mini_model, lora=entries)


def test_a_strength_counts_beside_a_lora_for_few_steps(random_mini_model, tmp_path):
    one, two = (save_random_lora(random_mini_model, tmp_path / name, seed=seed) for seed, name in enumerate("ab"))

    def weight(**loras):
        pipeline = load_pipeline(random_mini_model, **loras)
        if loras:
            prepare_pipeline(pipeline, "fused", keeps_projections=True)
        return pipeline.unet.mid_block.attentions[0].transformer_blocks[0].attn1.to_q.weight.detach()

    base = weight()
    changes = [weight(lora=lora) - base for lora in (one, two)]
    mixed = weight(lora=f"{one}:0.25", few_step_lora=f"{two}:0.5") - base
    torch.testing.assert_close(mixed, 0.25 * changes[0] + 0.5 * changes[1], rtol=1e-4, atol=1e-6)


def test_a_lora_whose_path_holds_a_colon_loads(random_mini_model, tmp_path):
    lora = save_random_lora(random_mini_model, tmp_path / "plain")
    shutil.copytree(lora, tmp_path / "v:2")
    first, second = (load_pipeline(random_mini_model, lora=place) for place in (lora, f"{tmp_path / 'v:2'}:1"))
    one, two = ([p.numpy(force=True) for p in item.unet.parameters()] for item in (first, second))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True)) and len(one) > 10
