"""What a run is: frozen dataclasses, checked on construction. Standard library only.

The command line, the saved config.json and the documentation come from these fields. A field that is None is chosen
by the planner (or found on the machine); a field that is set is kept. `--set model.depth=3` reaches any of them.
"""

import json
import types
import typing
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from speedrun.errors import UsageError

SEED_LIMIT = 2**32
# Whitening takes one pixel off the side, and three groups halve what is left.
SMALLEST_SIDE = 9

T = TypeVar("T")


def option(
    default: Any, help: str, *, flag: bool = False, choices: tuple[str, ...] = (), metavar: str | None = None
) -> Any:
    """A dataclass field with its one line of documentation; `flag` gives it a flag of its own on the command line."""
    return field(default=default, metadata={"help": help, "flag": flag, "choices": choices, "metavar": metavar})


class Checked:
    """Checks each field against its declared choices, then calls `check` for what one field alone cannot say."""

    def __post_init__(self) -> None:
        for spec in fields(self):  # type: ignore[arg-type]
            choices = spec.metadata.get("choices")
            value = getattr(self, spec.name)
            if choices and value not in choices:
                raise UsageError(f"{spec.name} must be one of {', '.join(choices)}, not {value!r}")
        self.check()

    def check(self) -> None:
        """Raise UsageError where the values do not fit together."""


