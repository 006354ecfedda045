"""What other trainings print: the accuracy and the seconds of each run, read from their table line by line.

airbench's scripts (github.com/KellerJordan/cifar10-airbench) and Hiverge's (github.com/hiverge/cifar10-speedrun) print
a table between bars. Its head names the columns, `tta_val_acc` and `time_seconds` (`total_time_seconds` in the older
ones) among them. A run ends with a row whose `epoch` is `eval`. Its number stands in the first row of the run alone, as
does `warmup` for the run that only warms up. Hiverge's rows may stand behind other text. Standard library only.
"""

from typing import NamedTuple

ACCURACY, SECONDS = "tta_val_acc", ("time_seconds", "total_time_seconds")


class Run(NamedTuple):
    """accuracy: fraction of the test set, with all views. seconds: by the script's own clock."""

    accuracy: float
    seconds: float


class Printed:
    """Fills `runs` with those that were finished, in order, without the warm-up."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self._columns: list[str] = []
        self._label = ""

    def feed(self, line: str) -> None:
        """Take in a line. One that is no row of a table, or of no known table, says nothing."""
        cells = [cell.strip() for cell in line.split("|")]
        if ACCURACY in cells:
            self._columns = [cell for cell in cells if cell]
        elif self._columns and len(cells) >= len(self._columns) + 2:
            # A row ends with a bar; what stands before its first one is other text.
            cells = cells[-len(self._columns) - 1 : -1]
            self._row(dict(zip(self._columns, cells, strict=True)))

    def _row(self, row: dict[str, str]) -> None:
        self._label = row.get("run") or self._label
        if row.get("epoch") != "eval":
            return
        if self._label != "warmup":
            seconds = next(row[name] for name in SECONDS if name in row)
            self.runs.append(Run(float(row[ACCURACY]), float(seconds)))
        self._label = ""
