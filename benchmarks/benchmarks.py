"""Says how benchmarks are run to those who start one by its path.

``python benchmarks/demo.py`` searches this folder first and finds this file under the package's name;
``python -m benchmarks.demo``, which is right, never imports it.
"""

raise SystemExit("ubgen: error: run benchmarks as modules from the clone's root, such as `python -m benchmarks.demo`")
