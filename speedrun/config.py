"""What a run is: frozen dataclasses, checked on construction. Standard library only.

The command line, the saved config.json and the documentation come from these fields. A field that is None is chosen
by the planner (or found on the machine); a field that is set is kept. `--set model.depth=3` reaches any of them.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from speedrun import fields, files
from speedrun.errors import SpeedrunError, UsageError
from speedrun.fields import (
    Checked,
    as_text,
    differences,
    from_dict,
    get,
    leaf_names,
    option,
    override,
    require,
    to_dict,
)
from speedrun.selection import SelectConfig

# Those of `fields` are here as well: for whoever uses a config, they are about configs.
__all__ = [
    "LARGEST_CUTOUT",
    "SEED_LIMIT",
    "SMALLEST_SIDE",
    "STAGES",
    "AugmentConfig",
    "Config",
    "DistributedConfig",
    "ModelConfig",
    "OptimConfig",
    "SelectConfig",
    "ValidationConfig",
    "as_text",
    "convert",
    "differences",
    "field_type",
    "from_dict",
    "get",
    "leaf_names",
    "load",
    "override",
    "require",
    "to_dict",
]

SEED_LIMIT = 2**32
# Whitening takes one pixel off the side, and three groups halve what is left.
SMALLEST_SIDE = 9
LARGEST_CUTOUT = 32
# The families of nets, with the number of stages of each; None where it is free.
STAGES: dict[str, int | None] = {"speednet": 3, "mynet": 3, "dsnet": None, "resnet": None}


def _sizes(values: tuple[int, ...], count: int) -> bool:
    """Whether these are `count` sizes, each at least 1."""
    return len(values) == count > 0 and min(values) > 0


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The net. Which fields a family reads: its module in speedrun/models, which has the source of its numbers too."""

    family: str = option("speednet", "family of nets: a module of speedrun/models", choices=tuple(STAGES))
    widths: tuple[int, ...] | None = option(None, "channels of each stage")
    depth: int | tuple[int, ...] | None = option(
        None, "speednet: convolutions in a stage, 2, or 3 with a residual; one number, or one a stage: 2,2,3"
    )
    blocks: tuple[int, ...] | None = option(None, "residual blocks of each stage")
    kernels: tuple[int, ...] | None = option(None, "resnet: kernel of the convolutions of each stage, 3 where not set")
    skip_kernels: tuple[int, ...] | None = option(None, "resnet: kernel of each stage's projection, 1 where not set")
    pool: int | None = option(None, "resnet: kernel of the average pool at 32 pixels, the whole map where not set")
    stem: str = option("cifar", "resnet: 3x3, or ImageNet's 7x7 and pooling", choices=("cifar", "imagenet"))
    dropout: float = option(0.0, "share of the features that the last layer does not see in training")
    activation: str = option("gelu", "activation", choices=("gelu", "silu", "relu"))
    fused: tuple[str, ...] = option(
        (),
        "speednet: parts in Triton kernels, on CUDA; not yet timed on one. norm: pooling, BN and activation; conv: the "
        "first group's convolution with them; whiten: whitening and activation, once its bias is frozen",
        choices=("norm", "conv", "whiten"),
    )
    fp8: int | None = option(
        None,
        "speednet: convolutions of as many input channels or more multiply 8-bit floats in training, on CUDA of "
        "capability 8.9; not yet timed on one",
    )
    parameter_limit: int | None = option(None, "number of parameters that the net must stay below")

    def __post_init__(self) -> None:
        if self.depth in ((2, 2, 2), (3, 3, 3)):  # the planner's table knows these by one number
            object.__setattr__(self, "depth", self.depths[0])
        super().__post_init__()

    def check(self) -> None:
        deep = self.depth is None or (set(self.depths) <= {2, 3} and len(self.depths) == 3)
        require(deep, f"model.depth must be 2 or 3, or three of these, not {as_text(self.depth)}")
        require(self.fp8 is None or self.fp8 >= 1, f"model.fp8 must be at least 1, not {self.fp8}")
        require(0 <= self.dropout < 1, f"model.dropout must be in [0, 1), not {self.dropout}")
        fixed = STAGES[self.family]
        stages = fixed or len(self.widths or ())
        takes = "three" if fixed else "a positive number for each stage"
        require(self.widths is None or _sizes(self.widths, stages), f"model.widths takes {takes}")
        for name in ("blocks", "kernels", "skip_kernels"):
            value = getattr(self, name)
            require(value is None or _sizes(value, stages), f"model.{name} takes one number a stage, {stages} in all")
            even = name != "blocks" and any(size % 2 == 0 for size in value or ())
            require(not even, f"model.{name} must be odd, for a map to keep its size")
        side = (32 if self.stem == "cifar" else 8) >> max(stages - 1, 0)  # of the last map, for images of 32 pixels
        require(side >= 1, f"{stages} stages halve 32 pixels too often")
        fits = self.pool is None or (self.pool >= 1 and side % self.pool == 0)
        require(fits, f"model.pool must divide the {side} pixels of the last map, not {self.pool}")

    @property
    def depths(self) -> tuple[int, ...]:
        """The depth of each of speednet's three stages. Raises UsageError where none is set."""
        depth = self.need("depth")
        return depth if isinstance(depth, tuple) else (depth,) * 3

    def need(self, name: str) -> Any:
        """A field that the family cannot do without. Raises UsageError where it is not set."""
        value = getattr(self, name)
        require(value is not None, f"a net of family {self.family} needs model.{name}")
        return value


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
        fits = self.cutout is None or 0 <= self.cutout <= LARGEST_CUTOUT
        require(fits, f"augment.cutout must be in 0..{LARGEST_CUTOUT}, not {self.cutout}")


