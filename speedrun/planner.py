"""What to train in the seconds there are.

The planner knows the speed of this machine and a table of measured points: "this net, trained for this many operations,
reached this held-out accuracy". It takes the net whose curve is highest at the operations that the budget affords.
Standard library only; the table is package data (`planner.json`).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources

from speedrun.config import SMALLEST_SIDE, AugmentConfig, Config, OptimConfig, require

# A quarter of the images, the least certain, gets nearly all that further views gain (source:
# github.com/hiverge/cifar10-speedrun); the six views of `speedrun.evaluate` gained 0.8 points on the split.
UNCERTAIN_SHARE = 0.25
FULL_VIEWS = 6
VIEWS_GAIN = 0.008


@dataclass(frozen=True)
class Point:
    """A measurement: training operations in all, and the accuracy on the images held out (fraction of 1)."""

    flops: float
    accuracy: float


@dataclass(frozen=True)
class Rung:
    """A net with its training dials, and its measured curve, cheapest point first.

    speed: its operations a second as a share of the probe's, on a CPU. forward_flops: operations to evaluate an image.
    accuracies of the points: with all views.
    """

    widths: tuple[int, ...]
    depth: int
    resolutions: tuple[int, ...]
    batch_size: int
    cutout: int
    lr: float
    speed: float
    forward_flops: float
    measured: bool
    source: str
    points: tuple[Point, ...]

    def expected(self, flops: float) -> float:
        """Accuracy at a cost: log-error is interpolated over log-cost; beyond the ends it is cautious.

        Below the cheapest point the slope of the first two goes on; above the dearest, accuracy stays.
        """
        points = self.points
        if flops >= points[-1].flops:
            return points[-1].accuracy
        if len(points) == 1:
            return points[0].accuracy * min(1.0, flops / points[0].flops)
        right = next(i for i in range(1, len(points)) if flops < points[i].flops or i == len(points) - 1)
        low, high = points[right - 1], points[right]
        position = math.log(max(flops, 1.0) / low.flops) / math.log(high.flops / low.flops)
        log_error = (1 - position) * math.log(1 - low.accuracy) + position * math.log(1 - high.accuracy)
        return max(0.1, 1.0 - math.exp(log_error))


@dataclass(frozen=True)
class Plan:
    """What will be trained, what is expected of it and why it was chosen."""

    widths: tuple[int, ...]
    depth: int
    resolutions: tuple[int, ...]
    batch_size: int
    cutout: int
    lr: float
    tta: str
    uncertain_share: float
    compile: str
    expected_accuracy: float | None
    reason: str

    def lines(self) -> list[str]:
        """What was chosen and why, for a person."""
        net = f"widths {'/'.join(map(str, self.widths))}, depth {self.depth}"
        pixels = ",".join(map(str, self.resolutions))
        expected = "" if self.expected_accuracy is None else f"; about {100 * self.expected_accuracy:.1f} % expected"
        return [
            f"plan  {net}, batch {self.batch_size}, {pixels} pixels, cutout {self.cutout}{expected}",
            f"why  {self.reason}; compile {self.compile}, views at test {self.tta}",
        ]

    def apply(self, config: Config) -> Config:
        """`config` with every open choice filled in."""
        model = replace(config.model, widths=self.widths, depth=self.depth)
        augment = replace(config.augment, cutout=self.cutout)
        return replace(
            config,
            model=model,
            augment=augment,
            optim=replace(config.optim, lr=self.lr),
            resolutions=self.resolutions,
            batch_size=self.batch_size,
            tta=self.tta,
            uncertain_share=self.uncertain_share,
            compile=self.compile,
        )


def table() -> list[Rung]:
    """The measured rungs, from package data."""
    text = resources.files("speedrun").joinpath("planner.json").read_text(encoding="utf-8")
    return [_rung(plain) for plain in json.loads(text)["rungs"]]


def _rung(plain: dict) -> Rung:
    points = sorted((Point(point["flops"], point["accuracy"]) for point in plain["points"]), key=lambda p: p.flops)
    return Rung(
        widths=tuple(plain["widths"]),
        depth=plain["depth"],
        resolutions=tuple(plain["resolutions"]),
        batch_size=plain["batch_size"],
        cutout=plain["cutout"],
        lr=plain["lr"],
        speed=plain["speed"],
        forward_flops=plain["forward_flops"],
        measured=plain["measured"],
        source=plain["source"],
        points=tuple(points),
    )


def choose(
    config: Config,
    *,
    device: str,
    seconds: float | None,
    probe_flops: float,
    image_size: int,
    images: int,
    scored: int,
    known: bool = True,
    rungs: Sequence[Rung] | None = None,
) -> Plan:
    """Fill in what `config` leaves open.

    device: "cpu", "cuda" or another of torch's types. seconds: for training and evaluating, None without a deadline.
    probe_flops: operations a second that the probe reached here. image_size: side of the images in pixels.
    images, scored: number of training images and of images to evaluate. known: whether the table's accuracies are of
    this dataset; else nothing is promised.
    Raises UsageError where resolutions, cutout or translate do not fit the images, or SGD has no rate.
    """
    chosen_rate = config.optim.filters == "muon" or config.optim.lr is not None
    require(chosen_rate, "optim.filters=sgd needs optim.lr: the table's rates are Muon's")
    rungs = table() if rungs is None else rungs
    if seconds is None:
        rung, tta, expected = [rung for rung in rungs if rung.measured][-1], "full", None
        reason = "no deadline: the widest net that was measured"
    else:
        offers = [
            # A larger image costs by its area.
            _offer(rung, tta, _speed(rung, device, probe_flops) * (32 / image_size) ** 2, seconds, scored)
            for rung in rungs
            for tta in ("full", "none")
        ]
        expected, flops, rung, tta = max(offers, key=lambda offer: offer[0])
        reason = f"{flops / 1e12:.3g} TFLOP of training fit; {rung.source}"
    if (config.model.widths or rung.widths, config.model.depth or rung.depth) != (rung.widths, rung.depth):
        expected, reason = None, "net as asked"
    if not known or _overridden(config):
        expected = None
    cutout = round(rung.cutout * image_size / 32) if config.augment.cutout is None else config.augment.cutout
    resolutions = config.resolutions or tuple(
        max(round(size * image_size / 32), SMALLEST_SIDE) for size in rung.resolutions
    )
    share = UNCERTAIN_SHARE if config.tta == "auto" else 1.0
    _check_sizes(resolutions, cutout, config.augment.translate, image_size)
    return Plan(
        widths=config.model.widths or rung.widths,
        depth=config.model.depth or rung.depth,
        resolutions=resolutions,
        batch_size=min(config.batch_size or rung.batch_size, images),
        cutout=cutout,
        lr=rung.lr if config.optim.lr is None else config.optim.lr,
        tta=tta if config.tta == "auto" else config.tta,
        uncertain_share=share if config.uncertain_share is None else config.uncertain_share,
        compile=_compile_mode(config, device, seconds),
        expected_accuracy=expected,
        reason=reason,
    )


def _check_sizes(resolutions: Sequence[int], cutout: int, translate: int, image_size: int) -> None:
    """Raise UsageError for what images of `image_size` pixels cannot give."""
    shown = ",".join(map(str, resolutions))
    require(max(resolutions) <= image_size, f"resolutions {shown} are more than the images' {image_size} pixels")
    require(cutout <= image_size, f"augment.cutout {cutout} is more than the images' {image_size} pixels")
    require(translate < image_size, f"augment.translate {translate} does not fit images of {image_size} pixels")


def least_seconds(device: str, probe_flops: float, scored: int, rungs: Sequence[Rung] | None = None) -> float:
    """Seconds below which no net can be calibrated, trained for a step and evaluated. Units as in `choose`."""
    rungs = table() if rungs is None else rungs
    steps = 2 * 3 + 1  # two to calibrate at each of three resolutions, one to train
    return min(
        (3 * steps * rung.batch_size + scored) * rung.forward_flops / _speed(rung, device, probe_flops)
        for rung in rungs
    )


def _speed(rung: Rung, device: str, probe_flops: float) -> float:
    """Operations a second of a net. How nets differ from the probe is known of CPUs alone."""
    return probe_flops * (rung.speed if device == "cpu" else 1.0)


def _overridden(config: Config) -> bool:
    """Whether a dial on which the table's accuracies depend was set by hand."""
    augment, optim = AugmentConfig(cutout=config.augment.cutout), OptimConfig(lr=config.optim.lr)
    dials = (config.batch_size, config.resolutions, config.augment.cutout, config.optim.lr)
    return any(dial is not None for dial in dials) or (config.augment, config.optim) != (augment, optim)


def _offer(rung: Rung, tta: str, speed: float, seconds: float, scored: int) -> tuple[float, float, Rung, str]:
    """(expected accuracy, training operations that fit, rung, tta) at `speed` operations a second."""
    seen = 1 + UNCERTAIN_SHARE * (FULL_VIEWS - 1) if tta == "full" else 1.0
    flops = speed * seconds - seen * scored * rung.forward_flops
    gain = 0.0 if tta == "full" else -VIEWS_GAIN
    return (rung.expected(flops) + gain if flops > 0 else 0.0, flops, rung, tta)


def _compile_mode(config: Config, device: str, seconds: float | None) -> str:
    """Compilation takes up to a minute for three resolutions and gains a fifth on a GPU; on a CPU eager was faster."""
    if config.compile != "auto":
        return config.compile
    if device != "cuda" or seconds is None or seconds < 240:
        return "off"
    return "default"
