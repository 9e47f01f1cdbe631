"""How fast a run was: images per second, where the time went, and the share of what the machine can compute at most.

    256 images in 61.2 s: 4.18 images/s end to end, 4.59 images/s in the loop
    seconds of all threads together: 5.3 loading, 0.4 encoding, 52.9 drawing, 7.1 decoding, 1.9 writing, 0.0 waiting
    41% of this machine's limit: 0.521 of 1.27 TFLOP/s

The loop is from the first batch to the last. The limit is that of the fastest matrix product (``machine_limit.py``),
for as many threads as draw; what is held against it are the operations of denoising and decoding by count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..commands.stopwatch import STAGES


@dataclass(frozen=True)
class Throughput:
    """Figures of one run of one process.

    Attributes:
        num_images: drawn by it.
        seconds: from its beginning to its end.
        loop_seconds: of them, from the first batch to the last.
        stages: seconds of each stage, of all threads together.
        operations: of an image, by count; None where they are not known.
        limit: operations per second of the machine; None where it is not known, 0 of a worker whose place on the
            machine another one has taken.
    """

    num_images: int
    seconds: float
    loop_seconds: float
    stages: Mapping[str, float]
    operations: float | None = None
    limit: float | None = None

    @classmethod
    def together(cls, workers: "Sequence[Throughput]", seconds: float, loop_seconds: float) -> "Throughput":
        """Of workers that drew at the same time, with the seconds of the run that they worked for.

        What they are held against is the limit of those that drew at all.
        """
        limits = [worker.limit for worker in workers if worker.num_images]
        return cls(
            sum(worker.num_images for worker in workers),
            seconds,
            loop_seconds,
            {name: sum(worker.stages.get(name, 0.0) for worker in workers) for name in STAGES},
            next((worker.operations for worker in workers if worker.operations is not None), None),
            None if None in limits else sum(limit for limit in limits if limit),
        )

    @property
    def share(self) -> float | None:
        """Of the limit, in the loop; None where it is not known."""
        if not self.operations or not self.limit:
            return None
        return self.operations * self.num_images / self.loop_seconds / self.limit

    def lines(self) -> list[str]:
        """The figures in words."""
        end_to_end, loop = (self.num_images / max(time, 1e-9) for time in (self.seconds, self.loop_seconds))
        stages = ", ".join(f"{self.stages.get(name, 0.0):.1f} {name}" for name in STAGES)
        lines = [
            f"{self.num_images} images in {self.seconds:.1f} s: {end_to_end:.3g} images/s end to end,"
            f" {loop:.3g} images/s in the loop",
            f"seconds of all threads together: {stages}",
        ]
        if self.share is not None and self.limit is not None:
            rate = self.share * self.limit / 1e12
            lines.append(f"{self.share:.0%} of this machine's limit: {rate:.3g} of {self.limit / 1e12:.3g} TFLOP/s")
        return lines
