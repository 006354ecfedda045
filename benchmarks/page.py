"""A comparison as one page: `page.html` with the numbers put into it. It needs no network and stays under 500 KB."""

import json
import math
from pathlib import Path
from typing import Any

from benchmarks.comparison import LEGEND, Cell, Comparison, Group
from benchmarks.kinds import KINDS
from benchmarks.rows import PARTS

TEMPLATE = Path(__file__).parent / "page.html"
PLACE = "/*DATA*/"
LIMIT = 480_000  # bytes of the numbers: a phone on a slow line must get the page in a few seconds
DIGITS = 5
DRAWN = ("run", "session", "part")
EXAMPLES = 2
MOST = 300  # lines that say what is left out, of each sort; characters of a line


def page(comparison: Comparison) -> str:
    """HTML. What would make the page too large is left out, the rows of fewest machines first, and it says so."""
    data: dict[str, Any] = {
        "machines": list(comparison.machines),
        "about": list(comparison.machines.values()),
        "kinds": KINDS,
        "drawn": DRAWN,
        "faults": _some([[line[:MOST]] for line in comparison.faults + comparison.notes]),
        "passed": _some(
            [[why, len(places), ", ".join(places[:EXAMPLES])] for why, places in comparison.passed.items()]
        ),
        "unmatched": _some(
            [[part, machine, why, len(rows), rows[0]] for (part, machine, why), rows in comparison.unmatched.items()]
        ),
        "parts": [
            {
                "name": part.name,
                "title": part.title,
                "percent": part.percent,
                "fields": part.fields,
                "extras": [*part.extras, "tree"],
                "groups": [],
            }
            for part in PARTS.values()
        ],
        "omitted": 0,
        "legend": LEGEND,
    }
    left = LIMIT - len(_plain(data))
    homes = {part["name"]: part["groups"] for part in data["parts"]}
    order = list(PARTS)
    for group in sorted(comparison.groups, key=lambda each: (order.index(each.part.name), -len(each.cells))):
        packed = _packed(group, comparison)
        left -= len(_plain(packed)) + 1
        if left < 0:
            data["omitted"] += 1
        else:
            homes[group.part.name].append(packed)
    return TEMPLATE.read_text(encoding="utf-8").replace(PLACE, _plain(data))


def _some(rows: list[list[Any]]) -> dict[str, Any]:
    """The first rows of a table, and how many it has: a damaged file may have a fault a line."""
    return {"count": len(rows), "rows": rows[:MOST]}


def _plain(value: Any) -> str:
    """JSON that may stand inside a script, whoever chose the names in it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _packed(group: Group, comparison: Comparison) -> dict[str, Any]:
    """A group in few bytes; a cell is [machine, value, half width, count, drawn, versus, low, high, extras, shares]."""
    names = [*group.part.extras, "tree"]
    cells = []
    for number, machine in enumerate(comparison.machines):
        if (cell := group.cells.get(machine)) is not None:
            versus = group.versus(machine, comparison.reference)
            ratio = [None] * 3 if versus is None else [_short(x) for x in (versus.value, versus.low, versus.high)]
            extras = [_short(cell.extras.get(name)) for name in names]
            while extras and extras[-1] is None:
                extras.pop()
            cells.append([number, *_head(cell), *ratio, extras, *_shares(cell)])
    return {"key": group.key, "cells": cells}


def _head(cell: Cell) -> list[Any]:
    return [_short(cell.value), _short(cell.half_width), len(cell.values), DRAWN.index(cell.drawn)]


def _shares(cell: Cell) -> list[list[float]]:
    return [[round(cell.breakdown.get(kind, 0.0), 3) for kind in KINDS]] if cell.breakdown else []


def _short(value: Any) -> Any:
    """A number to so many digits, None for one that is not known."""
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{DIGITS}g}")
    return int(short) if short.is_integer() else short
