"""MixUp, CutMix and RICAP: at most one of them an image, as one way of painting pictures over each other.

Member 0 is the image itself; every further member k is painted over it inside its rectangle with its share f_k: new =
(1 - f_k) old + f_k member. MixUp has one further member with the whole square and a share below one, CutMix one with a
box and the share 1, RICAP three with the other quadrants. In RICAP a member shows a random window of its picture, so a
member also has a shift. Labels weigh what is seen: a share times an area, exact to float32.

Sources: MixUp arXiv 1710.09412, CutMix arXiv 1905.04899, RICAP arXiv 1811.09030.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from kernels import philox
from kernels.augmentation import Augmentation
from kernels.beta import quantiles
from kernels.philox import Key, Words, below


class Mixed(NamedTuple):
    """What mixing reads and writes beside the images."""

    labels: Tensor  # int64 (N,), of the data set
    step: Key
    out_labels: Tensor  # int64 (B, K)
    out_weights: Tensor  # float32 (B, K)


class Plan(NamedTuple):
    """What makes up every image of a batch of B with K members; (B, K) each."""

    image: Tensor  # int64, its index in the data set
    weight: Tensor  # float32, of the labels; a row sums to 1
    share: Tensor  # float32, of the member inside its rectangle; 0 if it is not used
    top: Tensor  # int64, the rectangle [top, bottom) x [left, right) in output pixels
    bottom: Tensor
    left: Tensor
    right: Tensor
    shift_y: Tensor  # int64: output pixel (y, x) shows the member's pixel (y + shift_y, x + shift_x)
    shift_x: Tensor

    def wanted(self) -> tuple[Tensor, list[Tensor]]:
        """The images to make, each member 0 and then those further members that are seen, and whose they are: the rows
        in which member k has something to paint, for every k."""
        seen = (self.bottom > self.top) & (self.right > self.left)
        rows = [column.nonzero()[:, 0] for column in seen.unbind(1)]
        return torch.cat([self.image[:, 0], *(self.image[some, k] for k, some in enumerate(rows) if k)]), rows

    def see(self, k: int, rows: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Shares and shifted pictures of member k in `rows`, (R, S, 3 S) both: a broadcast over an innermost axis of
        three channels would not vectorise."""
        size = pictures.shape[1]
        top, bottom, left, right, shift_y, shift_x = (column[rows, k, None] for column in self[3:])
        position = torch.arange(size, device=rows.device)
        inside_y = (position >= top) & (position < bottom)
        inside_x = ((position >= left) & (position < right)).repeat_interleave(3, 1)
        share = (inside_y * self.share[rows, k, None])[:, :, None] * inside_x[:, None, :]
        moved = ((shift_y != 0) | (shift_x != 0))[:, 0].nonzero()[:, 0]
        y, x = ((position + shift[moved]).clamp(0, size - 1) for shift in (shift_y, shift_x))
        shown = pictures.index_copy(0, moved, pictures[moved[:, None, None], y[:, :, None], x[:, None, :]])
        return share, shown.flatten(2)


class _Draw(NamedTuple):
    """What a batch of B draws; (B,) each."""

    mixup: Tensor  # bool
    cutmix: Tensor
    ricap: Tensor
    share: Tensor  # float32, of MixUp's partner
    side: Tensor  # int64, of CutMix's box
    cut_y: Tensor  # int64, where RICAP's quadrants meet
    cut_x: Tensor
    place_y: Words  # where CutMix's box and RICAP's windows lie
    place_x: Words


def plan(augmentation: Augmentation, seed: Key, epoch: Key, step: Key, index: Tensor, total: int) -> Plan:
    """Draws the mix of every image of the batch `index`, int64 (B,), from a data set of `total` images.

    Per sample the key is (seed, epoch, image), and partners come from the whole data set; per batch it is (seed, step),
    and the partners are other images of the batch, all of them equally far on in it.
    """
    per_batch = augmentation.mix_per == "batch"
    key = torch.zeros_like(index) + step if per_batch else index
    streams = (philox.MIX, philox.PARTNER, philox.PLACE_Y, philox.PLACE_X)
    words = philox.draw(seed, 0 if per_batch else epoch, key, streams)
    draw = _draw(augmentation, words)
    members = [_member(k, draw, augmentation.size) for k in range(augmentation.members)]
    share, top, bottom, left, right, shift_y, shift_x = (
        torch.stack(column, 1) for column in zip(*members, strict=True)
    )
    image = torch.stack([_partner(k, index, words[philox.PARTNER], total, per_batch) for k in range(len(members))], 1)

    pixels = augmentation.size**2
    area = (bottom - top) * (right - left)
    weight = share * (area.to(torch.float32) / pixels)
    rest = (pixels - area[:, 1:].sum(1)).to(torch.float32) / pixels
    weight[:, 0] = torch.where(draw.mixup, 1.0 - draw.share, rest)
    return Plan(image, weight, share, top, bottom, left, right, shift_y, shift_x)