@dataclass(frozen=True)
class OptimConfig(Checked):
    """How the net is trained.

    Muon's companion SGD has rates for the loss summed over the batch, which hold for any batch size; the source of
    these numbers is github.com/KellerJordan/cifar10-airbench, airbench94_muon. Where SGD or AdamW trains everything,
    rate, decay and clipping are the textbook's, for the mean loss.
    """

    filters: str = option(
        "muon", "muon: it trains the filters, SGD the rest; sgd, adamw: it trains all", choices=("muon", "sgd", "adamw")
    )
    lr: float | None = option(None, "peak rate of the filters (0.24 where the planner says nothing), or of all")
    momentum: float | None = option(
        None, "Nesterov momentum of the filters (0.6 where the planner says nothing), or of all; AdamW's first beta"
    )
    newton_schulz_steps: int = option(3, "Newton-Schulz iterations of Muon")
    fused: bool = option(False, "Muon: Newton-Schulz of all filters in Triton kernels, on CUDA; not yet timed on one")
    bias_lr: float = option(0.053, "peak rate of the biases")
    head_lr: float = option(0.67, "peak rate of the last layer")
    sgd_momentum: float = option(0.85, "Nesterov momentum of biases and last layer")
    weight_decay: float = option(2e-6, "decoupled decay a training image of biases and last layer; or the decay of all")
    label_smoothing: float = option(0.2, "label smoothing")
    whiten_bias: float = option(0.375, "share of the run in which the whitening bias is trained")
    schedule: str = option("linear", "how the rate falls", choices=("linear", "cosine", "step", "fixed"))
    warmup: float = option(0.0, "share of the run in which the rate rises to its peak")
    start_lr: float = option(0.2, "rate at the start of the rise, as a share of the peak")
    clip: float = option(0.0, "largest norm of the gradient; 0 for any")
    ema: float = option(0.0, "decay a step of the averaged weights that are evaluated; 0 for none")
    lookahead: int = option(0, "steps between two in which the net is set back to its slow weights; 0 for none")
    sam: float = option(0.0, "sharpness-aware steps of this radius, each the cost of two; 0 for none")
    sam_adaptive: bool = option(False, "the radius scaled by each weight's own size, as in ASAM")

    def check(self) -> None:
        for name in ("lr", "bias_lr", "head_lr", "weight_decay", "clip", "lookahead", "sam"):
            require((getattr(self, name) or 0.0) >= 0, f"optim.{name} must not be negative")
        for name in ("momentum", "sgd_momentum", "ema", "warmup"):
            require(0 <= (getattr(self, name) or 0.0) < 1, f"optim.{name} must be in [0, 1)")
        for name in ("label_smoothing", "whiten_bias", "start_lr"):
            require(0 <= getattr(self, name) <= 1, f"optim.{name} must be in [0, 1]")
        require(self.newton_schulz_steps >= 1, "optim.newton_schulz_steps must be at least 1")

    @property
    def filter_lr(self) -> float:
        """The rate of the filters that holds."""
        return 0.24 if self.lr is None else self.lr

    @property
    def filter_momentum(self) -> float:
        """The momentum of the filters that holds."""
        return 0.6 if self.momentum is None else self.momentum

    def lr_for(self, factor: float) -> float:
        """The rate that suits a batch `factor` times as large.

        SGD's follows the batch, for it is of the mean loss (Goyal et al., arXiv 1706.02677). Steps of Muon and AdamW
        have one length whatever the batch; they follow the noise of their direction, by the root (Malladi et al., arXiv
        2205.10287). Rates of Muon's companion are of the summed loss and stay.
        """
        return self.filter_lr * (factor if self.filters == "sgd" else math.sqrt(factor))


