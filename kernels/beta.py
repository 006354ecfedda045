"""Beta(alpha, alpha), from which mixes draw how much of what is seen, as tables of whole numbers."""

import torch
from torch import Tensor

_COUNT = 4096  # the twelve upper bits of a word choose one
# Kept for good, as a captured graph goes on reading the table that it was captured with. No functools.cache, which
# torch.compile would look through, to make the table anew in every call.
_made: dict[tuple[int, float, float, float, str], Tensor] = {}


def quantiles(size: int, mixup_alpha: float, cutmix_alpha: float, ricap_alpha: float, device: torch.device) -> Tensor:
    """What a uniform number of twelve bits is turned into: int32 (3, 4096) on `device`.

    Row 0: MixUp's share of the partner in units of 2**-16. Row 1: the side of CutMix's box in pixels, whose area is the
    partner's share. Row 2: where RICAP cuts, in pixels. Tables of whole numbers, as every device then agrees to the
    bit.
    """
    key = (size, mixup_alpha, cutmix_alpha, ricap_alpha, str(device))
    if key not in _made:
        share = (1.0 - beta_quantiles(mixup_alpha, _COUNT)) * 2**16
        side = size * (1.0 - beta_quantiles(cutmix_alpha, _COUNT)).sqrt()
        cut = size * beta_quantiles(ricap_alpha, _COUNT)
        _made[key] = torch.stack((share, side, cut)).round().to(torch.int32).to(device)
    return _made[key]


def beta_quantiles(alpha: float, count: int) -> Tensor:
    """Beta(alpha, alpha) at the probabilities (i + 1/2) / count: float64 (count,), rising.

    The density x^(alpha-1) (1-x)^(alpha-1) has no bound at 0 for alpha < 1, but over u = x^alpha it is
    (1-x)^(alpha-1) / alpha: bounded on the lower half, where the trapezoid rule integrates it. The upper half is its
    mirror image.
    """
    u = torch.linspace(0.0, 0.5**alpha, 1 << 16, dtype=torch.float64)
    x = u ** (1.0 / alpha)
    density = (1.0 - x) ** (alpha - 1.0)
    mass = torch.cat((u.new_zeros(1), torch.cumulative_trapezoid(density, u)))
    mass = 0.5 * mass / mass[-1]
    wanted = (torch.arange(count // 2, dtype=torch.float64) + 0.5) / count
    right = torch.searchsorted(mass, wanted).clamp(1, len(mass) - 1)
    weight = (wanted - mass[right - 1]) / (mass[right] - mass[right - 1])
    lower = torch.lerp(u[right - 1], u[right], weight) ** (1.0 / alpha)
    return torch.cat((lower, 1.0 - lower.flip(0)))
