"""Averages of a net in training: one that follows it, and one that it is set back to."""

import copy

import torch
from torch import Tensor, nn

# The average remembers a twentieth of the updates so far at most, so that a short run forgets its first weights.
MEMORY = 20
# Of the slow weights, a step, at the end of a run. Source: github.com/KellerJordan/cifar10-airbench, airbench96.
SLOW = 0.95


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


class Lookahead(Average):
    """Slow weights, moved towards the trained net every few steps, to which it is then set back.

    They keep little at first, SLOW to the power of `every` at the end, rising with the cube of progress; in the first
    `every` steps they are the trained net itself, so that what is evaluated was trained, however short the run.
    Batch-norm statistics are averaged alike. Sources: Zhang et al. (arXiv 1907.08610); the rise, airbench96.
    """

    def __init__(self, trained: nn.Module, every: int) -> None:
        """trained: the net that is followed. every: steps between two updates."""
        super().__init__(trained, SLOW**every)
        self.every = every

    @torch.no_grad()
    def follow(self, progress: float) -> None:
        """After a step at a point of the run, by the host's numbers alone: no part of what is captured."""
        self.updates += 1
        early = int(self.updates) <= self.every
        if not early and int(self.updates) % self.every:
            return
        self.weight = 1.0 if early else 1 - self.decay * progress**3
        self.update()
        slow, trained = (list(column) for column in zip(*self._floats, strict=True))
        torch._foreach_copy_(trained, slow)