@dataclass(frozen=True)
class ValidationConfig(Checked):
    """What is scored on held-out images while the net trains. The final accuracy is not of these."""

    count: int = option(0, "scorings of a tenth of the training images, held out, spread evenly over the run")
    patience: int | None = option(None, "scorings without a gain after which training stops; the best weights stay")
    delta: float = option(0.0, "least gain in accuracy that counts, as a fraction of 1")

    def check(self) -> None:
        require(self.count >= 0, f"validation.count must not be negative, not {self.count}")
        require(self.patience is None or self.patience >= 1, "validation.patience must be at least 1")
        require(0 <= self.delta < 1, f"validation.delta is a fraction of 1, not {self.delta}")

    @property
    def times(self) -> int:
        """Scorings in a whole run: `count`, or fifty where a patience has none to go by."""
        return self.count or (0 if self.patience is None else 50)


@dataclass(frozen=True)
class DistributedConfig(Checked):
    """How the processes that torchrun starts work together."""

    sync_batch_norm: bool = option(False, "normalise by the whole batch, not by each device's part of it")
    stall_seconds: float = option(
        120.0, "how long a rank may keep the others waiting, or all stand still, before the job ends"
    )

    def check(self) -> None:
        require(self.stall_seconds > 0, f"distributed.stall_seconds must be more than 0, not {self.stall_seconds}")


