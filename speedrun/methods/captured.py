"""The whole step in a CUDA graph: batch, forward, backward, update, without the host's time for asking for each part.

A graph repeats what it was captured with. So all that changes from step to step lies in tensors on the device, which
the host fills before it asks for the graph: the seed, the epoch, the order of its images, the place in it, the rates.
What changes the work itself, the size of the images and whether the whitening bias is still trained, has a graph each.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from speedrun import seeds
from speedrun.compiler import Forward
from speedrun.config import Config
from speedrun.methods.plain import PlainStep
from speedrun.stream import Batch, Stream

# Eager runs before a capture: cuDNN chooses its kernels in the first, Triton compiles, optimisers make their state.
WARM_UPS = 2


@dataclass(frozen=True)
class Place:
    """What stands for a batch that the step makes itself: its side in pixels. The rest is on the device."""

    size: int


class CapturedStream(Stream):
    """A stream whose batches are made on the device from what it last wrote there."""

    def __init__(self, images: Tensor, labels: Tensor, **options: Any) -> None:
        """As `Stream`."""
        super().__init__(images, labels, **options)
        device = images.device
        self._held = torch.arange(len(images), device=device)
        self._seed = torch.tensor(self._augment_seed, device=device)
        self._augment_seed = self._seed
        self._first, self._epoch, self._step = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(3))
        self._rows = torch.arange(self.batch_size, device=device)

    def next(self, size: int | None = None, batches: int = 1) -> Place:  # type: ignore[override]  # stands for a batch
        """Go on to the next batch, which `take` then makes; never to several, for none are picked from in a graph."""
        assert batches == 1
        epoch, position = divmod(self.batches, self.batches_per_epoch)
        if epoch != self._ordered:
            self._held.copy_(self._shuffled(epoch), non_blocking=True)
            self._ordered = epoch
        self.batches += 1
        self._first.fill_(position * self.batch_size)
        self._epoch.fill_(epoch)
        self._step.fill_(self.batches)
        return Place(size or self.size)

    def begin(self, seed: int) -> None:
        """Back to the first batch, of this seed."""
        self.seed, self.batches, self._ordered = seed, 0, -1
        self._seed.fill_(seeds.derive(seed, "augment"))

    def take(self, size: int) -> Batch:
        """The batch that the device's numbers stand for. Nothing of it comes from the host."""
        return self._made(self._held.index_select(0, self._rows + self._first), size, self._epoch, self._step)


class CapturedStep(PlainStep):
    """One step of training per call, as `PlainStep`, from the place of a batch of its own stream.

    Until `capture`, and for a size that it was not called with, the same function runs without a graph.
    """

    def __init__(self, stream: CapturedStream, *arguments: Any) -> None:
        """arguments: `PlainStep`'s."""
        super().__init__(*arguments)
        self.stream = stream
        self.hold_numbers()
        self._graphs: dict[tuple[int, bool], tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, place: Place, progress: float) -> Tensor:  # type: ignore[override]
        """Train on the batch at `place` at a point of the run; float32 (2,) on the device, which the next call
        overwrites: mean loss and accuracy of the batch, the loss NaN where it was left out."""
        self.schedule(progress)
        if (known := self._graphs.get((place.size, self.optimizers.frozen))) is None:
            numbers = self.whole(place.size)
        else:
            graph, numbers = known
            graph.replay()
        self.follow(progress)
        return numbers

    def whole(self, size: int) -> Tensor:
        """All that a graph holds: reads tensors on the device alone, and never waits for it."""
        return self.compute(self.stream.take(size))

    def capture(self, sizes: Iterable[int]) -> None:
        """Make the graphs of all sizes, with the whitening bias and, where it is frozen later, without.

        Trains on the way: the net and this step are to be reset. RuntimeError where something cannot be captured.
        """
        pool, frozen_from = None, self.config.whiten_bias
        for size in sorted(set(sizes)):
            for progress in sorted({0.0, frozen_from} if self.freezes else {0.0}):
                self.optimizers.thaw()
                place = self.stream.next(size)
                self.schedule(progress)
                self._warm_up(place.size)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                    numbers = self.whole(place.size)
                pool = graph.pool()  # they never run at the same time
                self._graphs[place.size, self.optimizers.frozen] = graph, numbers

    def _warm_up(self, size: int) -> None:
        """Run on a stream of its own, as a capture does, so that what is allocated is not taken for the capture's."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self.whole(size)
        torch.cuda.current_stream().wait_stream(side)

    def reset(self) -> None:
        """Back to a step that was never taken, in the tensors that the graphs know."""
        for optimizer in self.optimizers.members:
            for kept in optimizer.state.values():
                for tensor in kept.values():
                    tensor.zero_()
        self.guard.reset()
        for kept in (self.average, self.lookahead):
            if kept is not None:
                kept.restart(self.net)
        self.optimizers.thaw()
        self.stream.batches = 0

    def restore(self, state: dict[str, Any]) -> None:
        """As `PlainStep.restore`, into the tensors that the graphs know."""
        known = {id(parameter): dict(kept) for one in self.optimizers.members for parameter, kept in one.state.items()}
        rates = [group["lr"] for group in self.optimizers.groups()]
        super().restore(state)
        for group, rate in zip(self.optimizers.groups(), rates, strict=True):
            group["lr"] = rate
        for optimizer in self.optimizers.members:
            for parameter, kept in optimizer.state.items():
                for name, tensor in known.get(id(parameter), {}).items():
                    kept[name] = tensor.copy_(kept[name])


def make(
    config: Config, stream: CapturedStream, net: nn.Module, forward: Forward, dtype: torch.dtype
) -> tuple[CapturedStep | None, str]:
    """A captured step of a planned config, or None and why it could not be captured, in one line.

    Trains on the way: the net and the step are to be reset.
    """
    assert config.batch_size is not None
    assert config.resolutions is not None
    step = CapturedStep(stream, net, forward, config.optim, config.batch_size, dtype, config.seed)
    try:
        step.capture(config.resolutions)
    except Exception as error:  # what cannot be captured says so in many ways; the same step runs without a graph
        step.optimizers.thaw()
        first = (str(error).strip().splitlines() or [""])[0]
        return None, f"the step could not be captured ({type(error).__name__}: {first}): going on without"
    return step, ""
