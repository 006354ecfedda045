"""What evaluating takes: images a second with one view, and with all views of the least certain quarter; a record.

    python -m benchmarks.evaluation [--quick] [--recipe NAME] [--widths 64,256,256] [--no-record]

Nets are those of `benchmarks.step`, not compiled, as in a run, at the last of their resolutions. Images are noise.
"""

import dataclasses
import math
import sys
from typing import Any

from benchmarks import step as steps
from benchmarks.harness import Call, Session, Timing, in_turn, report
from benchmarks.rows import net_name
from speedrun import config as configs
from speedrun.errors import SpeedrunError
from speedrun.planner import UNCERTAIN_SHARE
from speedrun.trainee import Trainee, build

IMAGES, QUICK_IMAGES = 10_000, 1_000
VIEWS = "full"


def measure(trained: Trainee, count: int, seconds: float) -> list[dict[str, Any]]:
    """The rows of a record: `count` images with one view each, and with all views of the least certain of them."""
    evaluator = trained.evaluator(trained.machine.train_images[:count])

    def all_views() -> object:
        plain = evaluator.plain()
        return evaluator.with_views(plain, VIEWS, UNCERTAIN_SHARE, time_left=lambda: math.inf, view_seconds=0.0)

    calls: dict[str, Call] = {"one": evaluator.plain, f"all, of {UNCERTAIN_SHARE:.0%}": all_views}
    device, config = trained.machine.choice.device, configs.to_dict(trained.config)
    rows = []
    for views, times in in_turn(calls, device, cold=False, seconds=seconds, ahead=False).items():
        about = {
            "recipe": trained.config.recipe,
            "net": net_name(config["model"]),
            "pixels": trained.resolutions[-1],
            "views": views,
            "batch": evaluator.batch_size,
            "dtype": str(trained.machine.choice.dtype).removeprefix("torch."),
        }
        timing = dataclasses.asdict(Timing.of(times))
        rows.append({"about": about, "seconds": timing, "runs": times, "images": count})
    return rows


def line(row: dict[str, Any]) -> str:
    """A row for a person."""
    about, median = row["about"], row["seconds"]["median"]
    return (
        f"{about['recipe']} {about['net']}, {about['pixels']} pixels, {about['dtype']}, views {about['views']}: "
        f"{row['images']:,} images in {median:.3g} s, {row['images'] / median:,.0f} a second"
    )


def main() -> int:
    parser = steps.net_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each of the two")
    parser.add_argument("--quick", action="store_true", help="one net, a tenth of the images")
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args()
    machine = steps.open_noise(options)
    session, base = Session(machine.choice.device), steps.asked(options.recipe, options, machine)
    count = QUICK_IMAGES if options.quick else IMAGES
    for config in steps.cases(base, machine, steps.given_widths(options, base, one=options.quick)):
        trained = build(config, machine)
        session.begin()
        rows = measure(trained, count, options.seconds)
        print("\n".join(map(line, rows)), flush=True)
        settings = {"config": configs.to_dict(config), "images": count}
        report(session.line("evaluation", settings, rows=rows), keep=not options.no_record)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpeedrunError as error:
        print(f"evaluation: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
