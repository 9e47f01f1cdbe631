"""Settings of ``train_nft.py`` and :class:`NFTTrainer`: rewards by the forward process."""

from dataclasses import dataclass, field

from ..checkpoints.weight_average import check_average_decay
from ..rollouts.config import RolloutConfig

OBJECTIVES = ("nft", "awm")


@dataclass
class NFTConfig(RolloutConfig):
    """:class:`.RolloutConfig`, the objective, and the weights that draw the samples.

    Raises:
        ValueError: a setting out of range; counts that do not divide.
    """

    output_dir: str | None = field(
        default="nft-lora", metadata={"help": "Where the LoRA, the checkpoints and the sample grids are written."}
    )
    objective: str = field(
        default="nft",
        metadata={"help": "nft: good samples are learnt, bad ones unlearnt (DiffusionNFT); awm: advantage-weighted."},
    )
    beta: float = field(
        default=1.0, metadata={"help": "For nft: how far the trained prediction is held from the one that drew."}
    )
    clip_range: float = field(
        default=1e-3, metadata={"help": "For awm: the ratio counts within 1 +/- this; of mean squared errors."}
    )
    old_decay: float = field(
        default=0.5,
        metadata={
            "help": "Samples are drawn with an average of the trained weights, which keeps this share of itself at "
            "each rollout, less at first; 0 draws with the weights of the moment."
        },
    )
    kl_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the squared distance to the untrained model's predictions; 0 leaves it out."},
    )

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective is {self.objective!r}; choose {' or '.join(OBJECTIVES)}.")
        self.check_positive("beta", "clip_range")
        check_average_decay(self.old_decay, "old_decay")
        self.check_kl_weight(self.kl_weight)
        super().__post_init__()

    @property
    def uses_reference(self) -> bool:
        """The base's, and the distance to it."""
        return super().uses_reference or self.kl_weight > 0

    def num_trainable_steps(self, num_inference_steps: int) -> int:
        """All: a finished sample can get the noise of any step."""
        return num_inference_steps
