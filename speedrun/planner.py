"""What to train in the seconds there are, and how many seconds an accuracy takes.

The planner knows the speed of this machine and a table of measured points: "this net, trained for this many operations,
reached this held-out accuracy". It takes the net whose curve is highest at the operations that the budget affords.
Standard library only.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from speedrun import compilation
from speedrun.compilation import COMPILING, code_name
from speedrun.config import Config, as_text, get, leaf_names, override, require
from speedrun.rungs import SIDE, Rung, choices
from speedrun.summary import percent, rounded

# How many views of an image `speedrun.evaluate` takes. A quarter of the images, the least certain, gets nearly all that
# further views gain (source: github.com/hiverge/cifar10-speedrun); the full six gained 0.8 points on the split. Of the
# mirror alone nothing is known, and nothing promised.
VIEWS = {"none": 1, "mirror": 2, "full": 6}
UNCERTAIN_SHARE = 0.25
VIEWS_GAIN = 0.008
# Largest share of the time left that timing the steps may take.
CALIBRATION_SHARE = 0.02
# What is aimed at above a target, for a mean that lies above it.
TARGET_MARGIN = 0.001
# What several devices are taken to reach of their speeds added up; `benchmarks.scaling_model` measures it of two.
PARALLEL_SHARE = 0.85
# By how much more than what is needed a budget must be to be called the least that works.
LEAST_MARGIN = 1.1
# Dials on which the table's accuracies depend, besides those that it sets itself.
_MATTERS = ("model.", "augment.", "optim.", "select.", "normalise", "validation.patience")
# The dial that suits a net's length alone: neither what the net is nor how long a step takes depends on it.
MOMENTUM = "optim.momentum"
# Seconds in which any net learns all that it can.
_FOREVER = 1e9
# Operations of an image's forward pass: a larger net, made for GPUs, is not the default where only steps are given.
_LARGE = 5e8


@dataclass(frozen=True)
class Situation:
    """What a plan depends on, besides the config and the seconds.

    device: "cpu", "cuda" or another of torch's types. flops_per_second: what the probe reached here. image_size: side
    in pixels. images, scored: number of training images and of images to evaluate. known: whether the table's
    accuracies are of this dataset; else nothing is promised. compiled: `code_name` of what the compile cache holds.
    devices: those that train together, each as fast.
    """

    device: str
    flops_per_second: float
    image_size: int = SIDE
    images: int = 50_000
    scored: int = 10_000
    known: bool = True
    compiled: frozenset[str] = frozenset()
    devices: int = 1

    def speed(self, rung: Rung) -> float:
        """Operations a second of a net. How nets differ from the probe is known of CPUs alone."""
        share = rung.speed if self.device == "cpu" else 1.0
        share *= 1.0 if self.devices == 1 else PARALLEL_SHARE * self.devices
        return self.flops_per_second * share * (SIDE / self.image_size) ** 2  # a larger image costs by its area

    def calibration_flops(self, rung: Rung, sides: Iterable[int]) -> float:
        """Operations of timing resolutions: a step to warm up and one to measure, three forward passes each."""
        passes = sum((side / rung.dials["resolutions"][-1]) ** 2 for side in set(sides))
        return 2 * 3 * passes * rung.dials["batch_size"] * rung.forward_flops


@dataclass(frozen=True)
class Plan:
    """What will be trained, what is expected of it and why it was chosen.

    dials: every config field that the planner filled in or found filled in, by dotted name. epochs: about how many
    passes over the training images fit, None without a deadline. rung: the table's net, None where it knows nothing of
    these dials.
    """

    dials: Mapping[str, Any]
    epochs: float | None
    expected_accuracy: float | None
    reason: str
    rung: Rung | None = field(default=None, repr=False)

    @property
    def tta(self) -> str:
        return self.dials["tta"]

    @property
    def uncertain_share(self) -> float:
        return self.dials["uncertain_share"]

    @property
    def promise(self) -> str:
        """How long it trains and what is expected of it, for a person; empty where neither is known."""
        texts = []
        if self.epochs is not None:
            texts.append(f"about {rounded(self.epochs, 2)} epochs")
        if self.expected_accuracy is not None:
            texts.append(f"about {percent(self.expected_accuracy, 1)} expected")
        return "; ".join(texts)

    def lines(self) -> list[str]:
        """What was chosen and why, for a person."""
        depth = f", depth {as_text(self.dials['model.depth'], '/')}" if "model.depth" in self.dials else ""
        net = f"widths {as_text(self.dials['model.widths'], '/')}{depth}"
        momentum = f", momentum {self.dials[MOMENTUM]:g}" if MOMENTUM in self.dials else ""
        learns = f"{as_text(self.dials['resolutions'])} pixels, cutout {self.dials['augment.cutout']}{momentum}"
        promise = f", {self.promise}" if self.promise else ""
        return [
            f"plan  {net}, batch {self.dials['batch_size']}, {learns}{promise}",
            f"why  {self.reason}; compile {self.dials['compile']}, views at test {self.tta}",
        ]

    def apply(self, config: Config) -> Config:
        """`config` with every open choice filled in."""
        return override(config, dict(self.dials))

    def timed(self, epochs: float, images: int) -> "Plan":
        """This plan, now that its own steps were timed and so many epochs of `images` images fit. Unchanged without a
        deadline, and where the table does not know these dials."""
        if self.rung is None or self.epochs is None:
            return self
        if self.expected_accuracy is None:
            return replace(self, epochs=epochs)
        expected = _expected(self.rung, epochs * _epoch_flops(self.rung, images), self.tta, self.uncertain_share)
        return replace(self, epochs=epochs, expected_accuracy=expected)

    def plain(self) -> dict[str, Any]:
        """The plan as JSON values, for the record."""
        dials = {name: list(value) if isinstance(value, tuple) else value for name, value in self.dials.items()}
        return {
            **dials,
            "epochs": self.epochs,
            "expected_accuracy": self.expected_accuracy,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class _Offer:
    """What a net promises: expected accuracy of 1, training operations that fit and those of them that the config's
    limits leave to it, test views, compile mode."""

    expected: float
    flops: float
    used: float
    rung: Rung
    tta: str
    compile: str


def choose(config: Config, situation: Situation, seconds: float | None, *, rungs: Sequence[Rung] | None = None) -> Plan:
    """Fill in what `config` leaves open. seconds: for calibrating, training and evaluating, None without a deadline.

    Raises UsageError where resolutions, cutout or translate do not fit the images, or SGD or AdamW have no rate.
    """
    filters, rate = config.optim.filters, config.optim.lr
    require(
        filters == "muon" or rate is not None, f"optim.filters={filters} needs optim.lr: the table's rates are Muon's"
    )
    candidates, trusted = _candidates(config, situation, choices(config) if rungs is None else rungs)
    epochs = expected = None
    flops = math.inf
    if seconds is None:
        known = [rung for rung in candidates if rung.measured and rung.forward_flops < _LARGE] or candidates
        rung, tta, mode = max(known, key=lambda rung: rung.dials["model.widths"]), "full", "off"
        reason = f"no deadline: the widest net{'' if known is candidates else ' for CPUs'}; {rung.source}"
    else:
        offer = _best_offer(config, candidates, situation, seconds)
        rung, tta, mode, flops = offer.rung, offer.tta, offer.compile, offer.flops
        fit = offer.flops / _epoch_flops(rung, situation.images)
        epochs = min(fit, _most_epochs(config, rung, situation.images)) if trusted else None
        expected = offer.expected if trusted and situation.known else None
        reason = f"{offer.flops / 1e12:.3g} TFLOP of training fit; {rung.source}"
    dials = rung.dials_for(situation.image_size, situation.images, flops)
    if filters != "muon" and MOMENTUM in dials:  # the table's is Muon's and suits no other
        dials[MOMENTUM] = config.optim.filter_momentum
    dials = {name: value if get(config, name) is None else get(config, name) for name, value in dials.items()}
    # A step that picks images draws several batches.
    most = max(1, situation.images // config.select.batches)
    dials["batch_size"], wished = min(dials["batch_size"], most), dials["batch_size"]
    dials["tta"] = tta if config.tta == "auto" else config.tta
    dials["uncertain_share"] = _share(config)
    dials["compile"] = mode if config.compile == "auto" else config.compile
    _check_sizes(dials, config.augment.translate, situation.image_size)
    if not trusted:
        reason = f"{rung.source if rung.batches else 'dials as asked'}, of which the table knows nothing"
    if wished > most and config.batch_size is not None:
        reason += f"; batch_size {wished} cut to {most}, as many as {situation.images} images give a step"
    return Plan(dials, epochs, expected, reason, rung if trusted else None)


def seconds_for(
    config: Config, situation: Situation, accuracy: float, *, rungs: Sequence[Rung] | None = None
) -> float | None:
    """The fewest seconds of calibrating, training and evaluating that are expected to reach `accuracy`, to 0.1 %.

    None where no net that `config` allows is known to reach it. Raises UsageError where nothing can be expected: of
    other images than CIFAR-10's, or of dials that the table does not know.
    """
    rungs = choices(config) if rungs is None else rungs
    candidates, trusted = _candidates(config, situation, rungs)
    require(trusted and situation.known, "a target needs CIFAR-10 and dials that the planner knows: leave them to it")

    def reached(seconds: float) -> bool:
        # A hair less will do: 0.93 + 0.001 is more than 0.931.
        return _best_offer(config, candidates, situation, seconds).expected >= accuracy - 1e-9

    low, high = least_seconds(config, situation, rungs), _FOREVER
    if not reached(high):
        return None
    if reached(low):
        return low
    while high > 1.001 * low:
        middle = math.sqrt(low * high)
        if reached(middle):
            high = middle
        else:
            low = middle
    return high


def reach(config: Config, situation: Situation, *, rungs: Sequence[Rung] | None = None) -> tuple[float, float]:
    """The highest accuracy that any net which `config` allows is known to reach, and the seconds that it takes here.

    Raises UsageError as `seconds_for` does.
    """
    rungs = choices(config) if rungs is None else rungs
    highest = _best_offer(config, _candidates(config, situation, rungs)[0], situation, _FOREVER).expected
    seconds = seconds_for(config, situation, highest, rungs=rungs)
    assert seconds is not None
    return highest, seconds


def least_seconds(config: Config, situation: Situation, rungs: Sequence[Rung] | None = None) -> float:
    """Seconds below which no net that `config` allows can be timed at a size, trained for a step and evaluated."""

    def least_flops(rung: Rung) -> float:
        calibration = situation.calibration_flops(rung, [min(rung.dials["resolutions"])])
        return calibration + (3 * rung.dials["batch_size"] + situation.scored) * rung.forward_flops

    candidates, _ = _candidates(config, situation, choices(config) if rungs is None else rungs)
    return min(least_flops(rung) / situation.speed(rung) for rung in candidates)


def _candidates(config: Config, situation: Situation, rungs: Sequence[Rung]) -> tuple[Sequence[Rung], bool]:
    """The rungs that agree with what `config` sets, and whether their accuracies hold for it; if none does, those whose
    nets do, and else all. A momentum does not choose the net: one that not all of them have is not the table's."""

    def agreeing(fields: str = "") -> list[Rung]:
        of_each = ((rung, rung.dials_for(situation.image_size, situation.images)) for rung in rungs)
        return [
            rung
            for rung, dials in of_each
            if all(
                get(config, name) in (None, value)
                for name, value in dials.items()
                if name.startswith(fields) and name != MOMENTUM
            )
        ]

    def nets(of: Iterable[Rung]) -> set[tuple[Any, ...]]:
        return {tuple(value for name, value in rung.dials.items() if name.startswith("model.")) for rung in of}

    candidates, asked = agreeing(), get(config, MOMENTUM)
    alike = [rung for rung in candidates if asked in (None, rung.dials.get(MOMENTUM, asked))]
    known = bool(candidates) and nets(alike) == nets(candidates)
    free = set(rungs[0].dials)
    matters = (name for name in leaf_names(Config) if name.startswith(_MATTERS) and name not in free)
    trusted = known and all(get(config, name) == get(Config(), name) for name in matters)
    return (alike if known else candidates) or agreeing("model.") or rungs, trusted


