"""Where a training step's time goes, by kind of operation, against what it must take at least; a table and a trace.

    python -m benchmarks.profile [--recipe NAME] [--widths 64,256,256] [--size N] [--batch N] [--trace trace.json]

The floor of an operation is the larger of its multiplications over the measured peak of the matrix units and its
bytes, each tensor once, over the measured copy bandwidth. It is that of the step as written: what the compiler fuses,
or what stays in a cache, may go below. A recipe that leaves its net to the planner is profiled with 64/256/256. The
trace opens in chrome://tracing and ui.perfetto.dev. Nothing is recorded: the profiler slows small operations.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks import breakdown
from benchmarks import step as steps
from benchmarks.breakdown import Work
from benchmarks.harness import copy_bandwidth, in_turn
from benchmarks.kinds import KINDS
from speedrun.errors import SpeedrunError
from speedrun.files import atomic_path
from speedrun.trainee import build

PEAK_SECONDS = 0.5


def table(seconds: Mapping[str, float], works: Mapping[str, Sequence[Work]], peak: float, bandwidth: float) -> str:
    """Markdown: a row a kind of operation, longest first, and the whole step."""
    total = sum(seconds.values())
    rows = ["| operations | ms | share | floor, ms | of the floor | GFLOP | MB |", "|---|---|---|---|---|---|---|"]
    kinds = sorted((kind for kind in KINDS if seconds[kind] or works.get(kind)), key=lambda k: -seconds[k])
    for kind in kinds:
        rows.append(_row(kind, seconds[kind], total, works.get(kind, ()), peak, bandwidth))
    rows.append(_row("the step", total, total, [each for kind in works.values() for each in kind], peak, bandwidth))
    return "\n".join(rows)


def _row(kind: str, seconds: float, total: float, works: Sequence[Work], peak: float, bandwidth: float) -> str:
    floor = sum(each.floor(peak, bandwidth) for each in works)
    times = f"{seconds / floor:.1f}x" if floor else ""
    flops, moved = sum(each.flops for each in works), sum(each.bytes for each in works)
    return (
        f"| {kind} | {1e3 * seconds:.3g} | {seconds / total:.1%} | {1e3 * floor:.3g} | {times} "
        f"| {flops / 1e9:.3g} | {moved / 1e6:.3g} |"
    )


def main() -> int:
    parser = steps.net_parser(__doc__)
    steps.add_step(parser)
    parser.add_argument("--size", type=int, help="pixels a side (default: the last of the resolutions)")
    parser.add_argument("--trace", type=Path, default=Path("trace.json"), help="file to write (default trace.json)")
    options = parser.parse_args()
    machine = steps.open_noise(options)
    choice, base = machine.choice, steps.asked(options.recipe, options, machine)
    config = next(steps.cases(base, machine, steps.given_widths(options, base, one=True)))
    trained = steps.prepared(config, machine)
    size = options.size or trained.resolutions[-1]
    products = steps.peaks(choice.device, choice.dtype)
    calls = {name: call for name, (_, call) in products.items()}
    times = in_turn(calls, choice.device, cold=False, seconds=PEAK_SECONDS)
    peak = max(operations / min(times[name]) for name, (operations, _) in products.items())
    bandwidth = copy_bandwidth(choice.device)
    profile = breakdown.profiled(breakdown.marked(trained, size), choice.device)
    eager = build(dataclasses.replace(config, compile="off"), machine)
    works = breakdown.work(eager.step(), eager.stream(), size)
    print(f"{steps.title(steps.about(trained.config, machine), size)}; peak {peak / 1e12:.3g} TFLOP/s, ", end="")
    print(f"copies {bandwidth / 1e9:.3g} GB/s\n\n{table(profile.seconds, works, peak, bandwidth)}")
    try:
        with atomic_path(options.trace, durable=False) as temporary:  # the profiler does not tell where it cannot write
            profile.profiler.export_chrome_trace(str(temporary))
    except OSError as error:
        raise SpeedrunError(f"{options.trace}: {error.strerror}") from None
    print(f"\n{options.trace}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpeedrunError as error:
        print(f"profile: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
