"""What is done to an image, as a constant that kernels are specialised by. Every default is off."""

from __future__ import annotations

from dataclasses import dataclass

FLIPS = ("none", "random", "alternating")
PADDINGS = ("reflect", "edge", "zero")


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of a training image. Raises ValueError when a field is out of its range.

    Order: crop (translate), mirror, down-sample, normalise, cut out.
    """

    size: int = 32  # side of the output in pixels; below the input's, a bilinear down-sampling of the crop
    flip: str = "none"  # mirror: "random", or "alternating": random in epoch 0, then the other way every epoch
    translate: int = 0  # shift by a uniform integer in [-translate, translate], each axis
    padding: str = "reflect"  # what lies outside the image: "reflect" (border not repeated), "edge", "zero" (black)
    cutout: int = 0  # side, in output pixels, of a square that becomes 0 after normalising; it lies inside the image

    def __post_init__(self) -> None:
        _require(self.size >= 1, f"size must be at least 1, not {self.size}")
        _require(self.flip in FLIPS, f"flip must be one of {', '.join(FLIPS)}, not {self.flip!r}")
        _require(self.padding in PADDINGS, f"padding must be one of {', '.join(PADDINGS)}, not {self.padding!r}")
        _require(self.translate >= 0, f"translate must not be negative: {self.translate}")
        _require(0 <= self.cutout <= self.size, f"cutout must lie in 0..size ({self.size}), not {self.cutout}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
