"""Losses, summed over the batch: rates then need no change when the batch does."""

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Summed cross entropy of logits (N, classes) of any float dtype; a float32 scalar.

    labels: int64 (N,), or (N, K) for mixed images with weights float32 (N, K) whose rows sum to 1: the loss of the
    target that has each weight at its label, without making that target.
    """
    if weights is None:
        return F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing, reduction="sum")
    log_probabilities = logits.float().log_softmax(1)
    hard = (weights * log_probabilities.gather(1, labels)).sum()
    return -(1 - label_smoothing) * hard - label_smoothing * log_probabilities.mean(1).sum()


def cross_entropies(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross entropy of each image, float32 (N,), of the arguments of `cross_entropy`; without history."""
    log_probabilities = logits.detach().float().log_softmax(1)
    if weights is None:
        return -log_probabilities.gather(1, labels[:, None])[:, 0]
    return -(weights * log_probabilities.gather(1, labels)).sum(1)
