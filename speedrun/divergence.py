"""A training whose numbers are no longer finite: what is said of it, and when it is given up. Standard library only."""

import math

from speedrun.errors import DivergedError

# A scale of gradients that began at 1 is 1e-9 after as many halvings; what comes right does so within a few steps.
GIVEN_UP = 30


class Divergence:
    """Counts the batches that were left out, which their step reports by a loss that is NaN."""

    def __init__(self, dtype: str) -> None:
        self.left_out = 0
        self._in_a_row = 0
        self._advice = (
            "its gradients overflow at any scale: use --dtype float32 or a lower --set optim.lr"
            if dtype == "float16"
            else "use a lower --set optim.lr"
        )

    def observe(self, loss: float, accuracy: float) -> None:
        """Take in the numbers of a step; both are NaN while none have arrived. DivergedError if nothing is learned."""
        if math.isnan(accuracy):
            return
        if math.isfinite(loss):
            self._in_a_row = 0
            return
        self.left_out += 1
        self._in_a_row += 1
        if self._in_a_row >= GIVEN_UP:
            raise DivergedError(f"the training has diverged, {GIVEN_UP} batches in a row were left out: {self._advice}")

    def summary(self) -> str:
        """One line about what was left out; empty if nothing was."""
        if not self.left_out:
            return ""
        return f"{self.left_out} batches were left out: their gradients were not finite"
