"""What `kernels.augment` asks of the kernel, or of its twin: one batch, every part of it checked."""

from typing import NamedTuple

from torch import Tensor

from kernels.augmentation import Augmentation
from kernels.mixing import Mixed
from kernels.philox import Key


class Request(NamedTuple):
    """A batch of B images to be made. A tuple: one is made every step, and frozen dataclasses take three times as long.

    Where images are mixed, labels and weights are written too.
    """

    images: Tensor  # uint8 (N, H, W, 3), the data set
    rows: Tensor  # int64 (B,), the images of the batch: a tuple cannot call them `index`
    augmentation: Augmentation
    mean: Tensor  # float32 (3,), as std
    std: Tensor
    out: Tensor  # (B, 3, size, size) in channels-last memory format
    seed: Key = 0
    epoch: Key = 0
    offset: tuple[int, int] = (0, 0)  # (dy, dx), by which all images are shifted
    mixed: Mixed | None = None
