"""Settings of the evidence under which all of its stages together take seconds."""

from pathlib import Path
from typing import Any

from benchmarks.evidence.command import EvidenceSettings

TINY_TRAINING = [
    *("max_steps=2", "save_steps=1", "per_device_train_batch_size=2", "num_inference_steps=3", "num_gradient_steps=1"),
    *("discriminator_warmup_steps=1", "heldout_steps=0", "class_repeats=2", "lora_rank=2"),
]


def tiny(folder: Path, **settings: Any) -> EvidenceSettings:
    """Those of one arm and seed below ``folder``, with what else is given."""
    return EvidenceSettings(
        **{
            "output_dir": str(folder / "evidence"),
            "page": str(folder / "results" / "evidence_tables.md"),
            "figures_file": str(folder / "results" / "evidence_figures.json"),
            "arms": ["ubgen"],
            "seeds": [0],
            "set": TINY_TRAINING,
            "set_backbone": ["num_train_epochs=1", "per_device_train_batch_size=10"],
            "samples_per_class": 2,
            "num_inference_steps": 3,
            "num_scenes": 100,
            "transfer_images": 100,
            "transfer_shares": [1.0, 0.2],
            "probe_seeds": 1,
            "probe_trials": 1,
            "threads": 1,
            "workers": 1,
        }
        | settings
    )
