"""A comparison as text: tables for the terminal and in Markdown, long rows of CSV, and what could not be compared."""

import csv
import io
import math
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group as Renderables
from rich.markup import escape
from rich.table import Table

from benchmarks.comparison import LEGEND, Cell, Comparison, Group, Versus
from benchmarks.rows import PARTS, Part

EXAMPLES = 3  # places and titles that are named where there are many
COLUMNS = (
    "part",
    "what",
    "machine",
    "value",
    "unit",
    "half_width",
    "n",
    "drawn",
    "against",
    "versus",
    "versus_low",
    "versus_high",
    "extras",
    "places",
)


def shown(part: Part, value: float) -> str:
    """A value in the unit that suits it."""
    if part.percent:
        return f"{100 * value:.2f} %"
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if value * scale >= 1:
            return f"{value * scale:.4g} {unit}"
    return f"{value * 1e6:.4g} µs"


def cell_text(part: Part, cell: Cell) -> str:
    """A value with its interval and what that is of."""
    n = len(cell.values)
    drawn = f"{n} {cell.drawn}{'s' if n > 1 else ''}"
    if math.isnan(cell.half_width):
        return f"{shown(part, cell.value)} ({drawn})"
    half = f"{100 * cell.half_width:.2f}" if part.percent else shown(part, cell.half_width)
    return f"{shown(part, cell.value)} ± {half} ({drawn})"


def versus_text(part: Part, versus: Versus | None) -> str:
    """A ratio or a difference with its interval, empty where there is none."""
    if versus is None:
        return ""
    value, low, high = versus.value, versus.low, versus.high
    if part.percent:
        ends = "" if math.isnan(low) else f" [{100 * low:+.2f}, {100 * high:+.2f}]"
        return f"{100 * value:+.2f} points{ends}"
    ends = "" if math.isnan(low) else f" [{low:.3g}, {high:.3g}]"
    return f"{value:.3g}x{ends}"


def extra_text(name: str, value: float | str) -> str:
    """What is shown beside a value."""
    if isinstance(value, str):
        return value
    if name in ("accuracy", "without views") or name.startswith("share"):
        return f"{100 * value:.2f} %"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _lines(group: Group, comparison: Comparison) -> Iterator[tuple[str, ...]]:
    """A line a machine: its name, its value, its ratio, its extras."""
    for machine in comparison.machines:
        if (cell := group.cells.get(machine)) is None:
            continue
        part = group.part
        extras = [f"{name} {extra_text(name, value)}" for name, value in cell.extras.items()]
        versus = versus_text(part, group.versus(machine, comparison.reference))
        yield machine, cell_text(part, cell), versus, ", ".join(extras)


def _against(comparison: Comparison) -> str:
    return f"against {comparison.reference}" if len(comparison.machines) > 1 else ""


def rich(comparison: Comparison, wide: bool) -> Renderables:
    """Tables for a terminal: a part each, a line a machine and measured thing; then what could not be compared.

    wide: with all that is shown beside a value.
    """
    renderables: list[Table | str] = []
    for part in PARTS.values():
        if not (groups := comparison.of(part)):
            continue
        table = Table(title=part.title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column(", ".join(part.fields))
        for name in ("machine", "value", "against the first", "beside")[: 4 if wide else 3]:
            table.add_column(name, overflow="fold")
        for group in groups:
            what = group.values
            for line in _lines(group, comparison):
                table.add_row(escape(what), *map(escape, line[: 4 if wide else 3]))
                what = ""
        renderables.append(table)
    if len(comparison.machines) > 1:
        renderables.append(f"The first: {escape(comparison.reference)}.")
    renderables.append(f"{escape(LEGEND)}\n")
    return Renderables(*renderables, *map(escape, left_out(comparison)))


def left_out(comparison: Comparison) -> list[str]:
    """A line for each reason for which something could not be compared, or was not even read."""
    lines = [f"not read: {fault}" for fault in comparison.faults]
    lines += comparison.notes
    for reason, places in comparison.passed.items():
        lines.append(f"passed over, {reason}: {_some(places)}")
    for (part, machine, reason), titles in comparison.unmatched.items():
        lines.append(f"not compared, {part}, {machine}: {reason}: {_some(titles)}")
    return lines


def _some(names: Sequence[str]) -> str:
    rest = len(names) - EXAMPLES
    return "; ".join(names[:EXAMPLES]) + (f"; and {rest} more" if rest > 0 else "")


def markdown(comparison: Comparison) -> str:
    """The same tables in Markdown."""
    blocks = [
        "## Machines",
        "\n".join(f"- {_cell(name)}: {_cell(about)}" for name, about in comparison.machines.items()),
    ]
    blocks.append(LEGEND)
    for part in PARTS.values():
        if not (groups := comparison.of(part)):
            continue
        against = _cell(_against(comparison))
        rows = [f"| {', '.join(part.fields)} | machine | value | {against} | beside |", "|---|---|---|---|---|"]
        for group in groups:
            for line in _lines(group, comparison):
                rows.append(f"| {' | '.join(map(_cell, (group.values, *line)))} |")
        blocks += [f"## {part.title}", "\n".join(rows)]
    if lines := left_out(comparison):
        blocks += ["## Not compared", "\n".join(f"- {_cell(line)}" for line in lines)]
    return "\n\n".join(blocks) + "\n"


def _cell(text: str) -> str:
    """Text that may come from anybody's record, as what stands between two bars."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def csv_text(comparison: Comparison) -> str:
    """A row a machine and measured thing, numbers bare; seconds, or fractions of 1."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for group in comparison.groups:
        for machine, cell in group.cells.items():
            versus = group.versus(machine, comparison.reference)
            unit = "fraction" if group.part.percent else "seconds"
            half_width = "" if math.isnan(cell.half_width) else cell.half_width
            extras = "; ".join(f"{name}={value}" for name, value in cell.extras.items())
            ends = ("", "", "") if versus is None else _bare(versus)
            against = comparison.reference if versus else ""
            about = (group.part.name, group.title, machine)
            drawn = (cell.value, unit, half_width, len(cell.values), cell.drawn)
            writer.writerow([*about, *drawn, against, *ends, extras, "; ".join(cell.places)])
    return file.getvalue()


def _bare(versus: Versus) -> tuple[float | str, ...]:
    return tuple("" if math.isnan(number) else number for number in (versus.value, versus.low, versus.high))
