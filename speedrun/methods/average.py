"""The exponential moving average of a net in training."""

import copy

import torch
from torch import Tensor, nn

# The average remembers a twentieth of the updates so far at most, so that a short run forgets its first weights.
MEMORY = 20


class Average(nn.Module):
    """`net` is the average: weights and batch-norm statistics alike, so that they belong together.

    decay: of what is averaged, a step; less in the first updates.
    """

    updates: Tensor

    def __init__(self, trained: nn.Module, decay: float) -> None:
        """trained: the net that is followed."""
        super().__init__()
        self.net = copy.deepcopy(trained).requires_grad_(False)
        self.decay = decay
        self.register_buffer("updates", torch.tensor(0))  # on the CPU: nothing waits for it
        pairs = list(zip(self.net.state_dict().values(), trained.state_dict().values(), strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the trained net as it is now; the first update is a copy."""
        weight = max(1 - self.decay, MEMORY / (MEMORY + int(self.updates)))
        averaged, newest = zip(*self._floats, strict=True)
        torch._foreach_lerp_(averaged, newest, weight)
        for ours, theirs in self._counts:
            ours.copy_(theirs)
        self.updates += 1
