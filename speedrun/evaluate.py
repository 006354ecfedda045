"""Logits of a test set, with further views for the images that need them, and accuracy."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kernels.augment import view
from speedrun import memory
from speedrun.stream import Normalization

# (mirrored, (dy, dx)) with its weight: half the mirror average, half the mean of two 1-pixel diagonal shifts, mirrored.
# Source: github.com/KellerJordan/cifar10-airbench.
PLAIN: tuple[bool, tuple[int, int]] = (False, (0, 0))
VIEWS: dict[str, dict[tuple[bool, tuple[int, int]], float]] = {
    "none": {PLAIN: 1.0},
    "mirror": {PLAIN: 0.5, (True, (0, 0)): 0.5},
    "full": {
        PLAIN: 0.25,
        (True, (0, 0)): 0.25,
        (False, (-1, -1)): 0.125,
        (True, (-1, -1)): 0.125,
        (False, (1, 1)): 0.125,
        (True, (1, 1)): 0.125,
    },
}


# Images a batch. On a CPU the maps of so many stay in its cache: per image 500 took 1.2 to 2 times as long, with nets
# of 0.02 to 1.6 GFLOP. On a GPU it is what fills the device.
CPU_BATCH, GPU_BATCH = 125, 2000


class Evaluator:
    """Runs a net over uint8 images (N, H, W, 3) on their device, in batches."""

    def __init__(
        self,
        net: nn.Module,
        images: Tensor,
        *,
        normalization: Normalization,
        dtype: torch.dtype,
        size: int,
        batch_size: int | None = None,
    ) -> None:
        """batch_size: None for what the device takes well."""
        self.net = net
        self.images = images
        self.normalization = normalization
        self.dtype = dtype
        self.size = size
        self.batch_size = batch_size or (CPU_BATCH if images.device.type == "cpu" else GPU_BATCH)

    @torch.no_grad()
    def logits(
        self,
        index: Tensor,
        flip: bool = False,
        shift: tuple[int, int] = (0, 0),
        time_left: Callable[[], float] = lambda: math.inf,
    ) -> Tensor:
        """Logits float32 (B, classes) of one view of the images in `index`, int64 (B,).

        Raises TimeoutError before a batch for which `time_left()` seconds may not suffice.
        """
        self.net.eval()
        parts, left, slowest = [], time_left(), 0.0
        for rows in index.split(self.batch_size):
            if left <= 1.5 * slowest:
                raise TimeoutError
            parts += self._forward(rows, flip, shift)
            before, left = left, time_left()
            slowest = max(slowest, before - left) if math.isfinite(left) else 0.0
        return torch.cat(parts)

    def _forward(self, rows: Tensor, flip: bool, shift: tuple[int, int]) -> list[Tensor]:
        """Logits of a batch, in smaller ones, from then on, where memory does not suffice."""
        if len(rows) > self.batch_size:
            return [part for few in rows.split(self.batch_size) for part in self._forward(few, flip, shift)]
        try:
            images = view(
                self.images,
                rows,
                flip=flip,
                shift=shift,
                size=self.size,
                padding="reflect",
                mean=self.normalization.mean,
                std=self.normalization.std,
                dtype=self.dtype,
            )
            return [self.net(images).float()]
        except Exception as error:
            if len(rows) == 1 or not memory.ran_out(error):
                raise
        memory.release()
        self.batch_size = (len(rows) + 1) // 2
        return self._forward(rows, flip, shift)

    def plain(self, time_left: Callable[[], float] = lambda: math.inf) -> Tensor:
        """Logits of all images, one view each. Raises TimeoutError where `time_left()` seconds do not suffice."""
        return self.logits(torch.arange(len(self.images), device=self.images.device), time_left=time_left)

    def with_views(
        self, plain: Tensor, tta: str, share: float, time_left: Callable[[], float], view_seconds: float
    ) -> Tensor:
        """`plain` with the further views of `tta` averaged in for the least certain `share` of the images.

        view_seconds: cost of one view of all images. A view that does not fit into `time_left()` is left out with all
        that follow it, and the weights of the others are scaled up.
        """
        views = VIEWS[tta]
        count = round(share * len(plain))
        if len(views) == 1 or count == 0:
            return plain
        top = plain.softmax(1).topk(2, dim=1).values
        uncertain = (top[:, 0] - top[:, 1]).argsort()[:count]
        total = plain[uncertain] * views[PLAIN]
        weight = views[PLAIN]
        for (flip, shift), view_weight in views.items():
            if (flip, shift) == PLAIN:
                continue
            if self.skips(time_left() < 1.2 * view_seconds * share):
                break
            try:
                total += self.logits(uncertain, flip, shift, time_left) * view_weight
            except TimeoutError:  # slower than it was: half a view is none
                break
            weight += view_weight
        averaged = plain.clone()
        averaged[uncertain] = total / weight
        return averaged

    def skips(self, wanted: bool) -> bool:
        """Whether a view is left out for want of time."""
        return wanted


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of rows of `logits` (N, classes) whose largest entry is at `labels` (N,)."""
    return (logits.argmax(1) == labels).sum().item() / len(labels)  # a mean in float32 has 0.94 below 0.94


def views(tta: str) -> int:
    """Number of views, the plain one included."""
    return len(VIEWS[tta])
