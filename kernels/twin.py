"""The torch composition: every operation's twin in order, a chunk of the batch at a time. Runs on any device."""

import torch
from torch import Tensor

from kernels import affine, colour, cutout, mixing, philox, policy
from kernels.augmentation import Augmentation
from kernels.flip import flips
from kernels.normalise import normalise
from kernels.philox import Key, Words
from kernels.request import Request
from kernels.resize import coordinates, resize
from kernels.sample import sample
from kernels.translate import crop, shifts

# Images at a time. On the CPU their float intermediates stay in the cache, and in malloc's heap; on a device they only
# have to fit its memory, for fewer would not fill it.
CHUNK, DEVICE_CHUNK = 256, 8192


def render(request: Request) -> None:
    """Makes a batch, a chunk at a time."""
    index, augmentation, out, mixed = request.rows, request.augmentation, request.out, request.mixed
    seed, epoch = request.seed, request.epoch
    plan = None
    words: dict[int, Words] = {}
    if mixed is not None and augmentation.members > 1:
        plan = mixing.plan(augmentation, seed, epoch, mixed.step, index, len(request.images))
        torch.index_select(mixed.labels, 0, plan.image.flatten(), out=mixed.out_labels.view(-1))
        mixed.out_weights.copy_(plan.weight)
    else:
        words = draws(augmentation, seed, epoch, index)
        if mixed is not None:
            torch.index_select(mixed.labels, 0, index, out=mixed.out_labels.view(-1))
            mixed.out_weights.fill_(1.0)
    chunk = CHUNK if out.device.type == "cpu" else DEVICE_CHUNK
    for start in range(0, len(index), chunk):
        part = slice(start, start + chunk)
        target = out[part].permute(0, 2, 3, 1)
        if plan is None:
            some = {stream: tuple(word[part] for word in four) for stream, four in words.items()}
            _pictures(request, index[part], some, target)
            continue
        here = mixing.Plan(*(column[part] for column in plan))
        wanted, rows = here.wanted()
        batch = torch.empty((len(wanted), *target.shape[1:]), device=out.device)
        _pictures(request, wanted, draws(augmentation, seed, epoch, wanted), batch)
        target.copy_(mixing.paint(batch, here, rows))


def _pictures(request: Request, index: Tensor, words: dict[int, Words], target: Tensor) -> None:
    """Writes the unmixed pictures of images `index`, int64 (B,), into floats (B, S, S, 3)."""
    images, augmentation = request.images.index_select(0, index), request.augmentation
    if augmentation.policy != "none":
        images = policy.recolour(images, words[philox.POLICY])
    batch = _geometry(images, augmentation, words, request.epoch, request.offset)
    target.copy_(normalise(colour.colour(batch, augmentation, words), request.mean, request.std))
    cutout.erase_(target, augmentation, words)


def draws(augmentation: Augmentation, seed: Key, epoch: Key, index: Tensor) -> dict[int, Words]:
    """The random words that `augmentation` needs of each image: {stream: four int64 (B,)}."""
    wanted = (
        (augmentation.flip == "random", philox.FLIP),
        (augmentation.translate > 0, philox.TRANSLATE),
        (augmentation.affine > 0, philox.AFFINE),
        (augmentation.policy != "none", philox.POLICY),
    )
    streams = [stream for on, stream in wanted if on] + colour.streams(augmentation) + cutout.streams(augmentation)
    words = philox.draw(seed, epoch, index, streams)
    if augmentation.flip == "alternating":
        words |= philox.draw(seed, 0, index, [philox.FLIP])
    return words


def _geometry(
    images: Tensor, augmentation: Augmentation, words: dict[int, Words], epoch: Key, offset: tuple[int, int]
) -> Tensor:
    """(B, H, W, 3) to float32 (B, size, size, 3): crop, mirror, warp and down-sample."""
    count, margin = len(images), augmentation.translate + max(map(abs, offset))
    dy, dx = (torch.full((count,), d, device=images.device) for d in offset)
    if augmentation.translate:
        drawn = shifts(augmentation.translate, words[philox.TRANSLATE])
        dy, dx = dy + drawn[0], dx + drawn[1]
    mirror = None
    if augmentation.flip == "always":
        mirror = torch.ones(count, dtype=torch.bool, device=images.device)
    elif augmentation.flip != "none":
        mirror = flips(augmentation.flip, words[philox.FLIP][0], epoch)
    cropped = crop(images, mirror, (dy, dx), margin, augmentation.padding)
    batch = resize(cropped.to(torch.float32), augmentation.size)
    if augmentation.warps:
        rows = _warped(augmentation, words).nonzero()[:, 0]
        some = {stream: tuple(word[rows] for word in four) for stream, four in words.items()}
        y, x = _coordinates(images, augmentation, some, None if mirror is None else mirror[rows], dy[rows], dx[rows])
        batch.index_copy_(0, rows, sample(images.index_select(0, rows), y, x, augmentation.padding))
    return batch


def _coordinates(
    images: Tensor,
    augmentation: Augmentation,
    words: dict[int, Words],
    mirror: Tensor | None,
    dy: Tensor,
    dx: Tensor,
) -> tuple[Tensor, Tensor]:
    """Where in its own image every output pixel lies: float32 (B, size, size) each."""
    h, w = images.shape[1:3]
    y = coordinates(augmentation.size, h, images.device)[None, :, None]
    x = coordinates(augmentation.size, w, images.device)[None, None, :]
    if augmentation.affine:
        y, x = affine.affine(y, x, (h, w), augmentation, words[philox.AFFINE])
    if mirror is not None:
        x = torch.where(mirror[:, None, None], w - 1 - x, x)
    y, x = y + dy[:, None, None], x + dx[:, None, None]
    if augmentation.policy != "none":
        y, x = policy.move(y, x, (h, w), words[philox.POLICY])
    return y, x


def _warped(augmentation: Augmentation, words: dict[int, Words]) -> Tensor:
    """Which images are seen at fractional coordinates that only they have: bool (B,)."""
    if augmentation.policy == "none":
        return affine.applied(augmentation, words[philox.AFFINE])
    moved = policy.moves(words[philox.POLICY])
    return moved | affine.applied(augmentation, words[philox.AFFINE]) if augmentation.affine else moved
