"""Peak memory of ``ubgen generate --hub-dataset-id`` for a small and a large number of rows, on a loopback Hub.

    PYTHONPATH=tests python -m benchmarks.stream_memory --rows 2000 20000

The loopback Hub is one of the tests' helpers, hence the path.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support.hub_server import LoopbackHub

# the child reports its own peak, in KiB on Linux
CHILD = """
import resource, sys
from ubgen_pipeline.generation.generate import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""


def peak_mib(rows: int, folder: Path) -> tuple[float, float]:
    """(peak resident memory in MiB, seconds) of streaming that many rows of the mini model at one denoising step."""
    with LoopbackHub(folder / "hub") as hub:
        arguments = ["--class-names", "circle", "star", "--samples-per-class", str(rows // 2), "--threads", "1"]
        arguments += ["--num-inference-steps", "1", "--guidance-scale", "1", "--batch-size", "32"]
        arguments += ["--hub-dataset-id", "org/d", "--shards-per-commit", "4"]
        environment = os.environ | hub.environment(folder / "home")
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        held = sum(path.startswith("data/") for path in hub.repositories.tree("dataset", "org/d"))
        assert held == -(-rows // 256), held
        return int(done.stdout) / 1024, time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[2000, 20000], help="numbers of rows to compare")
    for rows in parser.parse_args().rows:
        with tempfile.TemporaryDirectory() as folder:
            peak, seconds = peak_mib(rows, Path(folder))
        print(f"{rows} rows: peak {peak:.0f} MiB, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
