"""Settings of distilling a model into a few steps."""

from dataclasses import dataclass, field
from typing import ClassVar

from ..denoising.denoiser_config import FREE_ON_RESUME, LatentTrainingConfig
from .consistency_loss import segment_start, teacher_timesteps

# every layer that LCM's LoRAs have
LAYERS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
)


@dataclass
class FewStepConfig(LatentTrainingConfig):
    """What every training in latent space has, and the teacher.

    Raises:
        ValueError: a setting out of range, no dataset, or Hub push, which this trainer does not do.
    """

    # the teacher's weights are compared, wherever they come from; a resumed LoRA starts from its checkpoint
    free_on_resume: ClassVar[frozenset[str]] = FREE_ON_RESUME | {"lora", "lora_revision", "initial_lora"}

    output_dir: str | None = field(default="few_steps", metadata={"help": "Where LoRA and checkpoints are written."})
    lora: list[str] | None = field(
        default=None,
        metadata={
            "help": "Folder, file or Hub id of the LoRA whose images are wanted in a few steps, or of several, each"
            " with :STRENGTH after it where that is not 1."
        },
    )
    lora_revision: str | None = field(
        default=None, metadata={"help": "Revision of that LoRA on the Hub, where there is one."}
    )
    initial_lora: str | None = field(
        default=None,
        metadata={"help": "Folder of a LoRA of this trainer to begin with, such as one of more segments."},
    )
    guidance_scale: float = field(
        default=2.0,
        metadata={"help": "The teacher's guidance, which the student needs no second call for; 1: none."},
    )
    num_segments: int = field(
        default=8, metadata={"help": "8 for preset hyper-8, 4 for hyper-4, 1 for lcm-4; fewer are harder to learn."}
    )
    num_teacher_steps: int = field(
        default=48, metadata={"help": "Steps of the teacher's path, a multiple of num_segments."}
    )
    huber_scale: float = field(default=0.001, metadata={"help": "Errors well above it weigh by their size only."})
    lora_rank: int = field(default=64, metadata={"help": "Rank of the LoRA."})
    lora_target_modules: list[str] = field(
        default_factory=lambda: list(LAYERS), metadata={"help": "Names of the denoiser's layers that get a LoRA."}
    )
    average_decay: float = field(
        default=0.95, metadata={"help": "Decay of the moving average of the trained weights; 0: none."}
    )

    def __post_init__(self) -> None:
        if self.guidance_scale < 1:
            raise ValueError(f"guidance_scale is {self.guidance_scale}; choose 1, which is none, or more.")
        if self.huber_scale <= 0:
            raise ValueError(f"huber_scale is {self.huber_scale}; choose one above 0, such as 0.001.")
        # the model's own number is looked at when it is there
        steps = teacher_timesteps(max(1000, self.num_teacher_steps + 1), self.num_teacher_steps)
        segment_start(steps[1:], self.num_teacher_steps, self.num_segments)
        super().__post_init__()
