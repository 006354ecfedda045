"""The stages of a run: where images have which size, and where the hardest of what is drawn are picked.

Standard library only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from speedrun.fields import Checked, option, require


@dataclass(frozen=True)
class SelectConfig(Checked):
    """Training on the images that a small net finds hardest, its proxy, for a part of the run.

    The net's batch keeps its size, and with it its rates and the shapes that are compiled: a step draws more images
    instead. Source: github.com/KellerJordan/cifar10-airbench, airbench96_faster, which picks to the end; here what is
    easy is forgotten then (benchmarks/LOG.md, "training on the hard half").
    """

    share: float = option(1.0, "share of the images drawn that is trained on, the hardest: 0.5, 0.25; 1 for all")
    begin: float = option(0.2, "share of the run before images are picked; the proxy learns from the start")
    end: float = option(0.8, "share of the run after which all images are trained on again")
    every: int = option(4, "steps from one on which the proxy learns to the next")
    widths: tuple[int, ...] | None = option(
        None, "channels of the proxy's stages, a quarter of the net's where not set"
    )

    def check(self) -> None:
        fits = 0.01 < self.share <= 1 and abs(1 / self.share - self.batches) < 0.05
        require(fits, f"select.share must be 1 over a whole number, as 0.5, 0.33 or 0.25, not {self.share}")
        ordered = 0 <= self.begin < self.end <= 1
        require(ordered, f"select.begin {self.begin} and select.end {self.end} must rise within [0, 1]")
        require(self.every >= 1, f"select.every must be at least 1, not {self.every}")
        sizes = self.widths is None or (self.widths and min(self.widths) > 0)
        require(bool(sizes), "select.widths takes a positive number for each stage")

    @property
    def batches(self) -> int:
        """Batches' worth of images that a step draws to pick one."""
        return round(1 / self.share)

    @property
    def picks(self) -> bool:
        """Whether anything is picked at all."""
        return self.batches > 1

    def mean_seconds(self, learns: float, rests: float) -> float:
        """Mean seconds of a step before `end`, of those of a step on which the proxy learns and of one on which it does
        not."""
        return (learns + (self.every - 1) * rests) / self.every

    @property
    def mean_batches(self) -> float:
        """Batches' worth of images that a step draws, over the whole run."""
        return 1 + (self.batches - 1) * (self.end - self.begin)


class Work(NamedTuple):
    """What makes a step cost what it costs: the side of its images in pixels, and the batches that it draws to pick
    one."""

    size: int
    batches: int = 1


class Stage(NamedTuple):
    """A part of the run, up to `until` of its progress, whose steps all do the same work."""

    until: float
    work: Work


def begin_of(work: Work, stages: Sequence[Stage]) -> float:
    """The progress at which a work is done for the first time."""
    begins = (0.0, *(stage.until for stage in stages[:-1]))
    return next(begin for begin, stage in zip(begins, stages, strict=True) if stage.work == work)


def stages(resolutions: Sequence[int], select: SelectConfig | None = None) -> tuple[Stage, ...]:
    """The stages of a run. resolutions: sides in pixels, each for an equal share of the progress."""
    count = len(resolutions)
    edges = {index / count for index in range(count + 1)}
    picked = (select.begin, select.end) if select is not None and select.picks else (1.0, 1.0)
    found = []
    for begin, end in pairwise(sorted({*edges, *picked})):
        size = resolutions[int((begin + end) / 2 * count)]
        batches = select.batches if select is not None and picked[0] <= begin < picked[1] else 1
        found.append(Stage(end, Work(size, batches)))
    return tuple(found)
