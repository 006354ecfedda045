"""Work that goes on in a thread while something else is waited for, such as data read while torch is imported."""

import math
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """A function that runs in a thread; `result` waits for it and raises what it raised.

    TimeoutError where it takes more than `seconds` to end.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._value: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._function()
        except BaseException as error:
            self._error = error

    def result(self, seconds: float = math.inf) -> T:
        give_up = time.monotonic() + seconds
        while self._thread.is_alive():
            if time.monotonic() > give_up:
                raise TimeoutError
            self._thread.join(0.1)  # a join without timeout would keep signals waiting on some systems
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]
