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
        self.weight: float | Tensor = 1.0  # of the trained net at the next update
        pairs = list(zip(self.net.state_dict().values(), trained.state_dict().values(), strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    def advance(self) -> None:
        """Count the next update, and know its weight."""
        weight = max(1 - self.decay, MEMORY / (MEMORY + int(self.updates)))
        self.updates += 1
        if isinstance(self.weight, Tensor):
            self.weight.fill_(weight)
        else:
            self.weight = weight

    def hold_number(self, device: torch.device) -> None:
        """Keep the weight on a device, for a captured step."""
        self.weight = torch.ones((), device=device)

    @torch.no_grad()
    def update(self) -> None:
        """Move towards the trained net as it is now; the first update is a copy."""
        averaged, newest = (list(column) for column in zip(*self._floats, strict=True))
        if isinstance(self.weight, Tensor):
            torch._foreach_lerp_(averaged, newest, [self.weight] * len(averaged))
        else:
            torch._foreach_lerp_(averaged, newest, self.weight)
        for ours, theirs in self._counts:
            ours.copy_(theirs)

    def restart(self, trained: nn.Module) -> None:
        """Forget all updates; follow `trained` from where it is now, in the same tensors."""
        self.net.load_state_dict(trained.state_dict())
        self.updates.zero_()
