"""What is done to an image, as a constant that kernels are specialised by. Every default is off."""

import math
from dataclasses import dataclass

FLIPS = ("none", "random", "alternating", "always")
PADDINGS = ("reflect", "edge", "zero")
POLICIES = ("none", "trivial")
MIX_PER = ("sample", "batch")
_WHOLE = ("size", "translate", "cutout", "hole_count", "hole_size")
_PROBABILITIES = ("affine", "tone", "hue", "grayscale", "holes", "mixup", "cutmix", "ricap")
_ALPHAS = ("mixup_alpha", "cutmix_alpha", "ricap_alpha")
_AMOUNTS = (
    "affine_shift",
    "affine_scale",
    "affine_rotate",
    "brightness",
    "contrast",
    "hue_shift",
    "saturation_shift",
    "value_shift",
)


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of a training image. Raises ValueError when a field is out of its range or of another type.

    Order: policy, crop (translate), mirror, affine, down-sample, brightness and contrast, hue, grayscale, normalise,
    erase, mix. Fields that are named after an operation and end at 1 are its probability for each image.
    """

    size: int = 32  # side of the output in pixels; below the input's, a bilinear down-sampling of the crop
    flip: str = "none"  # mirror: "random"; "alternating": random in epoch 0, then the other side every epoch; "always"
    translate: int = 0  # shift by a uniform integer in [-translate, translate] along each axis
    padding: str = "reflect"  # what lies outside the image: "reflect" (border not repeated), "edge", "zero" (black)
    cutout: int = 0  # side, in output pixels, of a square inside the image that is 0 after normalising
    holes: float = 0.0  # coarse dropout: `hole_count` such squares of side `hole_size`
    hole_count: int = 8
    hole_size: int = 8
    affine: float = 0.0  # shift, scale and rotate about the centre
    affine_shift: float = 0.0625  # at most, as a share of the side
    affine_scale: float = 0.1  # factor in 1 +- this
    affine_rotate: float = 15.0  # degrees, at most
    tone: float = 0.0  # brightness and contrast: value * (1 +- contrast) +- brightness, of 0..1, then clipped
    brightness: float = 0.2
    contrast: float = 0.2
    hue: float = 0.0  # each of hue, saturation and value plus a uniform number of +- its shift
    hue_shift: float = 20 / 360  # of a whole turn
    saturation_shift: float = 30 / 255  # of 0..1
    value_shift: float = 20 / 255  # of 0..1
    grayscale: float = 0.0
    policy: str = "none"  # "trivial": one of TrivialAugment's fourteen operations an image, at a random strength
    mixup: float = 0.0  # at most one of the three mixes an image, so these add up to at most 1
    cutmix: float = 0.0
    ricap: float = 0.0
    mixup_alpha: float = 0.2  # Beta(alpha, alpha) of the weight, the area, the boundaries
    cutmix_alpha: float = 1.0
    ricap_alpha: float = 0.3
    mix_per: str = "sample"  # "sample": keyed by (seed, epoch, image); "batch": one draw a batch, keyed by (seed, step)

    def __post_init__(self) -> None:
        for name in _WHOLE:
            _require(_is_whole(getattr(self, name)), f"{name} must be a whole number, not {getattr(self, name)!r}")
        for name in (*_PROBABILITIES, *_AMOUNTS, *_ALPHAS):
            _require(_is_finite(getattr(self, name)), f"{name} must be a finite number, not {getattr(self, name)!r}")
        for name in _PROBABILITIES:
            _require(0 <= getattr(self, name) <= 1, f"{name} is a probability, not {getattr(self, name)}")
        _require(self.mixup + self.cutmix + self.ricap <= 1 + 1e-9, "mixup, cutmix and ricap add up to more than 1")
        for name, choices in (("flip", FLIPS), ("padding", PADDINGS), ("policy", POLICIES), ("mix_per", MIX_PER)):
            value = getattr(self, name)
            _require(value in choices, f"{name} must be one of {', '.join(choices)}, not {value!r}")
        _require(self.size >= 1, f"size must be at least 1, not {self.size}")
        _require(0 <= self.cutout <= self.size, f"cutout must lie in 0..size ({self.size}), not {self.cutout}")
        _require(not self.holes or 1 <= self.hole_count <= 32, f"hole_count must lie in 1..32, not {self.hole_count}")
        _require(not self.holes or 1 <= self.hole_size <= self.size, f"hole_size must lie in 1..size ({self.size})")
        _require(0 <= self.affine_scale < 1, f"affine_scale must lie in 0..1, not {self.affine_scale}")
        for name in ("translate", *_AMOUNTS):
            _require(getattr(self, name) >= 0, f"{name} must not be negative: {getattr(self, name)}")
        for name in _ALPHAS:
            _require(0.05 <= getattr(self, name) <= 20, f"{name} must lie in 0.05..20, not {getattr(self, name)}")

    @property
    def warps(self) -> bool:
        """Whether pixels may come from fractional coordinates even at the input's size."""
        return self.affine > 0 or self.policy != "none"

    @property
    def colours(self) -> bool:
        """Whether a channel's value may depend on the others'."""
        return self.tone > 0 or self.hue > 0 or self.grayscale > 0 or self.policy != "none"

    @property
    def erases(self) -> bool:
        """Whether some pixels become 0."""
        return self.cutout > 0 or self.holes > 0

    @property
    def mixup_end(self) -> int:
        """The 24-bit number below which an image's draw means MixUp."""
        return round(self.mixup * 2**24)

    @property
    def cutmix_end(self) -> int:
        """The same for CutMix, from `mixup_end` on."""
        return round((self.mixup + self.cutmix) * 2**24)

    @property
    def ricap_end(self) -> int:
        """The same for RICAP, from `cutmix_end` on."""
        return round((self.mixup + self.cutmix + self.ricap) * 2**24)

    @property
    def members(self) -> int:
        """How many images, and labels, make up one of the batch: 1, 2 or 4."""
        return 4 if self.ricap > 0 else 2 if self.mixup > 0 or self.cutmix > 0 else 1


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