def _best_offer(config: Config, rungs: Iterable[Rung], situation: Situation, seconds: float) -> _Offer:
    """The highest promise for `seconds`: of every net, in every compile mode and with all test views that are open."""
    modes = compilation.modes(situation.device, config, situation.devices)
    views = ["full", "none"] if config.tta == "auto" else [config.tta]
    offers = (_offer(config, rung, tta, mode, situation, seconds) for mode in modes for rung in rungs for tta in views)
    # Past the end of a net's curve all promise the same: then the most training.
    return max(offers, key=lambda offer: (offer.expected, offer.used))


def _offer(config: Config, rung: Rung, tta: str, mode: str, situation: Situation, seconds: float) -> _Offer:
    spent, speed = 0.0, situation.speed(rung)
    compiling = COMPILING.get(situation.device, {}).get(mode)
    if compiling is not None:
        name = code_name(config.model, rung.dials_for(situation.image_size, situation.images), mode)
        spent = compiling.warm_seconds if name in situation.compiled else compiling.cold_seconds
        speed *= compiling.gain
    share = _share(config)
    seen = 1 + share * (VIEWS[tta] - 1)
    whole = speed * (seconds - spent)
    calibration = min(situation.calibration_flops(rung, rung.dials["resolutions"]), CALIBRATION_SHARE * whole)
    flops = whole - calibration - seen * situation.scored * rung.forward_flops
    if flops <= 0:
        return _Offer(0.0, 0.0, 0.0, rung, tta, mode)
    used = min(flops, _most_epochs(config, rung, situation.images) * _epoch_flops(rung, situation.images))
    return _Offer(_expected(rung, used, tta, share), flops, used, rung, tta, mode)


