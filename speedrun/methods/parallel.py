"""One step on several devices: each takes its part of the batch, and all make the same update.

torch's DistributedDataParallel reduces the gradients, bucket by bucket while the backward pass still runs; not so of a
compiled net, whose backward pass is one call that gives all gradients at its end. What is reduced is the sum, as the
loss is summed over the batch: one device with the whole batch would have the same gradient. A batch that is not finite
on one device is not finite in the sum, so all leave it out. Each filter is orthogonalised on one device alone, and the
updates are exchanged; momenta are kept on all, so that the first has the whole state.

Batch normalisation uses the statistics of each device's part, as is usual and costs nothing, unless
`sync_batch_norm` asks for those of the whole batch; running averages are averaged over the devices before use.
"""

import time
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from speedrun import distributed as ranks
from speedrun import seeds
from speedrun.compiler import Forward
from speedrun.config import OptimConfig
from speedrun.distributed import World
from speedrun.methods.plain import PlainStep
from speedrun.models.layers import BatchNorm2d
from speedrun.optim import Muon
from speedrun.stream import Batch

# When the newest bucket of gradients was, by `time.perf_counter`: a process trains one net at a time.
_handed_over: list[float] = []
BUCKET_MB = 2  # a net has some ten: the first are on their way while most of the backward pass is to come


def wrap(forward: nn.Module, device: torch.device) -> DistributedDataParallel:
    """What a parallel step calls in place of `forward`, the net or its compiled form. Once a net: it leaves hooks."""
    with warnings.catch_warnings():  # torch 2.13 has another name for `broadcast_buffers`, which 2.7 does not know
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = DistributedDataParallel(
            forward,
            device_ids=[device] if device.type == "cuda" else None,
            broadcast_buffers=False,
            bucket_cap_mb=BUCKET_MB,
            gradient_as_bucket_view=True,
        )
    wrapped.register_comm_hook(_handed_over, _sum)
    return wrapped


def _sum(newest: list[float], bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:
    """newest: when the last bucket was handed over."""
    ranks.here().count()
    newest[:] = [time.perf_counter()]
    work = distributed.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


class ParallelStep(PlainStep):
    """One step of training per call, as `PlainStep`, from this rank's part of the batch; the same numbers on all ranks.

    forward: what `wrap` made. batch_size: of the whole batch.
    """

    def __init__(
        self,
        world: World,
        net: nn.Module,
        forward: Forward,
        config: OptimConfig,
        batch_size: int,
        dtype: torch.dtype,
        seed: int = 0,
    ) -> None:
        self.muon = SharedMuon
        # Other images, other dropped features.
        super().__init__(net, forward, config, batch_size, dtype, seeds.derive(seed, "rank", world.rank))
        self.world = world

    def compute(self, batch: Batch) -> Tensor:
        """As `PlainStep.compute`; float32 (2,): mean loss and accuracy of the whole batch."""
        return self.world.sum_(super().compute(batch) * (len(batch.labels) / self.batch_size))

    def _backward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        made = super()._backward(batch)
        # All gradients have been handed over: since then it was others' that were waited for, and the sum.
        self.world.waited += time.perf_counter() - _handed_over[0]
        return made

    def images(self, batch: Batch) -> int:
        return self.batch_size

    @torch.no_grad()
    def settle(self) -> None:
        followers = (kept for kept in (self.average, self.lookahead) if kept is not None)
        nets = [self.net, *(kept.net for kept in followers)]
        kept = [buffer for net in nets for buffer in net.buffers() if buffer.is_floating_point()]
        if kept:
            flat = self.world.sum_(torch.cat([buffer.reshape(-1) for buffer in kept])) / self.world.size
            for buffer, mean in zip(kept, flat.split([buffer.numel() for buffer in kept]), strict=True):
                buffer.copy_(mean.view_as(buffer))


class SharedMuon(Muon):
    """Muon whose orthogonalisation, nearly all of its work, is shared out among the ranks."""

    def orthogonalized(self, matrices: list[Tensor], steps: int) -> list[Tensor]:
        world = ranks.here()
        owners = deal(tuple((len(matrix), matrix.shape[1]) for matrix in matrices), world.size)
        own = [matrix for matrix, owner in zip(matrices, owners, strict=True) if owner == world.rank]
        sizes = [0] * world.size
        for matrix, owner in zip(matrices, owners, strict=True):
            sizes[owner] += matrix.numel()
        dtype = self.compute_dtype or matrices[0].dtype
        made = [update.reshape(-1) for update in super().orthogonalized(own, steps)]
        flat = torch.cat(made) if made else matrices[0].new_empty(0, dtype=dtype)
        received = world.exchange(flat, max(sizes))
        updates, taken = [], [0] * world.size
        for matrix, owner in zip(matrices, owners, strict=True):
            begin, taken[owner] = taken[owner], taken[owner] + matrix.numel()
            updates.append(received[owner][begin : taken[owner]].view(matrix.shape))
        return updates


@cache
def deal(shapes: tuple[tuple[int, int], ...], size: int) -> Sequence[int]:
    """Which of `size` ranks orthogonalises each matrix: the costliest first, to whoever has least to do."""

    def cost(number: int) -> int:
        rows, columns = shapes[number]
        return rows * columns * min(rows, columns)

    loads, owners = [0] * size, [0] * len(shapes)
    for number in sorted(range(len(shapes)), key=cost, reverse=True):
        owners[number] = loads.index(min(loads))
        loads[owners[number]] += cost(number)
    return tuple(owners)


class _Total(torch.autograd.Function):
    """A sum over ranks; its gradient, of a loss that is summed over them too, is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return ranks.here().sum_(own.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return ranks.here().sum_(gradient.clone())


def total(own: Tensor) -> Tensor:
    """Add up a tensor over all ranks, and its gradient too."""
    return _Total.apply(own)


def synchronise_statistics(net: nn.Module) -> None:
    """Have every batch normalisation of a net use the statistics of all ranks' parts of a batch."""
    for layer in net.modules():
        if isinstance(layer, BatchNorm2d):
            layer.add_up = total
