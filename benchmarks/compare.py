"""Machines compared, from their files of records: tables, a picture, one page for a browser.

    python -m benchmarks.compare A.jsonl B.jsonl ... [--markdown F] [--csv F] [--png F] [--html F]

The first machine of the first file is what the others are held against. Times are compared where recipe, net, pixels,
batch and dtype are equal; accuracy at N seconds and time to a target where data set, split, N or target, and clock
are, whatever each machine's planner chose; a time in which the target was missed on the mean is shown, and held
against nobody's. What cannot be compared is listed with the reason, a line that cannot be read with its file and
number; neither stops the rest.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from benchmarks import page, pictures, tables
from benchmarks.comparison import compare
from speedrun.errors import SpeedrunError
from speedrun.files import write_text

WIDE = 120  # columns of a terminal that has room for all


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="benchmarks/results/<device>.jsonl")
    for name, what in (("markdown", "tables"), ("csv", "all numbers"), ("png", "a picture"), ("html", "one page")):
        parser.add_argument(f"--{name}", type=Path, metavar="PATH", help=f"write {what}")
    options = parser.parse_args(argv)
    comparison = compare(options.files)
    console = Console(highlight=False, emoji=False)  # `x.jsonl:100:` is the place of a fault and no face
    console.print(tables.rich(comparison, wide=console.width >= WIDE))
    texts = ((options.markdown, tables.markdown), (options.csv, tables.csv_text), (options.html, page.page))
    try:
        for path, text in texts:
            if path:
                write_text(path, text(comparison))
        if options.png:
            pictures.draw(comparison, options.png)
    except OSError as error:
        raise SpeedrunError(f"{error.filename}: {error.strerror}") from None
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpeedrunError as error:
        print(f"compare: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
