"""The README's generated tables: each stands between two comments that name the command that makes it.

python -m benchmarks.readme          # all tables anew, from the committed records
"""

import sys
from pathlib import Path

from benchmarks import curve, kernels

README = Path(__file__).parent.parent / "README.md"
TABLES = {"curve": curve.table, "kernels": kernels.table}


def written(text: str) -> str:
    """`text` of the README with every table as the records have it now. Raises ValueError where a place is missing."""
    records = curve.recorded()
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}: python -m benchmarks.readme -->\n", f"<!-- /{name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"README.md has no place for the table {name}")
        before, after = text.split(begin)[0], text.split(end)[1]
        rows = table(records)
        text = f"{before}{begin}{rows}\n{end}{after}" if rows else f"{before}{begin}{end}{after}"
    return text


def main() -> int:
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
