"""The cost of a dataset: operations against a count of the real model, hours against arithmetic."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.cost_model import (
    CostSettings,
    Operations,
    codec_costs,
    count_operations,
    device_hours,
    main,
    wall_hours,
)
from ubgen_pipeline.models.loading import load_pipeline


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_attention_counts_the_same_wherever_it_runs(device):
    """Fused on the CPU, two matrix products on the meta device."""
    query = torch.zeros(2, 3, 50, 16, device=device)
    key, value = torch.zeros(2, 2, 3, 7, 16, device=device)
    queries_by_keys = weights_by_values = 2 * 3 * 50 * 7 * 16
    counted = count_operations(lambda: scaled_dot_product_attention(query, key, value))
    assert counted == 2 * (queries_by_keys + weights_by_values)


def test_operations_are_those_of_a_call(random_mini_model):
    pipeline = load_pipeline(random_mini_model, scheduler="pndm")
    pipeline.set_progress_bar_config(disable=True)

    def counted(**arguments):
        text = torch.zeros(1, 24, 96)
        texts = {"prompt_embeds": text, "negative_prompt_embeds": text}
        return count_operations(lambda: pipeline(["star"], num_inference_steps=4, **texts, **arguments))

    operations = Operations("mini")
    assert operations.of_an_image(4, 2.0) == counted()
    assert operations.of_an_image(4, 1.0) == counted(guidance_scale=1.0)
    assert operations.of_an_image(4, 2.0, "guidance-cutoff") == counted(guidance_until=0.6)
    assert operations.of_an_image(4, 2.0, "deep-cache") == counted(deep_features_every=3)


def test_an_image_of_sd15_takes_what_the_reference_counted():
    assert Operations("sd15").of_an_image(50, 2.0) == pytest.approx(84.5e12, rel=0.005)


def test_hours():
    assert device_hours(36_000, 10) == 1
    # 100 shards on 8 workers: 13 rounds of 256 images, the last of them half empty
    assert wall_hours(25_600, 2.0, 8, 256, 60) == pytest.approx((60 + 13 * 128) / 3600)
    assert wall_hours(100, 2.0, 8, 256, 0) == pytest.approx(50 / 3600)


def test_bytes_are_those_of_the_codec():
    png, jpeg = codec_costs("png", 64, 2), codec_costs("jpeg", 64, 2)
    assert png[0] > jpeg[0] > 100 and min(png[1], jpeg[1]) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "sdxl"}, "model is 'sdxl'"),
        ({"rate": 0.0}, "rate is 0.0"),
        ({"workers": [8, 0]}, "workers holds 0"),
        ({"presets": ["fast"]}, "presets holds 'fast'"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        CostSettings(**settings)


def test_the_command_prints_its_tables(capsys):
    flags = ["--model", "mini", "--rate", "5", "--tflops", "0.4", "--images", "10000", "--workers", "2"]
    flags += ["--size", "64", "--num-encoded", "2", "--presets", "dpm-20"]
    assert main(flags) == 0
    printed = capsys.readouterr().out
    assert "| 10,000 | rate given," in printed and "| 5.00 | 0.6 | 0.3 |" in printed
    assert "| webp-lossless |" in printed and "| dpm-20 |" in printed
    assert main([*flags, "--rate", "-1"]) == 2 and "rate is -1.0" in capsys.readouterr().err
