"""What one visitor has before him: the results of his last request. Gradio keeps one for each open page."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from column_values import ColumnValues
from dataset_rows import DatasetRow
from dataset_view import DatasetView
from overlay import LAYERS
from sampler import Cancellation, DrawnSample


@dataclass(eq=False)
class ModelRequest:
    """What waits for the model, or runs; neither over nor taken back."""

    has_begun: bool = False


@dataclass
class Visitor:
    """Results and running requests of one open page; never shared, and dropped with the page."""

    samples: dict[str, list[DrawnSample]] = field(default_factory=dict)
    drawing: Cancellation = field(default_factory=Cancellation)
    measuring: Cancellation = field(default_factory=Cancellation)
    # by the button that started them
    requests: dict[str, ModelRequest] = field(default_factory=dict)
    taken_back: Counter[str] = field(default_factory=Counter)
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
