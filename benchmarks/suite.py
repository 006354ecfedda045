"""Everything that is measured of a machine, by one command; the records are those of the benchmarks it runs.

    python -m benchmarks.suite [--quick] [--only PART ...] [--device cuda] [--again]

Parts: kernels (of augmentation), training-kernels, step (of every recipe), evaluation, startup, target (time to 94 %),
accuracy (at 10, 60 and 600 seconds). A part that is recorded of this commit on this machine is not run again, and of
target and accuracy, which take longest, no run that is recorded; of a changed checkout, or outside one, nothing counts
as recorded. `--again` measures all. A part that fails stops no other. `--quick` takes under five minutes on two cores.
Nothing else should run on the machine meanwhile.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import results
from benchmarks.children import child, command
from speedrun import record
from speedrun.errors import SpeedrunError


@dataclass(frozen=True)
class Part:
    """A benchmark, with what it is given beside the device, whole and quick."""

    module: str
    whole: tuple[str, ...] = ()
    quick: tuple[str, ...] = ("--quick",)

    def command(self, quick: bool, device: str) -> list[str]:
        """The words after `python`."""
        return ["-m", f"benchmarks.{self.module}", *(self.quick if quick else self.whole), "--device", device]


def _curve(aims: str, seeds: int) -> tuple[str, ...]:
    # Where the data set is missing a run makes images up, which says nothing of the machine's accuracy.
    return (*aims.split(), "--seeds", str(seeds), "--dataset", "cifar10", "--resume")


PARTS = {
    "kernels": Part("kernels"),
    "training-kernels": Part("training_kernels"),
    "step": Part("step", ("--recipe", "all")),
    "evaluation": Part("evaluation"),
    "startup": Part("startup"),
    "target": Part("curve", _curve("--target 0.94", 5), _curve("--target 0.8", 1)),
    "accuracy": Part("curve", _curve("--seconds 10,60,600", 3), _curve("--seconds 10", 1)),
}


def done(line: dict[str, Any], records: Sequence[dict[str, Any]]) -> bool:
    """Whether a part that `line` would record is recorded: the same command, machine, software and commit."""
    same = ("kind", "part", "command", "device", "versions", "git")
    made = any(all(other.get(name) == line[name] for name in same) for other in records)
    return made and results.repeatable(line["git"])


def run(name: str, quick: bool, device: str, again: bool) -> int:
    """Run a part unless it is recorded, and record that it ended well; its exit code."""
    program = PARTS[name].command(quick, device)
    line = record.envelope("suite", results.this_device(device))
    line |= {"part": name, "quick": quick, "command": program, "wall_seconds": 0.0}
    if not again and done(line, results.recorded()):
        print(f"{name}: recorded; --again measures it once more", flush=True)
        return 0
    words = [word for word in program if not (again and word == "--resume")]
    print(f"\n{name}: python {' '.join(words)}", flush=True)
    start = time.monotonic()
    with child([sys.executable, *words], seconds=math.inf) as process:
        code = process.wait()
    line["wall_seconds"] = time.monotonic() - start
    print(f"{name}: {'ended' if code == 0 else f'failed with {code}'} after {line['wall_seconds']:.0f} s", flush=True)
    if code == 0:
        results.add(line)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the short form of each part")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--again", action="store_true", help="measure what is recorded once more")
    options = parser.parse_args()
    names = options.only or list(PARTS)
    failed = [name for name in names if run(name, options.quick, options.device, options.again)]
    slug = record.device_slug(results.this_device(options.device)["name"])
    print(f"\npython -m benchmarks.compare benchmarks/results/{slug}.jsonl")
    if failed:
        raise SpeedrunError(f"failed: {', '.join(failed)}")
    return 0


if __name__ == "__main__":
    sys.exit(command("suite", main))
