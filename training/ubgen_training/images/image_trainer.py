"""What every trainer on labelled images does: an average of the weights, which is what is exported in the end."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from ubgen_pipeline.dataset.labelled_images import LabelledImages

from ..checkpoints.trainer import CheckpointingTrainer
from ..checkpoints.weight_average import WeightAverage
from .config import ImageTrainingConfig
from .epoch_rows import EpochRows, EpochStream


class ImageTrainer(CheckpointingTrainer):
    """A trainer on labelled images; a subclass gives the loss, and says how the weights are written and read.

    Args:
        model: what is trained.
        args: settings.
        images: where ``rows`` come from.
        rows: what of them the model is trained on.
        average: of the weights, kept beside them; None for none.
        export_average: write the average as the weights in the end; checkpoints always hold the trained ones.
        kwargs: handed to ``transformers.Trainer``.

    Raises:
        ValueError: the dataset has fewer images than a batch.
    """

    # the loss is a mean over the micro-batch, so accumulation still has to divide it
    loss_is_scaled_for_ga = False
    args: ImageTrainingConfig

    def __init__(
        self,
        model: nn.Module,
        args: ImageTrainingConfig,
        images: LabelledImages,
        rows: EpochRows | EpochStream,
        *,
        average: WeightAverage | None,
        export_average: bool,
        **kwargs: Any,
    ):
        self.class_names = list(images.class_names)
        size = args.per_device_train_batch_size
        if args.dataloader_drop_last and isinstance(rows, EpochRows) and len(rows) < size:
            raise ValueError(
                f"per_device_train_batch_size is {size}, but {images.source} has "
                f"{len(rows)} rows; choose a smaller one."
            )
        super().__init__(model=model, args=args, train_dataset=rows, **kwargs)
        self.average = average
        self._export_average = export_average
        if average is not None:
            self.add_callback(average)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights, in the end the averaged ones if ``export_average``; every rank must call it."""
        if _internal_call:
            # a checkpoint holds the trained weights where a resumed run looks for them
            super().save_model(output_dir, _internal_call)
            return
        with self.averaged_weights() if self._export_average else nullcontext():
            super().save_model(output_dir)
            if self.args.should_save:
                self.save_beside_weights(Path(output_dir or str(self.args.output_dir)))

    def save_beside_weights(self, folder: Path) -> None:
        """Write what an export holds beside the weights, on the first rank; nothing unless a subclass says so."""

    def averaged_weights(self) -> AbstractContextManager[None]:
        """The model with the averaged weights, where there are any yet, inside the ``with``."""
        return self.average.applied() if self.average is not None and self.average.weights else nullcontext()

    def extra_state(self) -> dict[str, Any]:
        """The base's, and the average."""
        return {**super().extra_state(), **({} if self.average is None else {"average": self.average.state_dict()})}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`extra_state` gave."""
        super().load_extra_state(state)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
