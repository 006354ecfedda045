"""The errors a person can mend. Each is shown as one line, and each knows its exit code. Standard library only."""


class SpeedrunError(Exception):
    """The machine, the files or the data do not allow what was asked. The command line exits with 1."""

    exit_code = 1


class UsageError(SpeedrunError):
    """The words of the command, or the fields of a config, are wrong. The command line exits with 2."""

    exit_code = 2


class BudgetError(UsageError):
    """The seconds cannot suffice. least_seconds: what would, if nothing else changes."""

    def __init__(self, message: str, least_seconds: float) -> None:
        super().__init__(message)
        self.least_seconds = least_seconds

    def __reduce__(self) -> tuple[type["BudgetError"], tuple[str, float]]:
        return type(self), (str(self), self.least_seconds)  # for another process


class DataError(SpeedrunError):
    """A dataset is missing, damaged, truncated or of the wrong shape. The message names the file."""


class FetchError(DataError):
    """A dataset could not be downloaded. The message names every address tried."""


class DivergedError(SpeedrunError):
    """The numbers of a training are no longer finite, and it was given up."""
