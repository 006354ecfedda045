"""Training on the images that a small net of the same family finds hardest. Source: airbench96_faster, of
github.com/KellerJordan/cifar10-airbench."""

from typing import Any

import torch
from torch import Tensor

from speedrun.losses import cross_entropies
from speedrun.methods.plain import PlainStep
from speedrun.methods.statistics import Statistics
from speedrun.selection import SelectConfig
from speedrun.stream import Batch


class Proxy(PlainStep):
    """The small net, which learns like any other and says what it makes of each image."""

    def __init__(self, *arguments: Any) -> None:
        """arguments: `PlainStep`'s."""
        super().__init__(*arguments)
        self._statistics = Statistics(self.net)

    def losses(self, batch: Batch, progress: float, *, learns: bool) -> Tensor:
        """Cross entropy of each image, float32 (B,), from before this batch is learned, if it is.

        Without label smoothing, which would count what is right for sure among the hard. By the batch's own statistics;
        the running ones are of what was learned alone.
        """
        if learns:
            self.schedule(progress)
            logits, _ = self.learn(batch)
        else:
            with torch.no_grad(), self._statistics.untouched():
                self.net.train()
                logits = self.forward(batch.images)
        return cross_entropies(logits, batch.labels, batch.weights)


class SelectiveStep(PlainStep):
    """The plain step, of the hardest images of a batch that holds more than the net's.

    proxy: the step of the small net. A batch of the net's own size is trained on whole, so it is what the stream draws
    that says where images are picked. The host never waits: which they are is known on the device alone.
    """

    def __init__(self, proxy: Proxy, select: SelectConfig, *arguments: Any) -> None:
        """arguments: `PlainStep`'s."""
        super().__init__(*arguments)
        self.proxy, self.select = proxy, select
        self._seen = 0  # batches, by which the turn of the proxy comes

    def __call__(self, batch: Batch, progress: float) -> Tensor:
        """As `PlainStep`, of a batch of any number of images; loss and accuracy are of those picked."""
        return super().__call__(self._picked(batch, progress), progress)

    def turn(self, learns: bool) -> None:
        """Let the next batch be one on which the proxy learns, or the one after such a batch."""
        self._seen = 0 if learns else 1

    def _picked(self, batch: Batch, progress: float) -> Batch:
        """What of a batch the net learns from; the proxy learns on the way."""
        picks = len(batch.index) > self.batch_size
        learns = progress < self.select.end and self._seen % self.select.every == 0
        self._seen += 1
        if not (picks or learns):
            return batch
        losses = self.proxy.losses(batch, progress, learns=learns)
        return batch.of(losses.topk(self.batch_size, sorted=False).indices) if picks else batch

    def state(self) -> dict[str, Any]:
        """As `PlainStep.state`, with all of the proxy."""
        proxy = {"net": self.proxy.net.state_dict(), "step": self.proxy.state(), "seen": self._seen}
        return {**super().state(), "proxy": proxy}

    def restore(self, state: dict[str, Any]) -> None:
        """As `PlainStep.restore`, with all of the proxy."""
        super().restore(state)
        saved = state["proxy"]
        self.proxy.net.load_state_dict(saved["net"])
        self.proxy.restore(saved["step"])
        self._seen = saved["seen"]
