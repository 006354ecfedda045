"""Sharpness-aware steps: the gradient is taken where the loss is highest nearby, and the step from where the net is.

Sources: Foret et al., "Sharpness-Aware Minimization" (arXiv 2010.01412); Kwon et al., "ASAM" (arXiv 2102.11600), with
every parameter scaled by its own size, as in github.com/davda54/sam.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from speedrun.methods.statistics import Statistics

# Keeps a gradient of zero from dividing by its norm.
EPSILON = 1e-12


class Ascent:
    """A net's way uphill and back.

    rho: length of the way, in the norm of all that is trained. adaptive: a parameter goes by its own size, so that the
    way does not depend on how a net's scales are dealt out to its layers; `rho` is then about ten times as large.
    """

    def __init__(self, net: nn.Module, rho: float, adaptive: bool) -> None:
        self.rho, self.adaptive = rho, adaptive
        self._parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        self._kept = [torch.empty_like(parameter) for parameter in self._parameters]
        self._statistics = Statistics(net)

    @contextmanager
    def uphill(self) -> Iterator[None]:
        """In the body the weights lie `rho` up the gradient that is there, and there is none; after it they are, to the
        bit, what they were, as the running statistics are. A gradient that is not finite makes all of the body's so.
        """
        pairs = zip(self._parameters, self._kept, strict=True)
        moved = [(parameter, kept) for parameter, kept in pairs if parameter.grad is not None]
        weights, kept = (list(column) for column in zip(*moved, strict=True))
        with torch.no_grad():
            torch._foreach_copy_(kept, weights)
            torch._foreach_add_(weights, self._way(weights))
        for parameter in weights:
            parameter.grad = None
        try:
            with self._statistics.untouched():
                yield
        finally:  # memory may run out up there, and training goes on with a smaller batch
            with torch.no_grad():
                torch._foreach_copy_(weights, kept)

    def _way(self, weights: list[Tensor]) -> list[Tensor]:
        """The step uphill, rho g / |g|; if adaptive, with T = |w|, rho T^2 g / |T g|."""
        directions = [weight.grad for weight in weights if weight.grad is not None]
        if self.adaptive:
            sizes = torch._foreach_abs(weights)
            directions = list(torch._foreach_mul(directions, sizes))
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(directions)))
        directions = list(torch._foreach_mul(directions, self.rho / (norm + EPSILON)))
        return list(torch._foreach_mul(directions, sizes)) if self.adaptive else directions
