"""How long a process takes to end on a machine that others keep busy. Standard library only."""

import time

# Processor seconds that giving back a process's memory takes, of which this many are in the usual margins.
EXIT_SECONDS = 0.05
IN_MARGINS = 0.35
LOOK_SECONDS = 1.0  # between two looks
LONGEST = 2.0  # more would cost short runs their training, to save what is late already


class Pressure:
    """What share of the processor a process gets of what it asks for, as Linux counts it for the main thread."""

    def __init__(self, process: int | str = "self") -> None:
        self._path = f"/proc/{process}/schedstat"
        self._seen = self._read()
        self._looked = time.monotonic()
        self.share = 1.0

    def exit_seconds(self) -> float:
        """Seconds that ending takes beyond the usual margins: with an eighth of a processor 0.05 s become 0.4."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            ran, waited = (new - old for new, old in zip(self._read(), self._seen, strict=True))
            if ran + waited > 0.01 * (now - self._looked):  # what sleeps asks for nothing
                self.share = max(ran / (ran + waited), 1e-3)
                self._seen = self._read()
            self._looked = now
        return min(max(0.0, EXIT_SECONDS / self.share - IN_MARGINS), LONGEST)

    def _read(self) -> tuple[float, float]:
        """Seconds on a processor, and seconds of waiting for one; zeros where nobody counts them."""
        try:
            with open(self._path, encoding="ascii") as file:
                ran, waited = file.read().split()[:2]
        except (OSError, ValueError):
            return 0.0, 0.0
        return int(ran) / 1e9, int(waited) / 1e9
