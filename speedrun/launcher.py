"""What torchrun, where it started this process, says and does by its environment. Standard library only."""

import os
from pathlib import Path

# From the end of the last of its processes to its own, on a busy machine: it looks for them ten times a second.
EXIT_SECONDS = 1.5


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def threads_given() -> bool:
    """Whether somebody has chosen OMP_NUM_THREADS: torchrun itself sets it to 1 for several processes where nobody has.

    The environment that torchrun was started with tells (Linux alone; elsewhere the variable counts as chosen).
    """
    if "OMP_NUM_THREADS" not in os.environ:
        return False
    if not launched():
        return True
    try:
        given = Path(f"/proc/{os.getppid()}/environ").read_bytes()
    except OSError:
        return True
    return any(variable.startswith(b"OMP_NUM_THREADS=") for variable in given.split(b"\0"))
