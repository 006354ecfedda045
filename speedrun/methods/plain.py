"""The plain step: forward, backward, update."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from speedrun.compiler import Forward
from speedrun.config import OptimConfig
from speedrun.losses import cross_entropy
from speedrun.optim import Optimizers
from speedrun.stream import Batch


class PlainStep:
    """One step of training per call.

    net: the net whose parameters are trained. forward: what is called, the net itself or its compiled form.
    Gradients are scaled and unscaled where the compute dtype is float16, which can underflow.
    """

    def __init__(
        self, net: nn.Module, forward: Forward, config: OptimConfig, batch_size: int, dtype: torch.dtype
    ) -> None:
        self.net = net
        self.forward = forward
        self.config = config
        self.device = next(net.parameters()).device
        self.optimizers = Optimizers(net, config, batch_size, dtype)
        # The loss is summed over the batch, so its gradients are large already: the scale begins at 1.
        self.scaler = torch.amp.GradScaler(self.device.type, init_scale=1.0, enabled=dtype == torch.float16)
        average = get_ema_multi_avg_fn(config.ema)
        self.average = AveragedModel(net, multi_avg_fn=average, use_buffers=True) if config.ema else None

    @property
    def evaluated(self) -> nn.Module:
        """The net to evaluate: the averaged one, with its averaged batch-norm statistics, if there is one."""
        return self.net if self.average is None else self.average.module

    def __call__(self, batch: Batch, progress: float) -> Tensor:
        """Train on a batch at a point of the run; float32 (2,) on the device: mean loss and accuracy of the batch."""
        self.optimizers.set_progress(progress)
        if self.forward is self.net:  # a compiled net would have to be compiled again
            self.optimizers.freeze_faded(progress)
        self.net.train()
        logits = self.forward(batch.images)
        loss = cross_entropy(logits, batch.labels, self.config.label_smoothing, batch.weights)
        self.scaler.scale(loss).backward()
        for optimizer in self.optimizers.members:
            self.scaler.step(optimizer)
        self.scaler.update()
        self.optimizers.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.net)
        with torch.no_grad():
            correct = (logits.argmax(1) == _leading(batch)).float().mean()
            return torch.stack([loss.detach() / len(batch.labels), correct])


def _leading(batch: Batch) -> Tensor:
    """The label of each image, or of the largest part of a mixed one: int64 (B,)."""
    if batch.weights is None:
        return batch.labels
    return batch.labels.gather(1, batch.weights.argmax(1, keepdim=True))[:, 0]
