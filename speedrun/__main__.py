"""`python -m speedrun`: reads the clock, then calls the command line; its watchdog starts before torch is imported."""

import contextlib
import os
import sys

from speedrun.clock import job_start


def main() -> None:
    """The console script. Ends the process itself: tearing torch down takes a while that belongs to the training."""
    start = job_start()
    from speedrun import cli

    code = cli.main(sys.argv[1:], start, guard_exit=True)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
