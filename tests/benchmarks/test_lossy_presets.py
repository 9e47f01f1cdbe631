"""The benchmark of the lossy presets: its table, and what it refuses."""

import subprocess
import sys

from benchmarks.lossy_presets import main
from support import ROOT
from ubgen_pipeline.mini import mini_lora_path


def test_the_benchmark_prints_its_table(capsys):
    command = [sys.executable, "-m", "benchmarks.lossy_presets", "--num-images", "10", "--num-inference-steps", "3"]
    # any LoRA that fits
    command += ["--presets", "deep-cache", "--few-step-loras", f"hyper-4={mini_lora_path()}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows == ["", "exact", "deep-cache", "hyper-4", "exact, other seeds"]
    assert main(["--presets", "lcm-4"]) == 2 and "presets holds 'lcm-4'" in capsys.readouterr().err
    for entry in ("dpm-20=few", "hyper-4"):
        assert main(["--few-step-loras", entry]) == 2
        assert f"few_step_loras holds '{entry}'; give PRESET=LORA with one of lcm-4" in capsys.readouterr().err