def table(augmentation: Augmentation, device: torch.device) -> Tensor:
    """The quantiles of the augmentation's mixes: `beta.quantiles`."""
    a = augmentation
    return quantiles(a.size, a.mixup_alpha, a.cutmix_alpha, a.ricap_alpha, device)


def _draw(augmentation: Augmentation, words: dict[int, Words]) -> _Draw:
    which, first, second, _ = words[philox.MIX]
    mixup, cutmix, ricap = augmentation.mixup_end, augmentation.cutmix_end, augmentation.ricap_end
    shares, sides, cuts = table(augmentation, which.device).long()
    which, first, second = which >> 8, first >> 20, second >> 20
    return _Draw(
        mixup=which < mixup,
        cutmix=(which >= mixup) & (which < cutmix),
        ricap=(which >= cutmix) & (which < ricap),
        share=shares[first] * 2.0**-16,
        side=sides[first],
        cut_y=cuts[first],
        cut_x=cuts[second],
        place_y=words[philox.PLACE_Y],
        place_x=words[philox.PLACE_X],
    )


def _member(k: int, draw: _Draw, size: int) -> tuple[Tensor, ...]:
    """(share, top, bottom, left, right, shift_y, shift_x) of member k, (B,) each."""
    zero = torch.zeros_like(draw.side)
    # RICAP's quadrant k: its bits tell right from left and lower from upper.
    top, bottom = (draw.cut_y, zero + size) if k & 2 else (zero, draw.cut_y)
    left, right = (draw.cut_x, zero + size) if k & 1 else (zero, draw.cut_x)
    shift_y = torch.where(draw.ricap, below(draw.place_y[k], size + 1 - (bottom - top)) - top, zero)
    shift_x = torch.where(draw.ricap, below(draw.place_x[k], size + 1 - (right - left)) - left, zero)
    used = draw.ricap
    share = torch.ones_like(draw.share)
    if k == 1:
        used = draw.ricap | draw.cutmix | draw.mixup
        y = below(draw.place_y[0], size) - draw.side // 2
        x = below(draw.place_x[0], size) - draw.side // 2
        top, bottom = torch.where(draw.cutmix, y, top), torch.where(draw.cutmix, y + draw.side, bottom)
        left, right = torch.where(draw.cutmix, x, left), torch.where(draw.cutmix, x + draw.side, right)
        top, bottom = torch.where(draw.mixup, 0, top), torch.where(draw.mixup, size, bottom)
        left, right = torch.where(draw.mixup, 0, left), torch.where(draw.mixup, size, right)
        share = torch.where(draw.mixup, draw.share, share)
    edges = (torch.where(used, edge, 0).clamp(0, size) for edge in (top, bottom, left, right))
    return (share, *edges, shift_y, shift_x)


def _partner(k: int, index: Tensor, words: Words, total: int, per_batch: bool) -> Tensor:
    """The data-set index of member k, int64 (B,)."""
    if k == 0:
        return index
    if not per_batch:
        return below(words[k - 1], total)
    count = len(index)
    place = torch.arange(count, device=index.device) + 1 + below(words[k - 1], count - 1)
    return index[place % count]


def paint(pictures: Tensor, plan: Plan, rows: list[Tensor]) -> Tensor:
    """Paints the pictures of `Plan.wanted`, float32 (M, S, S, 3), over each other: (B, S, S, 3)."""
    base, *others = pictures.split([len(plan.image), *(len(some) for some in rows[1:])])
    for k, some in enumerate(rows):
        old = base.index_select(0, some)
        share, member = plan.see(k, some, others[k - 1] if k else old)
        base.index_copy_(0, some, torch.lerp(old.flatten(2), member, share).view_as(old))
    return base
