"""What one visitor has before him: the results of his last request. Gradio keeps one for each open page."""

from dataclasses import dataclass, field
from typing import Any

from column_values import ColumnValues
from dataset_rows import DatasetRow
from dataset_view import DatasetView
from model_queue import Place
from overlay import LAYERS
from sampler import Cancellation, DrawnSample


@dataclass
class Visitor:
    """Results and running requests of one open page; never shared, and dropped with the page."""

    samples: dict[str, list[DrawnSample]] = field(default_factory=dict)
    drawing: Cancellation = field(default_factory=Cancellation)
    measuring: Cancellation = field(default_factory=Cancellation)
    # of the request that waits or runs, and the button that started it
    place: Place | None = None
    running: str = ""
    view: DatasetView | None = None
    column: ColumnValues | None = None
    rows: list[DatasetRow] = field(default_factory=list)
    chosen: DrawnSample | DatasetRow | None = None
    # what to draw over images; kept over images that lack it
    layers: set[str] = field(default_factory=lambda: set(LAYERS))

    def start_drawing(self) -> Cancellation:
        """A new request to draw; the one before, if it still runs, is cancelled, as each has a flag of its own."""
        self.drawing.is_asked = True
        self.drawing, self.samples, self.chosen = Cancellation(), {}, None
        return self.drawing

    def start_measuring(self) -> Cancellation:
        """The same for measuring bias."""
        self.measuring.is_asked = True
        self.measuring = Cancellation()
        return self.measuring


def item_at(items: list[Any], index: Any) -> Any | None:
    """The item that a visitor clicked; None for an index that does not exist, since indices come from the browser."""
    return items[index] if isinstance(index, int) and 0 <= index < len(items) else None
