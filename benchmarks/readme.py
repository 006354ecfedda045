"""The README's generated tables: each stands between two comments that name the command that makes it.

python -m benchmarks.readme          # all tables and the picture anew, from the committed records
"""

import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import curve, curve_picture, scaling_model, standings, systems
from benchmarks.results import by_newest_commit, recorded
from benchmarks.rows import apart, host, machine, place, step_name
from speedrun.errors import SpeedrunError

README = Path(__file__).parent.parent / "README.md"


def steps(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a device and net, at its largest size; the medians of all that a commit has measured."""

    def key(step: dict[str, Any]) -> tuple[Any, ...]:
        what = (step["recipe"], step_name(step), step["batch"], step["dtype"], step["compile"])
        return machine(step), *what

    groups = by_newest_commit((each for each in records if each["kind"] == "step"), key)
    if not groups:
        return ""
    rows = [
        "| device | net | pixels | batch | dtype, compile | ms | images/s | TFLOP/s | of the peak | MiB | most of it |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (where, recipe, net, batch, dtype, compiled), measured in groups.items():
        size = max(step["size"] for step in measured)
        same = [step for step in measured if step["size"] == size]
        seconds = statistics.median(step["seconds"]["median"] for step in same)
        flops, share = (statistics.median(step[name] for step in same) for name in ("flops_per_second", "peak_share"))
        memory, breakdown = same[-1]["memory"], same[-1]["breakdown"]
        longest = sorted(breakdown, key=lambda kind: -breakdown[kind])[:2]
        most = ", ".join(f"{kind} {breakdown[kind]:.0%}" for kind in longest)
        taken = "" if memory is None else f"{memory / 2**20:,.0f}"
        rows.append(
            f"| {where} | {recipe} {net} | {size} | {batch} | {dtype}, {compiled} | {1e3 * seconds:.3g} "
            f"| {batch / seconds:,.0f} | {flops / 1e12:.3g} | {share:.0%} | {taken} | {most} |"
        )
    return "\n".join(rows)


def soak(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a machine, its newest soak."""
    newest: dict[str, dict[str, Any]] = {}
    for each in sorted(records, key=lambda each: each["started"]):
        if each["kind"] == "soak":
            newest[f"{each['device']['name']}, {each['device']['cores']} cores"] = each
    if not newest:
        return ""
    names = ("deadlines", "signals", "resumed", "overruns", "losses", "scant", "damages", "undetected")
    rows = [
        "| machine | minutes | runs with a deadline and a fault | ended by a signal | resumed | overruns | losses "
        "| refused or stopped in time | damaged files | undetected |",
        "|---" * (2 + len(names)) + "|",
    ]
    for where, each in newest.items():
        counts = " | ".join(f"{each['values'][name]:,}" for name in names)
        rows.append(f"| {where} | {each['settings']['minutes']:g} | {counts} |")
    return "\n".join(rows)


def kernels(records: Sequence[dict[str, Any]]) -> str:
    """Markdown for each device: the newest medians of augmentation, caches flushed, for 512 and 2,048 images of 32
    pixels."""
    return _kernels(
        [each for each in records if each["kind"] == "kernel"], lambda batch, size: batch in (512, 2048) and size == 32
    )


def training_kernels(records: Sequence[dict[str, Any]]) -> str:
    """The same of the kernels of training, each at its one size."""
    return _kernels([each for each in records if each["kind"] == "training_kernel"], lambda batch, size: True)


def _kernels(records: Sequence[dict[str, Any]], shown: Callable[[int, int], bool]) -> str:
    def key(line: dict[str, Any]) -> tuple[str, str, str]:
        threads = f", {line['values']['threads']} threads" if line["device"]["kind"] == "cpu" else ""
        return line["device"]["name"], threads, line["row"]["operation"]

    each_row = [
        {**line, "row": row}
        for line in sorted(records, key=lambda each: each["started"])
        for row in line["values"]["rows"]
    ]
    order = list(dict.fromkeys(place(line["row"]) for line in each_row))
    devices_of: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for (name, threads, _), lines in by_newest_commit(each_row, key).items():
        devices_of[name, threads] += lines
    parts = []
    for (name, threads), lines in devices_of.items():
        lines.sort(key=lambda each: each["started"])
        torch = lines[-1]["versions"]["torch"]
        same = [line for line in lines if line["versions"]["torch"] == torch]
        rows = [line["row"] for line in same if line["row"]["cold"] and "error" not in line["row"]]
        newest = {place(row): row for row in rows if shown(row["batch"], row["size"])}
        copied = _range([line["values"]["copy_bytes_per_second"] / 1e9 for line in same])
        about = f"{name}{threads}, torch {torch}, copies {copied} GB/s"
        ordered = {key: newest[key] for key in order if key in newest}
        parts.append(f"{about}; milliseconds a batch:\n\n{_medians(ordered)}")
    return "\n\n".join(parts)


def _range(values: Sequence[float]) -> str:
    """From the least to the most, to a tenth."""
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def _medians(newest: dict[tuple[str, str, int, int], dict[str, Any]]) -> str:
    """A row an operation and batch, a column a contender."""
    columns = list(dict.fromkeys(key[1] for key in newest))
    lines = [f"| operation | batch | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    order = list(dict.fromkeys(key[0] for key in newest))
    places = {(key[0], *key[2:]) for key in newest}
    for name, batch, size in sorted(places, key=lambda place: (order.index(place[0]), place[1])):
        cells = [newest.get((name, column, batch, size)) for column in columns]
        medians = [f"{cell['median'] * 1e3:.3g}" if cell else "" for cell in cells]
        lines.append(f"| {name} | {batch:,} | {' | '.join(medians)} |")
    return "\n".join(lines)


TABLES = {
    "curve": curve.table,
    "targets": curve.target_table,
    "records": standings.table,
    "kernels": kernels,
    "training-kernels": training_kernels,
    "steps": steps,
    "systems": systems.table,
    "soak": soak,
    "devices": scaling_model.table,
}


def written(text: str) -> str:
    """`text` of the README with every table as the records have it now. Raises ValueError where a place is missing."""
    records = recorded()
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}: python -m benchmarks.readme -->\n", f"<!-- /{name} -->"
        if begin not in text or end not in text:
            raise ValueError(f"README.md has no place for the table {name}")
        before, after = text.split(begin)[0], text.split(end)[1]
        rows = table(records)
        text = f"{before}{begin}{rows}\n{end}{after}" if rows else f"{before}{begin}{end}{after}"
    return text


def pooled(records: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each device whose records are of several computers: the tables take them together."""
    hosts: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for each in records:
        if each["device"]:
            hosts[machine(each)].append(host(each))
    lines = []
    for name, found in hosts.items():
        if told := sorted(words.removeprefix(", ") for words in apart(found).values() if words):
            lines.append(f"{name}: records of several computers: {'; '.join(told)}")
    return lines


def main() -> int:
    records = recorded()
    for line in pooled(records):
        print(line, file=sys.stderr)
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
    if not curve_picture.shows(curve_picture.PATH, records):
        curve_picture.draw(records)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpeedrunError as error:
        print(f"readme: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
