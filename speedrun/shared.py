"""Evaluation by all ranks: each scores its part of the images, and all have all logits."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from speedrun.distributed import World
from speedrun.evaluate import Evaluator


class SharedEvaluator(Evaluator):
    """As `Evaluator`, called by all ranks with the same images, net and index at the same time."""

    def __init__(self, world: World, net: nn.Module, images: Tensor, **options: Any) -> None:
        super().__init__(net, images, **options)
        self.world = world

    def logits(
        self,
        index: Tensor,
        flip: bool = False,
        shift: tuple[int, int] = (0, 0),
        time_left: Callable[[], float] = lambda: math.inf,
    ) -> Tensor:
        """As `Evaluator.logits`; TimeoutError on all ranks where it would be on one."""
        parts = [self.world.part(len(index), rank) for rank in range(self.world.size)]
        lengths = [part.stop - part.start for part in parts]
        own, late = None, 0.0
        try:
            own = super().logits(index[parts[self.world.rank]], flip, shift, time_left)
        except TimeoutError:
            late = 1.0
        if self.world.most(late)[0]:
            raise TimeoutError
        assert own is not None
        received = self.world.exchange(own, max(lengths))
        return torch.cat([rows[:length] for rows, length in zip(received, lengths, strict=True)])

    def _forward(self, rows: Tensor, flip: bool, shift: tuple[int, int]) -> list[Tensor]:
        self.world.moves()
        return super()._forward(rows, flip, shift)

    def skips(self, wanted: bool) -> bool:
        """The first rank's clock decides."""
        return self.world.decide(lambda: wanted)