def require(condition: bool, message: str) -> None:
    """Raise UsageError with `message` unless `condition` holds."""
    if not condition:
        raise UsageError(message)


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The net. Sources of the numbers: the module of each family in speedrun/models."""

    family: str = option("speednet", "family of nets: a module of speedrun/models", choices=("speednet",))
    widths: tuple[int, ...] | None = option(None, "channels of each group")
    depth: int | None = option(None, "convolutions in a group: 2, or 3 with a residual")
    activation: str = option("gelu", "activation", choices=("gelu", "silu", "relu"))

    def check(self) -> None:
        require(self.depth in (None, 2, 3), f"model.depth must be 2 or 3, not {self.depth}")
        require(self.widths is None or (len(self.widths) == 3 and min(self.widths) > 0), "model.widths takes three")


@dataclass(frozen=True)
class AugmentConfig(Checked):
    """What is done to a training image, on the device."""

    flip: str = option("alternating", "left-right mirroring", choices=("none", "random", "alternating"))
    translate: int = option(2, "largest shift in pixels, each way")
    padding: str = option("reflect", "what a shift brings in", choices=("reflect", "edge", "zero"))
    cutout: int | None = option(None, "side of the erased square in pixels, 0 for none")
    affine: float = option(0.0, "probability of a shift, scale and rotation")
    tone: float = option(0.0, "probability of another brightness and contrast")
    hue: float = option(0.0, "probability of another hue, saturation and value")
    grayscale: float = option(0.0, "probability of losing all colour")
    holes: float = option(0.0, "probability of coarse dropout: eight erased squares")
    policy: str = option("none", "TrivialAugment: one of fourteen operations an image", choices=("none", "trivial"))
    mixup: float = option(0.0, "probability of MixUp; the three mixes exclude each other")
    cutmix: float = option(0.0, "probability of CutMix")
    ricap: float = option(0.0, "probability of RICAP")
    mix_per: str = option("sample", "mix by image, or one draw a batch", choices=("sample", "batch"))

    def check(self) -> None:
        for name in ("affine", "tone", "hue", "grayscale", "holes", "mixup", "cutmix", "ricap"):
            require(0 <= getattr(self, name) <= 1, f"augment.{name} is a probability, not {getattr(self, name)}")
        require(
            self.mixup + self.cutmix + self.ricap <= 1 + 1e-9, "augment.mixup, cutmix and ricap add up to more than 1"
        )
        require(0 <= self.translate < 16, f"augment.translate must be in 0..15, not {self.translate}")
        require(self.cutout is None or 0 <= self.cutout <= 32, f"augment.cutout must be in 0..32, not {self.cutout}")


@dataclass(frozen=True)
class OptimConfig(Checked):
    """Rates are for the loss summed over the batch, so they hold for any batch size.

    Source of the numbers: github.com/KellerJordan/cifar10-airbench, airbench94_muon.
    """

    filters: str = option("muon", "optimiser of the filters; SGD takes the rest", choices=("muon", "sgd"))
    lr: float | None = option(None, "peak rate of the filters (0.24 for Muon where the planner says nothing)")
    momentum: float = option(0.6, "Nesterov momentum of the filters")
    newton_schulz_steps: int = option(3, "Newton-Schulz iterations of Muon")
    bias_lr: float = option(0.053, "peak rate of the biases")
    head_lr: float = option(0.67, "peak rate of the last layer")
    sgd_momentum: float = option(0.85, "Nesterov momentum of biases and last layer")
    weight_decay: float = option(2e-6, "decoupled decay a training image, for biases and last layer")
    label_smoothing: float = option(0.2, "label smoothing")
    whiten_bias: float = option(0.375, "share of the run in which the whitening bias is trained")
    warmup: float = option(0.0, "share of the run in which the rate rises to its peak")
    start_lr: float = option(0.2, "rate at the start of the rise, as a share of the peak")
    ema: float = option(0.0, "decay a step of the averaged weights that are evaluated; 0 for none")

    def check(self) -> None:
        for name in ("lr", "bias_lr", "head_lr", "weight_decay"):
            require((getattr(self, name) or 0.0) >= 0, f"optim.{name} must not be negative")
        for name in ("momentum", "sgd_momentum", "ema", "warmup"):
            require(0 <= getattr(self, name) < 1, f"optim.{name} must be in [0, 1)")
        for name in ("label_smoothing", "whiten_bias", "start_lr"):
            require(0 <= getattr(self, name) <= 1, f"optim.{name} must be in [0, 1]")
        require(self.newton_schulz_steps >= 1, "optim.newton_schulz_steps must be at least 1")

    @property
    def filter_lr(self) -> float:
        """The rate of the filters that holds."""
        return 0.24 if self.lr is None else self.lr


@dataclass(frozen=True)
class Config(Checked):
    """One run, whole."""

    seconds: float | None = option(None, "wall-clock seconds, from process start to exit (default 600)", flag=True)
    steps: int | None = option(None, "training steps at most; without --seconds there is no deadline", flag=True)
    recipe: str = option("speednet", "recipe; `python -m speedrun recipes` lists them", flag=True)
    seed: int = option(0, "root seed of everything random", flag=True)
    runs: int = option(1, "runs in one process, each with its own seed and its own seconds", flag=True)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps", flag=True)
    dtype: str = option("auto", "compute dtype", flag=True, choices=("auto", "float32", "float16", "bfloat16"))
    compile: str = option("auto", "torch.compile mode", flag=True, choices=("auto", "off", "default", "max-autotune"))
    tta: str = option("auto", "views at test", flag=True, choices=("auto", "none", "mirror", "full"))
    data_dir: Path | None = option(None, "folder that holds the dataset", flag=True, metavar="DIR")
    dataset: str = option("auto", "auto, cifar10, cifar100, synthetic or a .npz file", flag=True)
    out: Path | None = option(None, "folder for the results (default runs/<time>-<recipe>)", flag=True, metavar="DIR")
    holdout: bool = option(False, "train on 9/10 of the training images, report on the rest", flag=True)
    quiet: bool = option(False, "print nothing but warnings", flag=True)
    json: bool = option(False, "print the record, one line of JSON, as the only thing on stdout", flag=True)
    dry_run: bool = option(False, "print the plan and stop before training", flag=True)
    batch_size: int | None = option(None, "images a step")
    resolutions: tuple[int, ...] | None = option(None, "sides in pixels, equal shares of the run, last one at test")
    uncertain_share: float | None = option(None, "share of the images, the least certain, that get further views")
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    def check(self) -> None:
        require(self.seconds is None or self.seconds >= 0, "seconds must not be negative")
        require(self.steps is None or self.steps >= 1, "steps must be at least 1")
        require(0 <= self.seed < SEED_LIMIT, f"seed must be in 0..{SEED_LIMIT - 1}, not {self.seed}")
        require(self.runs >= 1, "runs must be at least 1")
        require(self.seed + self.runs <= SEED_LIMIT, f"the last run's seed would be over {SEED_LIMIT - 1}")
        require(self.batch_size is None or self.batch_size >= 1, "batch_size must be at least 1")
        share = self.uncertain_share
        require(share is None or 0 <= share <= 1, "uncertain_share must be in [0, 1]")
        sizes = self.resolutions
        too_small = sizes is not None and (not sizes or min(sizes) < SMALLEST_SIDE)
        require(not too_small, f"resolutions must be {SMALLEST_SIDE} pixels or more")

    @property
    def budget(self) -> float | None:
        """Seconds of wall clock, or None where only the steps are limited."""
        return 600.0 if self.seconds is None and self.steps is None else self.seconds


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain JSON values; `from_dict` is its inverse."""
    plain: dict[str, Any] = {}
    for spec in fields(config):
        value = getattr(config, spec.name)
        if is_dataclass(value):
            value = to_dict(value)
        elif isinstance(value, Path):
            value = str(value)
        elif isinstance(value, tuple):
            value = list(value)
        plain[spec.name] = value
    return plain


