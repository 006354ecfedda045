"""Losses, summed over the batch: rates then need no change when the batch does."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Summed cross entropy of logits (N, classes) of any float dtype against labels int64 (N,); a float32 scalar."""
    return F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing, reduction="sum")
