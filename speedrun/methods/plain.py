"""The plain step: forward, backward, update."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from speedrun import seeds
from speedrun.compiler import Forward
from speedrun.config import OptimConfig
from speedrun.losses import cross_entropy
from speedrun.methods.average import Average, Lookahead
from speedrun.methods.guard import Guard
from speedrun.methods.sharpness import Ascent
from speedrun.optim import Muon, Optimizers
from speedrun.stream import Batch


class PlainStep:
    """One step of training per call.

    net: the net whose parameters are trained. forward: what is called, the net itself or its compiled form.
    Gradients are scaled and unscaled where the compute dtype is float16, which can underflow. A batch whose gradients
    are not finite is left out. seed: of the dropout.
    """

    muon: type[Muon] = Muon

    def __init__(
        self,
        net: nn.Module,
        forward: Forward,
        config: OptimConfig,
        batch_size: int,
        dtype: torch.dtype,
        seed: int = 0,
    ) -> None:
        self.net = net
        self.forward = forward
        self.config = config
        self.batch_size = batch_size
        self.device = next(net.parameters()).device
        self.optimizers = Optimizers(net, config, batch_size, dtype, self.muon)
        self._names = {id(parameter): name for name, parameter in net.named_parameters()}
        self.guard = Guard(net, scaled=dtype == torch.float16)
        self.ascent = Ascent(net, config.sam, config.sam_adaptive) if config.sam else None
        self.lookahead = Lookahead(net, config.lookahead) if config.lookahead else None
        self.average = Average(net, config.ema) if config.ema else None
        self.seed = seed
        self._drops = any(isinstance(layer, nn.Dropout) and layer.p > 0 for layer in net.modules())

    @property
    def evaluated(self) -> nn.Module:
        """The net to evaluate: the averaged one, with its averaged batch-norm statistics, if there is one; else that of
        the slow weights."""
        kept = self.lookahead if self.average is None else self.average
        return self.net if kept is None else kept.net

    def __call__(self, batch: Batch, progress: float) -> Tensor:
        """Train on a batch at a point of the run; float32 (2,) on the device: mean loss and accuracy of the batch.

        The loss is NaN where the batch was left out.
        """
        self.schedule(progress)
        with self._dropout(progress):
            numbers = self.compute(batch)
        self.follow(progress)
        return numbers

    @property
    def freezes(self) -> bool:
        """Whether a bias that has faded out is spared its gradient; a compiled net would have to be compiled again."""
        return self.optimizers.fades and self.forward is self.net

    def schedule(self, progress: float) -> None:
        """Set what changes from step to step, all that the host has to say of one."""
        self.optimizers.set_progress(progress)
        if self.freezes:
            self.optimizers.freeze_faded(progress)
        if self.average is not None:
            self.average.advance()

    def follow(self, progress: float) -> None:
        """What is done after some steps alone, and so is no part of one that is captured."""
        if self.lookahead is not None:
            self.lookahead.follow(progress)

    def hold_numbers(self) -> None:
        """Keep what `schedule` sets on the device, where a captured step reads it anew each time."""
        self.optimizers.hold_rates(self.device)
        if self.average is not None:
            self.average.hold_number(self.device)

    def compute(self, batch: Batch) -> Tensor:
        """The step itself, on the device alone; returns what a call does."""
        logits, loss = self.learn(batch)
        with torch.no_grad():
            correct = (logits.argmax(1) == _leading(batch)).float().mean()
            shown = torch.where(self.guard.bad == 0, loss / len(batch.labels), torch.nan)
            return torch.stack([shown, correct])

    def learn(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Forward, backward, update; logits (B, classes) and summed loss from before it, without their history."""
        self.net.train()
        self.guard.before()
        logits, loss = self._backward(batch)
        if self.ascent is not None:
            with self.ascent.uphill():
                self._backward(batch)
        self.guard.after()
        if self.config.clip:
            # Of the mean loss, whose gradient this is the sum of.
            nn.utils.clip_grad_norm_(self.net.parameters(), self.config.clip * self.images(batch))
        for optimizer in self.optimizers.members:
            optimizer.step()
        self.optimizers.zero_grad()
        if self.average is not None:
            self.average.update()
        return logits.detach(), loss.detach()

    def _backward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Add the gradient of a batch to what is there; its logits and summed loss."""
        logits = self.forward(batch.images)
        loss = cross_entropy(logits, batch.labels, self.config.label_smoothing, batch.weights)
        self.guard.scaled(loss).backward()
        if (self.config.sam or self.config.clip) and not self.freezes:  # both take the norm of all gradients
            self.optimizers.spare_faded()
        return logits, loss

    def images(self, batch: Batch) -> int:
        """How many images the gradient is of."""
        return len(batch.labels)

    def settle(self) -> None:
        """Make the running statistics those of all that was trained on: before a net is scored or saved."""

    def state(self) -> dict[str, Any]:
        """All that the step carries from batch to batch beside the net: tensors and plain values for a checkpoint."""
        return {
            "optimizer": {
                self._names[id(parameter)]: kept
                for optimizer in self.optimizers.members
                for parameter, kept in optimizer.state.items()
            },
            "average": None if self.average is None else self.average.state_dict(),
            "lookahead": None if self.lookahead is None else self.lookahead.state_dict(),
            "guard": self.guard.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a `state`, of this step's own config but for the batch size and rates. ValueError if it is not."""
        if unknown := state["optimizer"].keys() - set(self._names.values()):
            raise ValueError(f"no such parameter: {', '.join(sorted(unknown))}")
        for optimizer in self.optimizers.members:
            own = optimizer.state_dict()  # its rates are this config's
            numbered = enumerate(parameter for group in optimizer.param_groups for parameter in group["params"])
            names = {number: self._names[id(parameter)] for number, parameter in numbered}
            own["state"] = {
                number: state["optimizer"][name] for number, name in names.items() if name in state["optimizer"]
            }
            optimizer.load_state_dict(own)
        for name, kept in (("average", self.average), ("lookahead", self.lookahead)):
            saved = state.get(name)
            if (kept is None) != (saved is None):
                raise ValueError("averaged weights on one side only")
            if kept is not None and saved is not None:
                kept.load_state_dict(saved)
        self.guard.restore(state["guard"])

    @contextmanager
    def _dropout(self, progress: float) -> Iterator[None]:
        """Make what is dropped a function of seed and progress; torch's generators stay as they were."""
        if not self._drops:
            yield
            return
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seeds.derive(self.seed, "dropout", str(progress)))
            yield


def _leading(batch: Batch) -> Tensor:
    """The label of each image, or of the largest part of a mixed one: int64 (B,)."""
    if batch.weights is None:
        return batch.labels
    return batch.labels.gather(1, batch.weights.argmax(1, keepdim=True))[:, 0]