def from_dict(kind: type[T], plain: Any, prefix: str = "") -> T:
    """Build a config from plain JSON values. Raises UsageError that names the dotted field."""
    require(isinstance(plain, dict), f"{prefix.removesuffix('.') or 'a config'} must be an object, not {plain!r}")
    hints = typing.get_type_hints(kind)
    values = {}
    for name, value in plain.items():
        if name not in hints:
            raise UsageError(f"unknown field {prefix}{name}{_suggest(name, hints)}")
        if is_dataclass(hints[name]):
            values[name] = from_dict(hints[name], value, f"{prefix}{name}.")
        else:
            values[name] = _convert(hints[name], value, prefix + name)
    return kind(**values)


def load(path: Path) -> Config:
    """Read a saved config.json. Raises UsageError that names the file."""
    try:
        return from_dict(Config, json.loads(path.read_text(encoding="utf-8")))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path}: not JSON ({error})") from None


def override(config: Config, assignments: dict[str, Any]) -> Config:
    """Set fields by dotted name, text or value: {"seconds": "60", "model.widths": "32,128,256"}."""
    for name, value in assignments.items():
        config = _set(config, name.split("."), value, name)
    return config


def _set(config: Any, path: list[str], value: Any, name: str) -> Any:
    hints = typing.get_type_hints(type(config))
    head, *rest = path
    if head not in hints:
        known = leaf_names(Config)
        raise UsageError(f"unknown field {name}{_suggest(name, known)}")
    if is_dataclass(hints[head]) != bool(rest):
        raise UsageError(f"{name} is {'a group of fields' if not rest else 'not a field'}")
    new = _set(getattr(config, head), rest, value, name) if rest else _convert(hints[head], value, name)
    return replace(config, **{head: new})


def leaf_names(kind: Any, prefix: str = "") -> list[str]:
    """Dotted names of all fields."""
    names = []
    for name, hint in typing.get_type_hints(kind).items():
        names += leaf_names(hint, f"{prefix}{name}.") if is_dataclass(hint) else [prefix + name]
    return names


def _suggest(name: str, known: typing.Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _convert(hint: Any, value: Any, name: str) -> Any:
    """`value` (text from the command line, or a JSON value) as the type that the field declares."""
    optional = isinstance(hint, types.UnionType) and type(None) in typing.get_args(hint)
    if optional:
        if value is None or (isinstance(value, str) and value.lower() in ("none", "auto")):
            return None
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    try:
        return _CONVERTERS[hint](value)
    except (ValueError, TypeError):
        raise UsageError(f"{name} takes {_DESCRIPTIONS[hint]}, not {value!r}") from None


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if str(value).lower() not in words:
        raise ValueError
    return words[str(value).lower()]


def _int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _float(value: Any) -> float:
    number = float(value)
    if isinstance(value, bool) or number != number or number in (float("inf"), float("-inf")):
        raise ValueError
    return number


def _ints(value: Any) -> tuple[int, ...]:
    return tuple(_int(part) for part in (value.split(",") if isinstance(value, str) else value))


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return value


_CONVERTERS: dict[Any, Any] = {bool: _bool, int: _int, float: _float, str: _str, Path: Path, tuple[int, ...]: _ints}
_DESCRIPTIONS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    tuple[int, ...]: "whole numbers separated by commas",
}
