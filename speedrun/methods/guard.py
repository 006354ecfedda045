"""Keeps numbers that are not finite out of a net, and scales the loss where a dtype needs it; the host never waits."""

import torch
from torch import Tensor, nn

# As in torch's GradScaler: halve the scale when something overflows, double it after this many steps without.
BACKOFF, GROWTH, GROWTH_STEPS = 0.5, 2.0, 2000


class Guard:
    """Called around the forward and backward pass of a step; every decision is made on the device, by arithmetic.

    A batch whose gradients are not all finite counts as a gradient of zero, and what it did to running statistics is
    undone. Parameters and floating buffers must be float32. scaled: whether the loss is scaled, for float16 gradients;
    the loss is a sum over the batch, so its gradients are large already and the scale begins at 1.
    """

    def __init__(self, net: nn.Module, scaled: bool) -> None:
        device = next(net.parameters()).device
        self.bad = torch.zeros((), device=device)  # 1 where the last batch was left out
        self.scale = torch.ones((), device=device)
        self._scaled = scaled
        self._good_steps = torch.zeros((), dtype=torch.int32, device=device)
        self._parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        self._buffers = [buffer for buffer in net.buffers() if buffer.is_floating_point()]
        self._kept = [buffer.clone() for buffer in self._buffers]

    def before(self) -> None:
        """Before the forward pass: remember the running statistics."""
        if self._buffers:
            torch._foreach_copy_(self._kept, self._buffers)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss to go backward from."""
        return loss * self.scale if self._scaled else loss

    def after(self) -> None:
        """After the backward pass: gradients are unscaled and finite from here."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        self.bad.zero_()
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, self.bad, self.scale.reciprocal())
        if self._scaled:
            torch._amp_update_scale_(self.scale, self._good_steps, self.bad, GROWTH, BACKOFF, GROWTH_STEPS)
        # NaN times zero is NaN, but of its bits, taken as an integer, it is zero: one launch, no branch.
        good = (self.bad == 0).int()
        torch._foreach_mul_(_bits(gradients), good)
        if self._buffers:
            torch._foreach_mul_(_bits(self._buffers), good)
            torch._foreach_mul_(_bits(self._kept), 1 - good)
            torch._foreach_add_(_bits(self._buffers), _bits(self._kept))

    def reset(self) -> None:
        """Back to the scale of the beginning, in the same tensors."""
        self.scale.fill_(1.0)
        self._good_steps.zero_()

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of it."""
        return {"scale": self.scale, "good_steps": self._good_steps}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        self.scale.copy_(state["scale"])
        self._good_steps.copy_(state["good_steps"])


def _bits(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.view(torch.int32) for tensor in tensors]
