"""`python -m speedrun plan`: what would be trained in so many seconds, or for an accuracy; nothing is trained."""

import json
import math
import time
from typing import Any

from speedrun import planner
from speedrun.arguments import Parser, take_config
from speedrun.config import Config, as_text, require
from speedrun.errors import UsageError
from speedrun.planner import Situation
from speedrun.summary import percent, rounded

FIELDS = ("recipe", "device", "dtype", "compile", "tta", "data_dir", "dataset", "json")
BUDGETS = "10,60,600"
# What a run does before it trains and this command does not: decode the images and build the net, caches warm.
UNSEEN_SECONDS = 0.5


def parser() -> Parser:
    """The parser of this job."""
    result = Parser("python -m speedrun plan", "Show what would be trained and what is expected of it; train nothing.")
    result.add_argument("--seconds", metavar="N,N", help=f"budgets (default {BUDGETS})")
    result.add_argument("--target", metavar="A,A", help="accuracies such as 0.94,0.95: the seconds that each takes")
    result.add_fields(FIELDS)
    result.add_saved()
    return result


def main(argv: list[str], start: float) -> int:
    """Print a row a budget and a row a target; returns the exit code. Raises UsageError and SpeedrunError."""
    given = vars(parser().parse_args(argv))
    seconds, targets = given.pop("seconds"), _numbers("target", given.pop("target"))
    budgets = _numbers("seconds", BUDGETS if seconds is None and not targets else seconds)
    require(all(0 < target < 1 for target in targets), "a target must be in (0, 1), such as 0.94")
    config = take_config(given)
    situation = _look(config)
    outlook = _Outlook(config, situation, time.monotonic() - start + UNSEEN_SECONDS)
    rows = [outlook.budget(budget) for budget in budgets] + [outlook.target(target) for target in targets]
    if config.json:
        print(json.dumps(rows))
    else:
        print(f"{situation.device}, {situation.flops_per_second / 1e12:.3g} TFLOP/s in training steps of the probe")
        for row in rows:
            print(_line(row))
    return 0


class _Outlook:
    """Plans on this machine. spent: seconds that a run has used before it trains."""

    def __init__(self, config: Config, situation: Situation, spent: float) -> None:
        from speedrun.session import END_MARGIN, SAVE_SECONDS

        self.config = config
        self.situation = situation
        self.overhead = spent + SAVE_SECONDS + END_MARGIN

    def budget(self, seconds: float) -> dict[str, Any]:
        """The plan for a budget, or why there is none."""
        least = planner.least_seconds(self.config, self.situation) + self.overhead
        if seconds < least:
            works = math.ceil(planner.LEAST_MARGIN * least)
            return {"seconds": seconds, "problem": f"too few here: {works} is the least that works"}
        plan = planner.choose(self.config, self.situation, seconds - self.overhead)
        return {"seconds": seconds, **plan.plain()}

    def target(self, accuracy: float) -> dict[str, Any]:
        """The plan that is expected to reach an accuracy soonest, or why there is none."""
        wanted = accuracy + planner.TARGET_MARGIN
        try:
            needed = planner.seconds_for(self.config, self.situation, wanted)
        except UsageError as error:
            return {"target": accuracy, "problem": str(error)}
        if needed is None:
            highest, seconds = planner.reach(self.config, self.situation)
            most = percent(highest - planner.TARGET_MARGIN)
            problem = f"out of reach: the highest is {most}, in about {math.ceil(seconds + self.overhead):,} s"
            return {"target": accuracy, "problem": problem}
        return {"target": accuracy, **self.budget(needed + self.overhead)}


def _look(config: Config) -> Situation:
    """What the planner needs of this machine and of the images. Reads images only where they are not CIFAR-10's."""
    from speedrun import compiler, data, device, probe

    compiler.use_cache(data.default_cache_dir())
    choice = device.choose(config.device, config.dtype)
    device.prepare(choice.device)
    compiled = compiler.compiled_before(device.describe(choice.device)["name"])
    cpu = choice.device.type == "cpu"
    speed = probe.settle_threads(choice.dtype) if cpu else probe.training_flops_per_second(choice.device, choice.dtype)
    if config.dataset in ("auto", "cifar10"):
        return Situation(choice.device.type, speed, compiled=compiled)
    found = data.load(config.dataset, data_dir=config.data_dir)
    return Situation(
        choice.device.type,
        speed,
        image_size=min(found.train_images.shape[1:3]),
        images=len(found.train_images),
        scored=len(found.test_images),
        known=False,
        compiled=compiled,
    )


def _numbers(name: str, text: str | None) -> list[float]:
    """Numbers separated by commas. Raises UsageError."""
    try:
        numbers = [] if text is None else [float(word) for word in text.split(",")]
    except ValueError:
        raise UsageError(f"--{name} takes numbers separated by commas, not {text!r}") from None
    require(all(math.isfinite(number) and number >= 0 for number in numbers), f"--{name}: {text} cannot be")
    return numbers


def _line(row: dict[str, Any]) -> str:
    """A row for a person."""
    aim = percent(row["target"]) if "target" in row else ""
    seconds = f"{rounded(row['seconds'], 4)} s" if "seconds" in row else ""
    head = f"{aim:>8} {seconds:>9}  " if aim else f"{seconds:>18}  "
    if "problem" in row:
        return head + row["problem"]
    expected, epochs = row["expected_accuracy"], row["epochs"]
    widths, pixels = as_text(row["model.widths"], "/"), as_text(row["resolutions"])
    depth = f" depth {as_text(row['model.depth'], '/')}" if "model.depth" in row else ""
    length = "" if epochs is None else f", {rounded(epochs, 2)} epochs"
    cutout = f", cutout {row['augment.cutout']}" if row["augment.cutout"] else ""
    return (
        f"{head}{'?' if expected is None else percent(expected, 1):>6}  {widths}{depth}{length} "
        f"at {pixels} pixels{cutout}, batch {row['batch_size']}, views {row['tta']}, compile {row['compile']}"
    )
