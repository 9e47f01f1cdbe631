"""Start-up time of the commands: seconds until the help or the version is there, in fresh processes.

python -m benchmarks.startup_time
"""

import statistics
import subprocess
import sys
import time
from importlib.metadata import entry_points

from benchmarks.machine_limits import machine_line

REPEATS = 5


def main() -> None:
    """Measure and print, the commands taking turns."""
    commands = {"import ubgen_pipeline": ["-c", "import ubgen_pipeline"]}
    calls = [["--help"], *([item.name, "--help"] for item in entry_points(group="ubgen.commands"))]
    commands |= {"ubgen " + " ".join(call): ["-m", "ubgen_pipeline", *call] for call in calls}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(REPEATS):
        for name, arguments in commands.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
            seconds[name].append(time.perf_counter() - start)
    print(machine_line("cpu"))
    for name, times in seconds.items():
        print(f"{name:<28}{statistics.median(times):>7.2f} s")


if __name__ == "__main__":
    main()
