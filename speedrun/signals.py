"""Ctrl-C and SIGTERM: the first asks the run to end well, the second ends it at once. Standard library only."""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

# After what time a signal is sent once more whose exception was lost: the callback that lost it is over by then.
AGAIN_SECONDS = 0.05


class Interrupted(BaseException):
    """Raised by a signal in a phase that cannot stop by itself. Not an Exception: nothing on the way may swallow it.

    exit_code: 130 for SIGINT, 143 for SIGTERM.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


class Signals:
    """Context manager that handles SIGINT and SIGTERM while a run is on, and restores the handlers after it.

    While `gentle` is True a signal only sets `received`, and the loop looks at it; otherwise it raises `Interrupted`,
    a little later where the interpreter would drop it: in a finaliser or the callback of a weak reference.
    In a thread other than the main one, where Python allows no handlers, nothing is handled.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.gentle = False
        self._previous: dict[int, Any] = {}
        self._told = sys.unraisablehook
        self._again: threading.Timer | None = None

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process ended by this signal: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + (self.received or 0)

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
            self._told, sys.unraisablehook = sys.unraisablehook, self._lost
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._again:  # whoever handles signals next has nothing to do with this one
            self.gentle = True
            self._again.cancel()
            self._again.join()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._previous:
            sys.unraisablehook = self._told

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)  # files are renamed into place, so none is half-written
        self.received = number
        if not self.gentle:
            raise Interrupted(number)

    def _lost(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Send the signal once more whose exception was lost: imports have many weak references, with callbacks."""
        lost = unraisable.exc_value
        if not isinstance(lost, Interrupted):
            self._told(unraisable)
            return
        self._again = threading.Timer(AGAIN_SECONDS, self._send, (lost.exit_code - 128,))
        self._again.daemon = True
        self._again.start()

    def _send(self, number: int) -> None:
        if not self.gentle:  # else the loop sees what was received
            self.received = None
            os.kill(os.getpid(), number)
