"""Optimisers: Muon for the filters, SGD for the rest; and how a net's parameters are dealt out to them."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from speedrun.config import OptimConfig
from speedrun.schedule import fade, one_cycle

# Quintic whose slope at zero is as steep as it gets while singular values stay within about (0.5, 1.5).
# Source: Keller Jordan's Muon, github.com/KellerJordan/Muon.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrices: Tensor, steps: int = 3, eps: float = 1e-7, dtype: torch.dtype | None = None) -> Tensor:
    """Replace the singular values of each matrix by values near 1, by Newton-Schulz iteration.

    matrices: (n, rows, columns), any float dtype. dtype: of the products and of the result; None keeps the matrices'.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    # The largest singular value is now at most 1, before a dtype of small range is asked to hold it.
    x = (x / (torch.linalg.matrix_norm(x, keepdim=True) + eps)).to(dtype or x.dtype)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose update is orthogonalised; each filter bank is reset to norm sqrt(out channels).

    Filters of one shape are orthogonalised together in one batched product.
    params: weights (out, in, k, k) or (out, in). lr: length of a step per unit singular value.
    dtype: of the Newton-Schulz products; None keeps the gradient's.
    Source: github.com/KellerJordan/cifar10-airbench, airbench94_muon (norm reset), github.com/KellerJordan/Muon.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 0.24,
        momentum: float = 0.6,
        newton_schulz_steps: int = 3,
        dtype: torch.dtype | None = torch.bfloat16,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "newton_schulz_steps": newton_schulz_steps})
        self.compute_dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            banks: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    banks.setdefault(parameter.shape, []).append(parameter)
            for parameters in banks.values():
                self._update(parameters, group)

    def _update(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [self._buffer(parameter) for parameter in parameters]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        directions = torch._foreach_add(gradients, buffers, alpha=group["momentum"])
        rows = len(parameters[0])
        stacked = torch.stack([direction.reshape(rows, -1) for direction in directions])
        updates = orthogonalize(stacked, group["newton_schulz_steps"], dtype=self.compute_dtype)
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(math.sqrt(rows) / torch.linalg.vector_norm(parameter))
            parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"])

    def _buffer(self, parameter: nn.Parameter) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


class Optimizers:
    """The optimisers of a net and the schedule of their rates.

    Trainable parameters are dealt out by shape: filters (4-D) to Muon or SGD, the last layer (2-D) and the biases (1-D)
    to SGD. The bias of the whitening layer fades out earlier than the rest.
    """

    def __init__(self, net: nn.Module, config: OptimConfig, batch_size: int, dtype: torch.dtype | None) -> None:
        self.config = config
        filters: list[nn.Parameter] = []
        head: list[nn.Parameter] = []
        biases: list[nn.Parameter] = []
        whiten: list[nn.Parameter] = []
        for name, parameter in net.named_parameters():
            if not parameter.requires_grad:
                continue
            if name == "whiten.bias":
                whiten.append(parameter)
            else:
                (filters if parameter.ndim == 4 else head if parameter.ndim == 2 else biases).append(parameter)
        self._fading = whiten
        decay = config.weight_decay * batch_size
        rates = [(whiten, config.bias_lr), (biases, config.bias_lr), (head, config.head_lr)]
        if config.filters == "sgd":
            rates.append((filters, config.filter_lr))
        # Decoupled decay: SGD multiplies it by the rate, so the rate is divided out.
        groups = [{"params": p, "lr": lr, "weight_decay": decay / lr if lr else 0.0} for p, lr in rates if p]
        self.members: list[torch.optim.Optimizer] = [
            torch.optim.SGD(groups, momentum=config.sgd_momentum, nesterov=True)
        ]
        if config.filters == "muon":
            self.members.append(Muon(filters, config.filter_lr, config.momentum, config.newton_schulz_steps, dtype))
        for group in self._groups():
            group["peak_lr"] = group["lr"]

    def set_progress(self, progress: float) -> float:
        """Set all rates for a point of the run in [0, 1]; returns the share of the peak rate."""
        share = one_cycle(progress, self.config.warmup, self.config.start_lr)
        faded = fade(progress, self.config.whiten_bias)
        for group in self._groups():
            fading = any(parameter is group["params"][0] for parameter in self._fading)
            group["lr"] = group["peak_lr"] * (faded if fading else share)
        return share

    def freeze_faded(self, progress: float) -> None:
        """Once the whitening bias has faded out, spare its gradient (and with it that of the first layer's output)."""
        if progress >= self.config.whiten_bias:
            for parameter in self._fading:
                parameter.requires_grad_(False)

    def zero_grad(self) -> None:
        for member in self.members:
            member.zero_grad(set_to_none=True)

    def _groups(self) -> list[dict[str, Any]]:
        return [group for member in self.members for group in member.param_groups]
