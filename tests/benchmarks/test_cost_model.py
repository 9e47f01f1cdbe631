"""The cost of a dataset: hours against arithmetic, and the tables."""

import pytest

from benchmarks.cost_model import CostSettings, codec_costs, device_hours, main, wall_hours


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
