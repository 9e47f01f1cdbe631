"""What was chosen for a dataset: kept by its manifest, taken by a resume; and which settings no dataset can have."""

import pytest

from ubgen_pipeline.inference.settings import Inference, InferenceSettings, compile_pays, lora_weights


def test_settings_left_open_come_from_the_manifest():
    begun = Inference(8, 1, "float16", "on", "beside")
    assert Inference.resumed(InferenceSettings(), begun.facts()) == begun
    assert Inference.resumed(InferenceSettings(compile="off", batch_size=4), begun.facts()).compile == "off"
    assert compile_pays(1_300_000 * 100, "cuda") and not compile_pays(100, "cuda") and not compile_pays(10**9, "mps")


def test_the_choice_is_kept_where_it_is_none_of_torchs_own():
    chosen = Inference(8, 1, "float16", "off", "none", "cudnn")
    assert Inference.resumed(InferenceSettings(), chosen.facts()) == chosen
    own = Inference(8, 1, "float16", "off", "none")
    assert "attention" not in own.facts() and Inference.resumed(InferenceSettings(), own.facts()) == own


def test_what_waits_on_the_cpu_is_kept_where_anything_does():
    chosen = Inference(8, 1, "bfloat16", "off", "none", offload="text")
    assert chosen.facts()["offload"] == "text" and Inference.resumed(InferenceSettings(), chosen.facts()) == chosen
    assert Inference.resumed(InferenceSettings(offload="model"), chosen.facts()).offload == "model"
    # datasets begun by earlier versions say nothing of it
    assert "offload" not in Inference(8, 1, "float32", "off", "none").facts()


def test_a_lora_is_fused_in_float32_only():
    cases = {(False, "float32"): "none", (True, "float32"): "fused", (True, "bfloat16"): "beside"}
    assert {case: lora_weights(*case) for case in cases} == cases


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"threads": True}, "threads is True"),
        ({"dtype": "int8"}, "dtype is 'int8'; choose one of float32, float16, bfloat16"),
        ({"compile": "yes"}, "compile is 'yes'; choose one of auto, on, off"),
        ({"codec": "gif"}, "codec is 'gif'"),
        ({"offload": "disk"}, "offload is 'disk'; choose one of none, text, model, group"),
        ({"offload": "group", "compile": "on"}, "offload is 'group' and compile on"),
    ],
)
def test_values_that_no_dataset_can_have(settings, message):
    InferenceSettings().check_inference()
    with pytest.raises(ValueError, match=message):
        InferenceSettings(**settings).check_inference()
