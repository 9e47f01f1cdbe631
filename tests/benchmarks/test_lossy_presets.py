"""The benchmark of the lossy presets: its table, and what it refuses."""

import pytest
import torch

from benchmarks.lossy_presets import main
from ubgen_pipeline.mini import mini_lora_path


@pytest.mark.slow
def test_the_benchmark_prints_its_table(capsys):
    flags = ["--num-images", "10", "--num-inference-steps", "3", "--presets", "deep-cache"]
    num_threads = torch.get_num_threads()
    try:
        # any LoRA that fits
        assert main([*flags, "--few-step-loras", f"hyper-4={mini_lora_path()}"]) == 0
    finally:
        torch.set_num_threads(num_threads)
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows == ["", "exact", "deep-cache", "hyper-4", "exact, other seeds"]
    assert main(["--presets", "lcm-4"]) == 2 and "presets holds 'lcm-4'" in capsys.readouterr().err
    for entry in ("dpm-20=few", "hyper-4"):
        assert main(["--few-step-loras", entry]) == 2
        assert f"few_step_loras holds '{entry}'; give PRESET=LORA with one of lcm-4" in capsys.readouterr().err
