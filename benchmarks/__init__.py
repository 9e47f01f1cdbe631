"""Side-by-side measurements, a command each: ``python -m benchmarks.NAME``; what they found stands in ``results/``."""
