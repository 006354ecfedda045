"""Stochastic gradient descent whose rate may be a number or, for a captured step, a tensor on the device."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Rate = float | Tensor  # a tensor is 0-d, float32, on the parameters' device


def move(parameters: Sequence[Tensor], directions: Sequence[Tensor], rate: Rate) -> None:
    """Take `rate` times each direction off its parameter. A rate in a tensor is read when the device gets there."""
    if isinstance(rate, Tensor):
        # In the rate's dtype: beside a number of its own kind a 0-d tensor takes the other's, which may be a low one.
        steps = tuple(direction.to(rate.dtype) * rate for direction in directions)
        torch._foreach_sub_(tuple(parameters), steps)
    else:
        torch._foreach_add_(tuple(parameters), tuple(directions), alpha=-rate)


class SGD(torch.optim.Optimizer):
    """torch's own SGD, momentum being Nesterov's. Its SGD asks a rate in a tensor for its number, which waits.

    params: parameters, or groups of them with `lr` and `weight_decay` of their own.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, *, momentum: float = 0.0, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("SGD takes no closure")
        for group in self.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.grad is not None]
            if trained:
                self._update(trained, group)

    def _update(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, tuple(parameters), alpha=group["weight_decay"]))
        if group["momentum"]:
            buffers = [self._buffer(parameter) for parameter in parameters]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, gradients)
            gradients = list(torch._foreach_add(gradients, buffers, alpha=group["momentum"]))
        move(parameters, gradients, group["lr"])

    def _buffer(self, parameter: nn.Parameter) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]
