"""Running statistics of a net, kept as they are through a forward pass that is not of the training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Statistics:
    """The buffers of a net. Copies, and not a momentum of zero: that would spread what is not finite, count the batch,
    and ask every layer to take part."""

    def __init__(self, net: nn.Module) -> None:
        self._buffers: list[Tensor] = list(net.buffers())
        self._kept = [buffer.clone() for buffer in self._buffers]

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """What the body does to them is undone, on the device."""
        if self._buffers:
            torch._foreach_copy_(self._kept, self._buffers)
        try:
            yield
        finally:
            if self._buffers:
                torch._foreach_copy_(self._buffers, self._kept)
