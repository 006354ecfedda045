"""Optimisers: Muon and its companion SGD, or one for all; and how a net's parameters are dealt out to them."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from kernels.newton_schulz import orthogonalize_all
from speedrun.config import OptimConfig
from speedrun.schedule import fade, rate_share
from speedrun.sgd import SGD, move


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose update is orthogonalised; each filter bank is reset to norm sqrt(out channels).

    Filters of one shape are orthogonalised together in one batched product; `fused`, all together in Triton kernels
    where those run. params: weights (out, in, k, k) or (out, in). lr: length of a step per unit singular value.
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
        fused: bool = False,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "newton_schulz_steps": newton_schulz_steps})
        self.compute_dtype = dtype
        self.method = "auto" if fused else "torch"

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            if parameters := [parameter for parameter in group["params"] if parameter.grad is not None]:
                self._update(parameters, group)

    def _update(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [self._buffer(parameter) for parameter in parameters]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        directions = torch._foreach_add(gradients, buffers, alpha=group["momentum"])
        matrices = [direction.reshape(len(direction), -1) for direction in directions]
        updates = self.orthogonalized(matrices, group["newton_schulz_steps"])
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(math.sqrt(len(parameter)) / torch.linalg.vector_norm(parameter))
            move([parameter], [update.reshape(parameter.shape)], group["lr"])

    def orthogonalized(self, matrices: list[Tensor], steps: int) -> list[Tensor]:
        """`orthogonalize_all` of (rows, columns) matrices, in the compute dtype."""
        return orthogonalize_all(matrices, steps, self.compute_dtype, self.method)

    def _buffer(self, parameter: nn.Parameter) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


class Optimizers:
    """The optimisers of a net and the schedule of their rates.

    The bias of a whitening layer fades out earlier than the rest. muon: what trains the filters where that is Muon.
    """

    def __init__(
        self,
        net: nn.Module,
        config: OptimConfig,
        batch_size: int,
        dtype: torch.dtype | None,
        muon: type[Muon] = Muon,
    ) -> None:
        self.config = config
        self.members: list[torch.optim.Optimizer]
        trained = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
        self._fading = [trained.pop("whiten.bias")] if "whiten.bias" in trained else []
        if config.filters == "muon":
            self.members = _muon_and_sgd(list(trained.values()), self._fading, config, batch_size, dtype, muon)
        else:
            self.members = [_one_for_all([list(trained.values()), self._fading], config, batch_size)]
        for group in self.groups():
            group["peak_lr"] = group["lr"]

    def set_progress(self, progress: float) -> float:
        """Set all rates for a point of the run in [0, 1]; returns the share of the peak rate."""
        config = self.config
        share = rate_share(config.schedule, progress, config.warmup, config.start_lr)
        faded = fade(progress, config.whiten_bias)
        for group in self.groups():
            rate = group["peak_lr"] * (faded if self._is_fading(group) else share)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        return share

    def hold_rates(self, device: torch.device) -> None:
        """Keep the rates in tensors on a device, which a captured step reads anew each time."""
        for group in self.groups():
            group["lr"] = torch.tensor(float(group["lr"]), device=device)

    @property
    def fades(self) -> bool:
        """Whether there is a whitening bias that is trained."""
        return bool(self._fading)

    @property
    def frozen(self) -> bool:
        """Whether the whitening bias, if there is one, has been spared its gradient."""
        return any(not parameter.requires_grad for parameter in self._fading)

    def thaw(self) -> None:
        """Train the whitening bias again."""
        for parameter in self._fading:
            parameter.requires_grad_(True)

    def freeze_faded(self, progress: float) -> None:
        """Once the whitening bias has faded out, spare its gradient (and with it that of the first layer's output)."""
        if progress >= self.config.whiten_bias:
            for parameter in self._fading:
                parameter.requires_grad_(False)

    @torch.no_grad()
    def spare_faded(self) -> None:
        """Once the whitening bias has faded out, make its gradient zero: that of a net which cannot do without it, as a
        compiled one, then has the norm that an eager one's has. Reads a rate in a tensor on the device alone."""
        for group in filter(self._is_fading, self.groups()):
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad.mul_(group["lr"] > 0)

    def _is_fading(self, group: dict[str, Any]) -> bool:
        """Whether a group is that of the whitening bias."""
        return any(parameter is group["params"][0] for parameter in self._fading)

    def zero_grad(self) -> None:
        for member in self.members:
            member.zero_grad(set_to_none=True)

    def groups(self) -> list[dict[str, Any]]:
        """The groups of all members."""
        return [group for member in self.members for group in member.param_groups]


def _muon_and_sgd(
    trained: list[nn.Parameter],
    fading: list[nn.Parameter],
    config: OptimConfig,
    batch_size: int,
    dtype: torch.dtype | None,
    muon: type[Muon],
) -> list[torch.optim.Optimizer]:
    """Muon for filters and hidden layers; SGD for the last layer, for biases and for what scales each channel."""
    head = [parameter for parameter in trained if parameter.ndim == 2][-1:]
    # A depthwise filter has one input: there is nothing to orthogonalise.
    hidden = [p for p in trained if p.ndim >= 2 and p.shape[1] > 1 and not any(p is last for last in head)]
    taken = {id(parameter) for parameter in (*head, *hidden)}
    biases = [parameter for parameter in trained if id(parameter) not in taken]
    decay = config.weight_decay * batch_size
    rates = [(fading, config.bias_lr), (biases, config.bias_lr), (head, config.head_lr)]
    # Decoupled decay: SGD multiplies it by the rate, so the rate is divided out.
    groups = [{"params": p, "lr": lr, "weight_decay": decay / lr if lr else 0.0} for p, lr in rates if p]
    return [
        SGD(groups, momentum=config.sgd_momentum),
        muon(hidden, config.filter_lr, config.filter_momentum, config.newton_schulz_steps, dtype, config.fused),
    ]


def _one_for_all(parameters: list[list[nn.Parameter]], config: OptimConfig, batch_size: int) -> torch.optim.Optimizer:
    """SGD or AdamW. Steps are those of the mean loss, though the gradients are of the sum over `batch_size` images."""
    groups = [{"params": group} for group in parameters if group]
    if config.filters == "adamw":
        betas, eps = (config.filter_momentum, 0.999), 1e-8 * batch_size
        return torch.optim.AdamW(groups, config.filter_lr, betas, eps, config.weight_decay)
    decay = config.weight_decay * batch_size
    return SGD(groups, config.filter_lr / batch_size, momentum=config.filter_momentum, weight_decay=decay)