@dataclass(frozen=True)
class Config(Checked):
    """One run, whole."""

    seconds: float | None = option(None, "wall-clock seconds, from process start to exit (default 600)", flag=True)
    target: float | None = option(None, "accuracy to reach in as few seconds as possible, such as 0.94", flag=True)
    steps: int | None = option(None, "training steps at most; without --seconds there is no deadline", flag=True)
    epochs: float | None = option(None, "passes over the training images at most; else as --steps", flag=True)
    recipe: str = option("speednet", "recipe; `python -m speedrun recipes` lists them", flag=True)
    seed: int = option(0, "root seed of everything random", flag=True)
    runs: int = option(1, "runs in one process, each with its own seed and its own seconds", flag=True)
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps", flag=True)
    dtype: str = option("auto", "compute dtype", flag=True, choices=("auto", "float32", "float16", "bfloat16"))
    compile: str = option(
        "auto",
        "torch.compile mode; captured: only a CUDA graph of the step",
        flag=True,
        choices=("auto", "off", "captured", "default", "max-autotune"),
    )
    tta: str = option("auto", "views at test", flag=True, choices=("auto", "none", "mirror", "full"))
    data_dir: Path | None = option(None, "folder that holds the dataset", flag=True, metavar="DIR")
    dataset: str = option("auto", "auto, cifar10, cifar100, synthetic or a .npz file", flag=True)
    out: Path | None = option(None, "folder for the results (default runs/<time>-<recipe>)", flag=True, metavar="DIR")
    resume: Path | None = option(None, "folder of an interrupted run to go on with", metavar="DIR")
    holdout: bool = option(False, "train on 9/10 of the training images, report on the rest", flag=True)
    holdout_fold: int = option(0, "which tenth of the training images --holdout takes away, 0 to 9")
    quiet: bool = option(False, "print nothing but warnings", flag=True)
    json: bool = option(False, "print the record, one line of JSON, as the only thing on stdout", flag=True)
    dry_run: bool = option(False, "print the plan and stop before training", flag=True)
    batch_size: int | None = option(None, "images a step")
    resolutions: tuple[int, ...] | None = option(None, "sides in pixels, equal shares of the run, last one at test")
    uncertain_share: float | None = option(None, "share of the images, the least certain, that get further views")
    normalise: bool = option(True, "shift and scale pixels to mean 0 and deviation 1; else they stay in 0..1")
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    select: SelectConfig = field(default_factory=SelectConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    def check(self) -> None:
        require(self.seconds is None or self.seconds >= 0, "seconds must not be negative")
        require(self.steps is None or self.steps >= 1, "steps must be at least 1")
        require(self.epochs is None or self.epochs > 0, "epochs must be more than 0")
        require(self.target is None or 0 < self.target < 1, f"target must be in (0, 1): 0.94, not {self.target}")
        require(0 <= self.seed < SEED_LIMIT, f"seed must be in 0..{SEED_LIMIT - 1}, not {self.seed}")
        require(self.runs >= 1, "runs must be at least 1")
        require(0 <= self.holdout_fold < 10, f"holdout_fold must be in 0..9, not {self.holdout_fold}")
        require(self.seed + self.runs <= SEED_LIMIT, f"the last run's seed would be over {SEED_LIMIT - 1}")
        require(self.batch_size is None or self.batch_size >= 1, "batch_size must be at least 1")
        share = self.uncertain_share
        require(share is None or 0 <= share <= 1, "uncertain_share must be in [0, 1]")
        sizes = self.resolutions
        too_small = sizes is not None and (not sizes or min(sizes) < SMALLEST_SIDE)
        require(not too_small, f"resolutions must be {SMALLEST_SIDE} pixels or more")
        proxy, stages = self.select.widths, STAGES[self.model.family] or len(self.model.widths or ())
        fits = proxy is None or stages in (0, len(proxy))
        require(fits, f"select.widths takes one number a stage, {stages} in all")

    @property
    def counted(self) -> bool:
        """Whether steps or epochs limit the training; without seconds there is no deadline then."""
        return self.steps is not None or self.epochs is not None

    @property
    def budget(self) -> float | None:
        """Seconds of wall clock, or None where only the training is limited or a target decides."""
        return 600.0 if self.seconds is None and self.target is None and not self.counted else self.seconds


def load(path: Path) -> Config:
    """Read a saved config.json. Raises UsageError that names the file."""
    try:
        plain = files.read_sealed(path, optional=True)
    except SpeedrunError as error:
        raise UsageError(str(error)) from None
    try:
        return from_dict(Config, plain)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def field_type(name: str) -> Any:
    """The type of a field by its dotted name, without None. Raises UsageError for an unknown field."""
    return fields.field_type(Config, name)


def convert(name: str, value: Any) -> Any:
    """A text or a JSON value as the value of a field. Raises UsageError."""
    return fields.convert(Config, name, value)
