"""Losses, against numpy."""

import numpy as np
import pytest
import torch

from speedrun.losses import cross_entropy


def by_hand(logits: np.ndarray, labels: np.ndarray, smoothing: float) -> float:
    """Summed over the images: -sum of target times log-probability, the target mixed with the uniform one."""
    total = 0.0
    for row, label in zip(logits.astype(np.float64), labels, strict=True):
        log_probabilities = row - np.log(np.exp(row).sum())
        target = np.full(len(row), smoothing / len(row))
        target[label] += 1 - smoothing
        total -= (target * log_probabilities).sum()
    return total


@pytest.mark.parametrize("smoothing", [0.0, 0.2, 1.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-6), (torch.float16, 1e-6)])
def test_cross_entropy_is_the_sum_over_the_batch(smoothing: float, dtype: torch.dtype, tolerance: float):
    logits = (3 * torch.randn(37, 10, generator=torch.Generator().manual_seed(0))).to(dtype)
    labels = torch.arange(37) % 10
    loss = cross_entropy(logits, labels, smoothing)
    assert (loss.shape, loss.dtype) == ((), torch.float32)
    assert loss.item() == pytest.approx(by_hand(logits.float().numpy(), labels.numpy(), smoothing), rel=tolerance)


def test_twice_the_batch_is_twice_the_loss_and_the_same_gradient_an_image():
    logits = torch.randn(8, 10, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.arange(8)
    (single,) = torch.autograd.grad(cross_entropy(logits, labels, 0.2), logits)
    double = torch.cat([logits, logits])
    (both,) = torch.autograd.grad(cross_entropy(double, torch.cat([labels, labels]), 0.2), double)
    torch.testing.assert_close(both, torch.cat([single, single]))
