"""Ranks: the processes that torchrun starts for one job, and what they tell each other, by torch.distributed.

A world of one, which is what there is without a launcher, costs nothing: every question is answered on the spot, torch
is not imported and no process group is made. What ranks tell each other about time and order goes over gloo, on the
host; gradients and logits go over NCCL where they lie on GPUs.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from speedrun.errors import SpeedrunError, UsageError
from speedrun.sentinel import Sentinel
from speedrun.signals import Interrupted, Signals

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import TCPStore

T = TypeVar("T")

JOIN_SECONDS = 120.0  # until the last rank must be there
# Nobody waits that long: the sentinels end what hangs, and name it, which a collective that times out cannot.
PATIENCE = timedelta(days=7)
MEANWHILE_SECONDS = 0.05
_NO_RESTART = "does not go on when the launcher starts it anew: leave out --max-restarts"
_CLOSED = 1 << 30  # a counter that hands out nothing more


@dataclass
class World:
    """The ranks of one job, seen from one of them.

    rank: 0 to size - 1; rank 0 leads: it decides, writes and draws. local_rank, local_size: among those of this
    machine. restarts: how often the launcher has started the job anew. waited: seconds that the host has spent in
    collectives, in which the others may not have been ready yet.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0
    waited: float = field(default=0.0, init=False, compare=False)
    sentinel: Sentinel | None = field(default=None, init=False, repr=False, compare=False)
    _store: "TCPStore | None" = field(default=None, init=False, repr=False, compare=False)
    _queues: int = field(default=0, init=False, repr=False, compare=False)

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def joined(self) -> bool:
        return self._store is not None

    def join(self) -> None:
        """Meet the other ranks; a world of one has met. SpeedrunError where some do not come."""
        if self.size == 1 or self.joined:
            return
        import torch
        from torch import distributed

        try:
            self._store = self._connect(master=True)
            sentinel = Sentinel(self.rank, self.size, self._connect(), f"{self.restarts}/")
            # Each machine's launcher counts its own restarts alone: ranks of two lives could take each other's words.
            if self.size > self.local_size and (self.restarts or sentinel.was_here()):
                raise SpeedrunError(f"a job on several machines {_NO_RESTART}, and start with --resume")
            self.sentinel = sentinel
            sentinel.wait_for_all(JOIN_SECONDS)
            # The sentinels say better what has happened than NCCL's own watch, which ends the process.
            os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
            # Both from the start: which device a rank takes is chosen later.
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            distributed.init_process_group(
                backend,
                store=distributed.PrefixStore(f"group/{self.restarts}", self._store),
                rank=self.rank,
                world_size=self.size,
                timeout=PATIENCE,
            )
        except RuntimeError as error:  # all that torch raises of stores and groups
            raise SpeedrunError(f"the ranks do not find each other: {str(error).partition(chr(10))[0]}") from error
        sentinel.start()

    def _connect(self, master: bool = False) -> "TCPStore":
        """A connection of its own to the launcher's store, or to the first rank's where no launcher keeps one."""
        from torch.distributed import TCPStore

        kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=master and self.leads and not kept,
            wait_for_workers=False,
            timeout=timedelta(seconds=JOIN_SECONDS),
        )

    def refuse_restart(self, what: str) -> None:
        """SpeedrunError where the launcher has started anew what does not go on."""
        if self.restarts:
            raise SpeedrunError(f"{what} {_NO_RESTART}")

    def watch(self, stall_seconds: float | None) -> None:
        """From here a rank that is behind the others for so long ends the job, and so do all that stand still.

        None: ranks work apart.
        """
        if self.sentinel is not None:
            self.sentinel.stall_seconds = stall_seconds

    def on_end(self, call: Callable[[int], None]) -> None:
        """What to do, given the exit code, before the sentinel ends this process."""
        if self.sentinel is not None:
            self.sentinel.on_end = call

    def leave(self) -> None:
        """Nothing more is expected of this rank, and nothing of the others."""
        if self.sentinel is not None:
            self.sentinel.leave()

    def tells(self, text: str, code: int) -> bool:
        """End the job on all ranks with `code`; whether this rank is to print why. One does, the first where it can."""
        return self.leads if self.sentinel is None else self.sentinel.tell(text, code)

    def decide(self, make: Callable[[], T]) -> T:
        """What the first rank makes, on all ranks: plain values or tensors on the CPU. Its errors end the job."""
        if self.size == 1:
            return make()
        from torch.distributed import broadcast_object_list

        box: list[Any] = [make() if self.leads else None]
        with self._waiting():
            broadcast_object_list(box)
        return box[0]

    def first_apart(self, value: object) -> int | None:
        """The first rank that has another value than the first has; None where all have the same."""
        values = self.gather(value)
        return next((rank for rank, other in enumerate(values) if other != values[0]), None)

    def heard(self, own: Sequence[str]) -> list[str]:
        """What all ranks have to tell, each line once, those that the first has not said with their ranks."""
        ranks: dict[str, list[int]] = {}
        for rank, lines in enumerate(self.gather(list(own))):
            for line in lines:
                ranks.setdefault(line, []).append(rank)
        return [line if of[0] == 0 else f"{_named(of)}: {line}" for line, of in ranks.items()]

    def meet(self) -> None:
        """Wait for all."""
        self.most(0.0)

    def most(self, *numbers: float) -> tuple[float, ...]:
        """The largest of each number over all ranks."""
        if self.size == 1:
            return numbers
        import torch
        from torch.distributed import ReduceOp, all_reduce

        held = torch.tensor(numbers, dtype=torch.float64)
        with self._waiting():
            all_reduce(held, ReduceOp.MAX)
        return tuple(held.tolist())

    def lead(self, *numbers: float) -> tuple[float, ...]:
        """The first rank's numbers."""
        return self.most(*(numbers if self.leads else [float("-inf")] * len(numbers)))

    def gather(self, value: T) -> list[T]:
        """The value of each rank, in their order: plain values or tensors on the CPU."""
        if self.size == 1:
            return [value]
        from torch.distributed import all_gather_object

        values: list[Any] = [None] * self.size
        with self._waiting():
            all_gather_object(values, value)
        return values

    def sum_(self, tensor: "Tensor") -> "Tensor":
        """Add up a tensor of one shape over all ranks, in place, on its device."""
        if self.size > 1:
            from torch.distributed import all_reduce

            with self._waiting():
                all_reduce(tensor)
        return tensor

    def exchange(self, own: "Tensor", largest: int) -> list["Tensor"]:
        """The tensor of each rank, padded to `largest` rows: they are of any dtype and one shape but for their rows."""
        import torch
        from torch.distributed import all_gather

        sent = own.new_zeros((largest, *own.shape[1:]))
        sent[: len(own)] = own
        received = list(own.new_empty((self.size, *sent.shape)))
        with self._waiting():
            # As bytes: gloo does not take every dtype.
            all_gather([rows.view(-1).view(torch.uint8) for rows in received], sent.view(-1).view(torch.uint8))
        return received

    def part(self, count: int, rank: int | None = None) -> slice:
        """The share of `count` rows that is this rank's, or another's; the shares differ by one row at most."""
        rank = self.rank if rank is None else rank
        return slice(rank * count // self.size, (rank + 1) * count // self.size)

    def queue(self, count: int) -> Iterator[int]:
        """Numbers from 0 to `count` - 1: each goes to one rank, the next one to whoever asks for it.

        All ranks make the same queues in the same order.
        """
        if self.size == 1:
            yield from range(count)
            return
        assert self._store is not None
        self._queues += 1
        while (number := self._store.add(self._queue_key, 1) - 1) < count:
            yield number

    def close_queue(self) -> None:
        """Hand out nothing more of the newest queue, on any rank."""
        if self._store is not None:
            self._store.add(self._queue_key, _CLOSED)

    @property
    def _queue_key(self) -> str:
        return f"{self.restarts}/queue/{self._queues}"

    def await_all(self, name: str, meanwhile: Callable[[str | None], None]) -> None:
        """Wait until all ranks have come here, again and again calling `meanwhile` with what one has `posted` last."""
        if self._store is None:
            return
        key, posted = f"{self.restarts}/come/{name}", f"{self.restarts}/posted/{name}"
        self._store.add(key, 1)
        while self._store.add(key, 0) < self.size:
            meanwhile(self._store.get(posted).decode() if self._store.check([posted]) else None)
            time.sleep(MEANWHILE_SECONDS)

    def post(self, name: str, value: str) -> None:
        """Tell those that wait in `await_all`."""
        if self._store is not None:
            self._store.set(f"{self.restarts}/posted/{name}", value)

    def remember(self, name: str, value: str) -> None:
        """Keep a text for the time after a restart. Only the first rank does."""
        if self._store is not None and self.leads:
            self._store.set(f"kept/{name}", value)

    def remembered(self, name: str) -> str | None:
        """What was kept before the launcher started the job anew; None if nothing was."""
        if self._store is None or not self.restarts or not self._store.check([f"kept/{name}"]):
            return None
        return self._store.get(f"kept/{name}").decode()

    @contextlib.contextmanager
    def in_company(self, signals: Signals) -> Iterator[None]:
        """What ranks do that are lost without each other. An error of torch's, or a signal, may be there because one of
        them is gone: a collective lacks it, and the launcher asks the others to end. Then the sentinel, which will know
        which it is, is given the time to end this process."""
        try:
            yield
        except Interrupted as stop:
            self.stop(stop.exit_code)
            raise
        except RuntimeError:  # all that torch raises of collectives
            signals.gentle = True  # the launcher's comes after the error
            if self.sentinel is not None:
                self.sentinel.await_end()
            raise

    def stop(self, code: int) -> None:
        """End the job on all ranks with `code`, a signal's, unless a rank is found to be lost."""
        if self.sentinel is not None:
            self.sentinel.await_stop()
        self.tells("", code)

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        """Around a collective: it is counted, and the time that the host spends in it."""
        self.count()
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    def count(self) -> None:
        """Tell the sentinel of a collective that is asked for."""
        if self.sentinel is not None:
            self.sentinel.calls += 1

    def moves(self) -> None:
        """Tell the sentinel that this rank goes on where it asks for no collective in a long time."""
        if self.sentinel is not None:
            self.sentinel.moves += 1


def _named(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def read(variables: Mapping[str, str]) -> World:
    """The world that a launcher's variables describe, of one where they name none. Raises UsageError."""

    def number(name: str, default: int | None = None) -> int:
        text = variables.get(name)
        if text is None and default is not None:
            return default
        if text is None or not text.isdecimal():
            raise UsageError(f"{name} must be a number, not {text or 'missing'}: start several processes by torchrun")
        return int(text)

    size = number("WORLD_SIZE", 1)
    if size <= 1:
        return World()
    world = World(
        rank=number("RANK"),
        size=size,
        local_rank=number("LOCAL_RANK", 0),
        local_size=number("LOCAL_WORLD_SIZE", 1),
        restarts=number("TORCHELASTIC_RESTART_COUNT", 0),
    )
    if world.rank >= size:
        raise UsageError(f"RANK {world.rank} does not go with WORLD_SIZE {size}")
    if "MASTER_ADDR" not in variables:
        raise UsageError("MASTER_ADDR is missing: start several processes by torchrun")
    number("MASTER_PORT")
    return world


@cache
def here() -> World:
    """The world of this process. Raises UsageError."""
    return read(os.environ)


def agree_on_start(world: World, started: float) -> float:
    """Seconds by which the first of all ranks began earlier than this one, which began at `started` (monotonic)."""
    age = time.monotonic() - started
    return max(0.0, world.most(age)[0] - age)
