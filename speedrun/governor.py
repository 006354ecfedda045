"""How many CPU threads a step should use beside other busy processes. Standard library only."""

# A step this many times slower than calibrated means that threads wait for one that lost its core.
STALLED = 3.0
# With all threads again, a step must come within this of its calibration to keep them.
RECOVERED = 2.0
FIRST_PATIENCE = 10


class Governor:
    """Halves the threads when steps stall, and tries all of them again after ever longer whiles.

    Every parallel region waits for its slowest thread. Where another process holds one of two cores, a step with two
    threads was seen to take 4 to 200 times its time, and a step with one thread twice its time.
    """

    def __init__(self, threads: int) -> None:
        self.all = threads
        self.threads = threads
        self._patience = FIRST_PATIENCE
        self._steps_left = 0
        self._trying = False

    def observe(self, slowdown: float) -> int:
        """Threads for the next step, after one that took `slowdown` times its calibrated seconds."""
        if self.threads < self.all:
            self._steps_left -= 1
            if self._steps_left == 0:
                self.threads = self.all
        elif slowdown > (RECOVERED if self._trying else STALLED) and self.all > 1:
            self._patience = 2 * self._patience if self._trying else FIRST_PATIENCE
            self._steps_left = self._patience
            self.threads = self.all // 2
            self._trying = True
        else:
            self._trying = False
        return self.threads
