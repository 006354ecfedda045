"""The kernel's half of mixing: what `kernels.mixing` plans, drawn anew for each image where it is needed."""

from kernels import philox
from kernels.backend import constant, jit, tl
from kernels.philox import below_jit, words_jit

_MIX, _PARTNER = constant(philox.MIX), constant(philox.PARTNER)
_PLACE_Y, _PLACE_X = constant(philox.PLACE_Y), constant(philox.PLACE_X)


@jit
def member_jit(k, seed, key, key_epoch, table, A: tl.constexpr):
    """(share, top, bottom, left, right, shift_y, shift_x) of member k, as `_member` has them."""
    SIZE: tl.constexpr = A.value.size
    MIXUP: tl.constexpr = A.value.mixup_end
    CUTMIX: tl.constexpr = A.value.cutmix_end
    RICAP: tl.constexpr = A.value.ricap_end
    which, first, second, _ = words_jit(seed, key_epoch, key, _MIX)
    y0, y1, y2, y3 = words_jit(seed, key_epoch, key, _PLACE_Y)
    x0, x1, x2, x3 = words_jit(seed, key_epoch, key, _PLACE_X)
    which = (which >> 8).to(tl.int32)
    first = (first >> 20).to(tl.int32)
    second = (second >> 20).to(tl.int32)
    mixup = which < MIXUP
    cutmix = (which >= MIXUP) & (which < CUTMIX)
    ricap = (which >= CUTMIX) & (which < RICAP)
    cut_y = tl.load(table + 8192 + first)
    cut_x = tl.load(table + 8192 + second)
    # RICAP's quadrant k: its bits tell right from left and lower from upper.
    is_right, is_lower = k & 1, k >> 1
    top, bottom = is_lower * cut_y, is_lower * SIZE + (1 - is_lower) * cut_y
    left, right = is_right * cut_x, is_right * SIZE + (1 - is_right) * cut_x
    shift_y = tl.where(ricap, below_jit(_choose_jit(k, y0, y1, y2, y3), SIZE + 1 - (bottom - top)) - top, 0)
    shift_x = tl.where(ricap, below_jit(_choose_jit(k, x0, x1, x2, x3), SIZE + 1 - (right - left)) - left, 0)
    # Member 1 may be CutMix's box or MixUp's whole square instead.
    is_partner = mixup == mixup
    is_partner = is_partner & (k == 1)
    mixup, cutmix = mixup & is_partner, cutmix & is_partner
    side = tl.load(table + 4096 + first)
    y = below_jit(y0, SIZE) - side // 2
    x = below_jit(x0, SIZE) - side // 2
    top = tl.where(mixup, 0, tl.where(cutmix, y, top))
    bottom = tl.where(mixup, SIZE, tl.where(cutmix, y + side, bottom))
    left = tl.where(mixup, 0, tl.where(cutmix, x, left))
    right = tl.where(mixup, SIZE, tl.where(cutmix, x + side, right))
    share = tl.where(mixup, tl.load(table + first).to(tl.float32) * (1.0 / 65536.0), 1.0)
    used = ricap | cutmix | mixup
    return (
        share,
        _edge_jit(used, top, SIZE),
        _edge_jit(used, bottom, SIZE),
        _edge_jit(used, left, SIZE),
        _edge_jit(used, right, SIZE),
        shift_y,
        shift_x,
    )


@jit
def _edge_jit(used, edge, SIZE: tl.constexpr):
    return tl.where(used, tl.minimum(tl.maximum(edge, 0), SIZE), 0)


@jit
def _choose_jit(k, first, second, third, fourth):
    return tl.where(k == 0, first, tl.where(k == 1, second, tl.where(k == 2, third, fourth)))


@jit
def partner_jit(k, seed, key, key_epoch, index, rows, own, count, total, A: tl.constexpr):
    """The data-set index of member k, int64. rows: the batch's rows; own: their images; index: the batch."""
    MIX_PER: tl.constexpr = A.value.mix_per
    first, second, third, _ = words_jit(seed, key_epoch, key, _PARTNER)
    word = _choose_jit(k, first, first, second, third)
    if MIX_PER == "sample":
        partner = tl.umulhi(word, word * 0 + total.to(tl.uint32)).to(tl.int64)
    else:
        distance = 1 + below_jit(word, count.to(tl.uint32) - 1).to(tl.int64)
        partner = tl.load(index + (rows + distance) % count, mask=rows < count, other=0)
    return tl.where(k == 0, own, partner)


@jit
def area_jit(k, seed, key, key_epoch, table, A: tl.constexpr):
    """The area of member k's rectangle, in pixels."""
    _, top, bottom, left, right, _, _ = member_jit(k, seed, key, key_epoch, table, A)
    return (bottom - top) * (right - left)


@jit
def weight_jit(k: tl.constexpr, seed, key, key_epoch, table, A: tl.constexpr):
    """The weight of member k's label, float32."""
    MEMBERS: tl.constexpr = A.value.members
    MIXUP: tl.constexpr = A.value.mixup_end
    SIZE: tl.constexpr = A.value.size
    which, _, _, _ = words_jit(seed, key_epoch, key, _MIX)
    share, _, _, _, _, _, _ = member_jit(1, seed, key, key_epoch, table, A)
    mixup = (which >> 8).to(tl.int32) < MIXUP
    if k == 0:
        area = SIZE * SIZE - area_jit(1, seed, key, key_epoch, table, A)
        for other in tl.static_range(2, MEMBERS):
            area -= area_jit(other, seed, key, key_epoch, table, A)
        share = 1.0 - share
    else:
        area = area_jit(k, seed, key, key_epoch, table, A)
    part = tl.div_rn(area.to(tl.float32), SIZE * SIZE * 1.0)
    return tl.where(mixup & (k < 2), share, part)


@jit
def inside_jit(y, x, top, bottom, left, right):
    """Whether output pixel (y, x) lies in the rectangle."""
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)


@jit
def store_labels_jit(
    labels, table, out_labels, out_weights, index, rows, own, count, total, seed, key, key_epoch, corner,
    A: tl.constexpr,
):  # fmt: skip
    """Writes the labels and weights of all members. corner: 0 in the one block of an image that is to do it."""
    MEMBERS: tl.constexpr = A.value.members
    wanted = rows < tl.where(corner == 0, count, 0)
    if MEMBERS == 1:
        tl.store(out_labels + rows, tl.load(labels + own, mask=wanted, other=0), mask=wanted)
        tl.store(out_weights + rows, tl.full(rows.shape, 1.0, tl.float32), mask=wanted)
    else:
        for k in tl.static_range(MEMBERS):
            source = partner_jit(k, seed, key, key_epoch, index, rows, own, count, total, A)
            weight = weight_jit(k, seed, key, key_epoch, table, A)
            tl.store(out_labels + rows * MEMBERS + k, tl.load(labels + source, mask=wanted, other=0), mask=wanted)
            tl.store(out_weights + rows * MEMBERS + k, weight, mask=wanted)
