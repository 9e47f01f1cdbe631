"""What tests share: small models and datasets, a loopback Hub, workers, and where things lie in the clone."""

from pathlib import Path

SUPPORT = Path(__file__).parent
DATA = SUPPORT.parent / "data"
ROOT = SUPPORT.parents[1]
