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


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("members", [2, 4])
def test_mixed_labels_are_the_target_that_has_each_weight_at_its_label(members: int, smoothing: float):
    generator = torch.Generator().manual_seed(members)
    logits = torch.randn(19, 10, generator=generator)
    labels = torch.randint(10, (19, members), generator=generator)
    weights = torch.rand(19, members, generator=generator)
    weights /= weights.sum(1, keepdim=True)
    expected = 0.0
    for row, own, shares in zip(logits.double().numpy(), labels.numpy(), weights.double().numpy(), strict=True):
        target = np.full(10, smoothing / 10)
        for label, share in zip(own, shares, strict=True):  # a label may come twice
            target[label] += (1 - smoothing) * share
        expected -= (target * (row - np.log(np.exp(row).sum()))).sum()
    assert cross_entropy(logits, labels, smoothing, weights).item() == pytest.approx(expected, rel=1e-6)


def test_a_mix_of_one_image_is_that_image():
    logits, labels = torch.randn(8, 10, generator=torch.Generator().manual_seed(0)), torch.arange(8)
    weights = torch.tensor([[1.0, 0.0]]).expand(8, 2)
    mixed = cross_entropy(logits, torch.stack([labels, labels.flip(0)], 1), 0.2, weights)
    torch.testing.assert_close(mixed, cross_entropy(logits, labels, 0.2))


def test_twice_the_batch_is_twice_the_loss_and_the_same_gradient_an_image():
    logits = torch.randn(8, 10, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.arange(8)
    (single,) = torch.autograd.grad(cross_entropy(logits, labels, 0.2), logits)
    double = torch.cat([logits, logits])
    (both,) = torch.autograd.grad(cross_entropy(double, torch.cat([labels, labels]), 0.2), double)
    torch.testing.assert_close(both, torch.cat([single, single]))
