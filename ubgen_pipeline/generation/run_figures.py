"""What one run has drawn and written, by itself or by workers that drew for it."""

from collections import Counter
from collections.abc import Mapping, Sequence

from ..commands.console import say
from ..commands.stopwatch import Stopwatch
from ..dataset.columns import BLACK, NOT_FINITE_COLUMN, REDRAWN, SAFETY_COLUMN
from .throughput import Throughput


class RunFigures:
    """Counts of a run, from which its figures come.

    Attributes:
        num_shards: that were written.
        marks: how many images have each mark: see :func:`ubgen_pipeline.dataset.row_facts.marked_rows`.
        workers: figures of those that drew for this run; where there are any, it drew nothing itself.
        rate: images per second of the last loop; None where nothing was drawn.
    """

    def __init__(self) -> None:
        self.num_shards = 0
        self.marks: Counter[str] = Counter()
        self.workers: list[Throughput] = []
        self.rate: float | None = None
        self._num_images, self._loop_seconds = 0, 0.0

    def count(self, num_images: int, num_shards: int, loop_seconds: float) -> None:
        """So many images were drawn, and so many shards of them written, in so many seconds."""
        self._num_images += num_images
        self._add(num_shards, num_images, loop_seconds)

    def take(
        self, workers: Sequence[Throughput], marks: Mapping[str, int], num_shards: int, loop_seconds: float
    ) -> None:
        """What workers drew and wrote for this run, in so many seconds, and how many of their images were marked."""
        self.workers += workers
        self.marks.update(marks)
        self._add(num_shards, sum(worker.num_images for worker in workers), loop_seconds)

    def throughput(self, watch: Stopwatch) -> Throughput:
        """Of the workers, if there are any; else of this process, without operations and limit.

        Args:
            watch: has timed the run.
        """
        if self.workers:
            return Throughput.together(self.workers, watch.elapsed, self._loop_seconds)
        return Throughput(self._num_images, watch.elapsed, self._loop_seconds, watch.seconds())

    def _add(self, num_shards: int, num_images: int, loop_seconds: float) -> None:
        self.num_shards += num_shards
        self._loop_seconds += loop_seconds
        self.rate = num_images / max(loop_seconds, 1e-9)


def say_marked(marks: Mapping[str, int], which: str) -> None:
    """Say how many images ``which`` were not finite or were flagged, where there are any."""
    for mark, fate in ((REDRAWN, "drawn again in float32"), (BLACK, "black, since they were not in float32 either")):
        if marks.get(mark):
            say(f"{marks[mark]} images {which} were not finite; they are {fate}, and marked in {NOT_FINITE_COLUMN}")
    if flagged := marks.get(SAFETY_COLUMN):
        say(
            f"{flagged} images {which} were flagged by the safety checker; their rows are kept and marked in"
            f" {SAFETY_COLUMN}, and what the generator's own checker flags is black"
        )
