"""The cost of a dataset: hours against arithmetic, and the tables."""

import pytest

from benchmarks import cost_model
from benchmarks.cost_model import CostSettings, codec_costs, device_hours, main, wall_hours
from benchmarks.real_size_families import REAL_SIZE_MODELS


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
        ({"rate": 0.0}, "rate is 0.0"),
        ({"workers": [8, 0]}, "workers holds 0"),
        ({"presets": ["fast"]}, "presets holds 'fast'"),
        ({"all": True, "model": "sdxl"}, "model is 'sdxl' beside all"),
        ({"all": True, "rate": 4.0}, "rate is 4.0 beside all"),
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
    assert "| 10,000 | rate given," in printed and "| 5 | 0.6 | 0.3 |" in printed
    assert "| webp-lossless |" in printed and "| dpm-20 |" in printed
    assert main([*flags, "--rate", "-1"]) == 2 and "rate is -1.0" in capsys.readouterr().err
    assert main([*flags, "--model", "sdx l"]) == 2 and "model is 'sdx l', which does not" in capsys.readouterr().err


def test_all_models_and_their_presets(monkeypatch, capsys):
    chosen = {name: REAL_SIZE_MODELS[name] for name in ("pixart-sigma", "sana-sprint-1600m")}
    monkeypatch.setattr(cost_model, "REAL_SIZE_MODELS", chosen)
    assert main(["--all", "--tflops", "100", "--images", "3600", "--num-encoded", "1"]) == 0
    printed = capsys.readouterr().out
    models, presets, stored = (table.splitlines() for table in printed.strip().split("\n\n"))
    assert [line.split(" | ")[0] for line in models[2:]] == [f"| {name}" for name in chosen]
    # 267.8 TFLOP take 2.678 s at 100 TFLOP/s
    assert models[2] == "| pixart-sigma | 1,024 | 20 | 2 | 0.61 | 267.8 | 0.373 | 3 |"
    assert models[3].startswith("| sana-sprint-1600m | 1,024 | 2 | 1 | 1.61 | 13.95 |")
    # no layers are left out there, its own steps are 20, too, and the distilled one takes no preset
    assert presets[0].startswith("| model | guidance-cutoff | deep-cache | dpm-20 | unipc-10 |") and len(presets) == 3
    assert presets[2].startswith("| pixart-sigma | 216.3 (81%) | - | - | 139.1 (52%) |")
    assert [line.split(" | ")[:2] for line in stored[2:]] == [
        ["| 1,024", codec] for codec in ("png", "webp-lossless", "jpeg")
    ]
