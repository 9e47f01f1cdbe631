"""Settings of denoising training."""

from dataclasses import dataclass, field

from .denoising_loss import check_names
from .latent_training_config import LatentTrainingConfig

TRAIN_METHODS = ("lora", "full", "scratch")


@dataclass
class DenoiserConfig(LatentTrainingConfig):
    """What every training in latent space has, and the loss.

    Raises:
        ValueError: a setting out of range, no dataset, or Hub push, which this trainer does not do.
    """

    empty_prompt_share: float = field(
        default=0.1, metadata={"help": "Share of images shown with an empty prompt, for guidance."}
    )
    train_method: str = field(
        default="lora", metadata={"help": "lora; full: every weight of the UNet; scratch: full, from random weights."}
    )
    weighting: str = field(
        default="debias", metadata={"help": "Loss weighting: constant, snr (1/SNR), p2, min_snr or debias."}
    )
    target: str | None = field(
        default=None, metadata={"help": "What the UNet predicts: noise, x0 or velocity; default: as the model does."}
    )

    def __post_init__(self) -> None:
        if self.train_method not in TRAIN_METHODS:
            raise ValueError(f"train_method is {self.train_method!r}; choose one of {', '.join(TRAIN_METHODS)}.")
        check_names(self.weighting, self.target or "noise")
        if not 0 <= self.empty_prompt_share <= 1:
            raise ValueError(f"empty_prompt_share is {self.empty_prompt_share}; choose one in [0, 1].")
        super().__post_init__()