def _expected(rung: Rung, flops: float, tta: str, share: float) -> float:
    """Accuracy of a net at a cost, with the views that `share` of the images get; the table's is with all of them."""
    lost = VIEWS_GAIN * max(0.0, 1 - share / UNCERTAIN_SHARE) if tta == "full" else VIEWS_GAIN
    return max(0.0, rung.expected(flops) - lost)


def _share(config: Config) -> float:
    """The share of the scored images that get further views."""
    if config.uncertain_share is not None:
        return config.uncertain_share
    return UNCERTAIN_SHARE if config.tta == "auto" else 1.0


def _most_epochs(config: Config, rung: Rung, images: int) -> float:
    """The epochs to which `config` limits the training of a net, by epochs or by steps; infinite where it does not."""
    limits = [] if config.epochs is None else [config.epochs]
    if config.steps is not None:
        batch_size = config.batch_size or rung.dials["batch_size"]
        limits.append(config.steps * min(batch_size, images) / images)
    return min(limits, default=math.inf)


def _epoch_flops(rung: Rung, images: int) -> float:
    """Operations of an epoch of training, about: three forward passes an image, each resolution by its area."""
    sides = rung.dials["resolutions"]
    return 3 * images * rung.forward_flops * sum((side / sides[-1]) ** 2 for side in sides) / len(sides)


def _check_sizes(dials: Mapping[str, Any], translate: int, image_size: int) -> None:
    """Raise UsageError for what images of `image_size` pixels cannot give."""
    resolutions, cutout = dials["resolutions"], dials["augment.cutout"]
    shown = as_text(resolutions)
    require(max(resolutions) <= image_size, f"resolutions {shown} are more than the images' {image_size} pixels")
    require(cutout <= image_size, f"augment.cutout {cutout} is more than the images' {image_size} pixels")
    require(translate < image_size, f"augment.translate {translate} does not fit images of {image_size} pixels")
