"""What each rank knows of the others: who lives, who is behind, and the last words of the job.

A thread tells the launcher's store twice a second that this rank lives and how many collectives it has asked for, and
reads what the others tell. A collective cannot say whom it waits for; the rank that has asked for fewer of them is the
one. When a rank is lost or stalls, or says why the job ends, every sentinel ends its own process, whatever its main
thread waits for, and one of them prints the one line. Files are renamed into place, so none is half-written.
"""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import TCPStore

PERIOD = 0.5
LOST_SECONDS = 6.0  # without a sign of life; a process that is killed is named, and the job over, in ten
FIRST_WORD_SECONDS = 1.0  # in which the first rank may say what all would
_LEFT = "left"


@dataclass
class Watch:
    """Judges signs of life. now: seconds on any clock, when it was made."""

    now: float
    _beats: dict[int, tuple[str, float]] = field(default_factory=dict)
    _calls: dict[int, tuple[int, float]] = field(default_factory=dict)
    _moves: dict[int, tuple[str, float]] = field(default_factory=dict)

    def judge(self, signs: Mapping[int, str], now: float, stall_seconds: float | None) -> str:
        """The verdict, in one line, on `signs`, "beat calls moves" or "left" by rank; empty while all is well.

        stall_seconds: how long a rank may be behind the others; None, for ever.
        """
        if now - self.now > LOST_SECONDS / 2:  # this process itself was held up: it has not been listening
            self._beats.clear()
            self._calls.clear()
            self._moves.clear()
        self.now = now
        alive = {rank: sign.split(" ", 2) for rank, sign in signs.items() if sign != _LEFT}
        for rank, (beat, calls, moves) in alive.items():
            if self._beats.get(rank, ("", 0.0))[0] != beat:
                self._beats[rank] = beat, now
            if self._calls.get(rank, (-1, 0.0))[0] != int(calls):
                self._calls[rank] = int(calls), now
            if self._moves.get(rank, ("", 0.0))[0] != moves:
                self._moves[rank] = moves, now
        lost = [rank for rank in alive if now - self._beats[rank][1] >= LOST_SECONDS]
        if lost:
            return f"{_named(lost)} lost: no sign of life for {LOST_SECONDS:g} s"
        if stall_seconds is None or not alive:
            return ""
        furthest = max(self._calls[rank][0] for rank in alive)
        behind = [rank for rank in alive if self._calls[rank][0] < furthest]
        stalled = [rank for rank in behind if now - self._calls[rank][1] >= stall_seconds]
        if stalled:
            return f"{_named(stalled)} stalled: the others have waited for {stall_seconds:g} s"
        # Where one has left, the others are about to.
        still = len(alive) == len(signs) and all(
            now - max(self._calls[rank][1], self._moves[rank][1]) >= stall_seconds for rank in alive
        )
        return f"no rank has moved for {stall_seconds:g} s" if still else ""


def _named(ranks: list[int]) -> str:
    numbers = ", ".join(map(str, ranks))
    return f"rank {numbers} is" if len(ranks) == 1 else f"ranks {numbers} are"


class Sentinel:
    """Watches the others for one rank. store: a connection that nobody else uses. prefix: of its keys there.

    calls: collectives asked for so far; moves: what else shows that a rank goes on, of which all need not have as many.
    stall_seconds: how long a rank may be behind, or all stand still; None while ranks work apart.
    on_end(code): called before this process is ended from here.
    """

    def __init__(self, rank: int, size: int, store: "TCPStore", prefix: str) -> None:
        self.rank, self.size = rank, size
        self.calls = self.moves = 0
        self.stall_seconds: float | None = None
        self.on_end: Callable[[int], None] = lambda code: None
        self._store, self._prefix = store, prefix
        self._beat = 0
        self._gone = threading.Event()
        self._using = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def was_here(self) -> bool:
        """Whether a rank of this number has given a sign before."""
        return self._store.check([self._key(self.rank)])

    def wait_for_all(self, seconds: float) -> None:
        """Give the first sign and wait for everybody's. RuntimeError where some do not come."""
        self._sign()
        self._store.wait([self._key(rank) for rank in range(self.size)], timedelta(seconds=seconds))

    def start(self) -> None:
        self._thread.start()

    def leave(self) -> None:
        """This rank has done its work, or said its words: it is not watched any more, and watches nobody."""
        self._gone.set()
        with self._using, contextlib.suppress(RuntimeError):
            self._store.set(self._key(self.rank), _LEFT)

    def tell(self, text: str, code: int) -> bool:
        """Make this the last words of the job, which ends on all ranks with `code`; False if another has had them."""
        try:
            give_up = time.monotonic() + FIRST_WORD_SECONDS
            while self.rank and time.monotonic() < give_up and not self._said():
                time.sleep(0.05)
            with self._using:
                return self._put_words(text, code)
        except RuntimeError:  # the store has gone: others end for that
            return True

    def await_end(self) -> None:
        """Wait to be ended, for as long as it takes to find somebody lost."""
        self._gone.wait(2 * LOST_SECONDS)

    def await_stop(self) -> None:
        """After a signal, wait to be ended because a rank is lost; not where all have had a signal, so none is."""
        keys = [f"{self._prefix}stopped/{rank}" for rank in range(self.size)]
        give_up = time.monotonic() + LOST_SECONDS + 2
        with contextlib.suppress(RuntimeError):  # the store has gone: others end for that
            with self._using:
                self._store.set(keys[self.rank], "")
            while time.monotonic() < give_up and not self._gone.wait(PERIOD / 5):
                with self._using:
                    if self._store.check(keys):
                        return

    @property
    def _words(self) -> str:
        return f"{self._prefix}words"

    def _key(self, rank: int) -> str:
        return f"{self._prefix}sign/{rank}"

    def _said(self) -> bool:
        with self._using:
            return self._store.check([self._words])

    def _put_words(self, text: str, code: int) -> bool:
        words = json.dumps({"rank": self.rank, "text": text, "code": code})
        return self._store.compare_set(self._words, "", words).decode() == words

    def _sign(self) -> None:
        self._beat += 1
        self._store.set(self._key(self.rank), f"{self._beat} {self.calls} {self.moves}")

    def _run(self) -> None:
        others = [rank for rank in range(self.size) if rank != self.rank]
        watch = Watch(time.monotonic())
        while not self._gone.wait(PERIOD):
            try:
                with self._using:
                    if self._gone.is_set():
                        return
                    self._sign()
                    words = json.loads(self._store.get(self._words)) if self._store.check([self._words]) else None
                    found = self._store.multi_get([self._key(rank) for rank in others])
            except RuntimeError:
                self._end(f"rank {self.rank} has lost the launcher", 1, say=True)
                return
            if words is not None:
                if words["rank"] != self.rank:
                    self._end("", words["code"], say=False)
                continue  # its own: the main thread is on its way out
            signs = {rank: sign.decode() for rank, sign in zip(others, found, strict=True)}
            signs[self.rank] = f"{self._beat} {self.calls} {self.moves}"
            if verdict := watch.judge(signs, time.monotonic(), self.stall_seconds):
                self._end(verdict, 1, say=self.tell(verdict, 1))

    def _end(self, text: str, code: int, *, say: bool) -> None:
        if self._gone.is_set():  # it was on its way out
            return
        if say:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(f"speedrun: {text}\n")
                sys.stderr.flush()
        # A disk that hangs must not keep the process.
        timer = threading.Timer(2.0, os._exit, (code,))
        timer.daemon = True
        timer.start()
        with contextlib.suppress(Exception):
            self.on_end(code)
        os._exit(code)
