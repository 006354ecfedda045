"""Where a training step's time goes by kind of operation, as torch's profiler sees it, and what each takes at least.

The floor of an operation is the larger of its multiplications over the matrix units' peak and its bytes, each tensor
read or written once, over the memory's bandwidth. It is that of the step as it is written, an operation at a time:
compiled code that fuses several may go below it.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.autograd.profiler import record_function
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.kinds import AUGMENTATION, KINDS, OPTIMISER, kind_of
from speedrun.device import synchronize
from speedrun.methods.plain import PlainStep
from speedrun.stream import Stream
from speedrun.trainee import Trainee

# Of the run, at each step that is measured. At its end every operation is there and the rate is 0: the net, and with it
# the numbers that the operations see, stay as they are. The whitening's bias is frozen by then, as for most of a run.
PROGRESS = 1.0


@dataclass(frozen=True)
class Work:
    """What one operation asks of a device at least: floating-point operations of matrix products, bytes moved."""

    flops: float
    bytes: float

    def floor(self, peak: float, bandwidth: float) -> float:
        """Seconds that it takes at least, at `peak` operations and `bandwidth` bytes a second."""
        return max(self.flops / peak, self.bytes / bandwidth)


@dataclass(frozen=True)
class Profile:
    """One step. seconds: by kind, on the device. memory: bytes it allocates at once beyond what lay there before."""

    seconds: dict[str, float]
    memory: int
    profiler: profile

    def shares(self) -> dict[str, float]:
        """The kinds' shares of the step, those that take none left out."""
        total = sum(self.seconds.values())
        return {kind: seconds / total for kind, seconds in self.seconds.items() if seconds > 0}


def marked(trained: Trainee, size: int) -> Callable[[], Tensor]:
    """A step of training as a run makes it, its augmentation marked for the profiler; not in a graph, where no
    operation has a name."""
    loose = dataclasses.replace(trained, captured=None)
    step, stream = loose.step(), loose.stream()

    def call() -> Tensor:
        with record_function(AUGMENTATION):
            batch = stream.next(size)
        return step(batch, PROGRESS)

    return call


def profiled(call: Callable[[], object], device: torch.device, steps: int = 3) -> Profile:
    """Profile `steps` calls after some that warm up; all numbers are of one."""
    call()
    synchronize(device)
    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    before = torch.cuda.memory_allocated(device) if cuda else 0
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu":
        # What the profiler notes comes to lie between the activations, which then no longer fit where they lay: without
        # room at the heap's end their fresh pages were cleared in each step, which counted as pooling.
        with profile(activities=activities, profile_memory=True) as first:
            call()
        torch.empty(_highest(_on_host(first)), dtype=torch.uint8).fill_(1)
    with profile(activities=activities, profile_memory=not cuda) as profiler:
        for _ in range(steps):
            call()
        synchronize(device)
    events = _on_host(profiler)
    seconds: Counter[str] = Counter(dict.fromkeys(KINDS, 0.0))
    for event in events:
        own = event.self_device_time_total if cuda else event.self_cpu_time_total
        seconds[kind_of(_callers(event))] += own / 1e6 / steps
    memory = torch.cuda.max_memory_allocated(device) - before if cuda else _highest(events)
    return Profile(dict(seconds), memory, profiler)


def _on_host(profiler: profile) -> list[Any]:
    return [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CPU]


def _callers(event: Any) -> Iterator[str]:
    while event is not None:
        yield event.name
        event = event.cpu_parent


def _highest(events: Iterable[Any]) -> int:
    """The highest sum of what operations took and gave back, in the order in which they ended."""
    ordered = sorted(events, key=lambda event: event.time_range.end)
    return max(accumulate((event.self_cpu_memory_usage for event in ordered), initial=0))


def work(step: PlainStep, stream: Stream, size: int) -> dict[str, list[Work]]:
    """What the operations of a step ask of the device, by kind. The net must not be compiled."""
    batch = stream.next(size)
    image = stream.images[0].numel()
    moved = len(batch.index) * image + batch.images.numel() * batch.images.element_size()
    with _Counting() as counting, counting.optimisers():
        step(batch, PROGRESS)
    return {**counting.found, AUGMENTATION: [Work(0, moved)]}


class _Counting(TorchDispatchMode):
    """Collects the work of every operation that torch executes, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[Work]] = {}
        self.region = ""

    @contextmanager
    def optimisers(self) -> Iterator[None]:
        """While it lasts, what optimisers do is told apart."""

        def enter(*_: object) -> None:
            self.region = OPTIMISER

        def leave(*_: object) -> None:
            self.region = ""

        hooks = [register_optimizer_step_pre_hook(enter), register_optimizer_step_post_hook(leave)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        count = flop_registry.get(packet)
        flops = count(*args, **(kwargs or {}), out_val=out) if count else 0
        given = _tensors((args, kwargs))
        storages = {tensor.untyped_storage().data_ptr() for tensor in given}
        made = [tensor for tensor in _tensors(out) if tensor.untyped_storage().data_ptr() not in storages]
        if made or func._schema.is_mutable:  # else a view, which moves nothing
            moved = sum(tensor.numel() * tensor.element_size() for tensor in (*given, *made))
            node = torch._C._current_autograd_node()  # the caller, in a backward pass
            kind = self.region or kind_of([str(packet), *([node.name()] if node else [])])
            self.found.setdefault(kind, []).append(Work(flops, moved))
        return out


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
