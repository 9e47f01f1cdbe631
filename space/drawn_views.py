"""Images that were drawn lately, by their request: the same request gives the same images, so they need no model."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from request_limits import DrawRequest
from sampler import Cancellation, DrawnSample, failure_text

MAX_PIXELS = 64_000_000


class DrawnViews:
    """A limited memory of whole requests; the one that the page opens with is never forgotten.

    Args:
        opening: the request that the page opens with.
    """

    def __init__(self, opening: DrawRequest):
        self.opening = opening
        # whether its images are still to come
        self.is_drawing = False
        self._samples: OrderedDict[DrawRequest, Sequence[DrawnSample]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, request: DrawRequest) -> Sequence[DrawnSample]:
        """The images of the request, or none."""
        with self._lock:
            if request in self._samples:
                self._samples.move_to_end(request)
            return self._samples.get(request, ())

    def keep(self, request: DrawRequest, samples: Sequence[DrawnSample]) -> None:
        """Remember all images of a request; the ones longest unused are forgotten where they get too many."""
        if len(samples) < request.num_images:
            return
        with self._lock:
            self._samples[request] = tuple(samples)
            self._samples.move_to_end(request)
            for old in list(self._samples):
                if sum(map(_num_pixels, self._samples.values())) <= MAX_PIXELS:
                    break
                if old not in (request, self.opening):
                    del self._samples[old]

    def draw_opening(self, draw: Callable[[DrawRequest, Cancellation], Iterator[DrawnSample]]) -> threading.Thread:
        """Draw what the page opens with, in a thread of its own; a failure is the operator's to read."""

        def run() -> None:
            try:
                self.keep(self.opening, list(draw(self.opening, Cancellation())))
            except Exception as error:
                print(f"ubgen space: no pictures to open with: {failure_text(error)}", flush=True)
            finally:
                self.is_drawing = False

        self.is_drawing = True
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread


def _num_pixels(samples: Sequence[DrawnSample]) -> int:
    return sum(sample.image.width * sample.image.height for sample in samples)
