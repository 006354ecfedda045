"""A sheet of real images under every operation, to look at: wrong colours and borders show at once.

    python -m benchmarks.augment_sheet --out FILE.png [--data-dir DIR] [--method fused]

A row an operation, a column an image; its first row shows the images themselves.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from kernels import philox
from kernels.augment import mix, view
from kernels.augmentation import Augmentation
from kernels.policy import NAMES
from speedrun import data
from speedrun import device as devices
from speedrun.errors import SpeedrunError, UsageError

SCALE, LABEL, GAP = 3, 190, 2  # pixels: of an image's pixel, of a row's name, between images
COLUMNS = 12
ROWS = {
    "as they are": Augmentation(),
    "mirror (random)": Augmentation(flip="random"),
    "translate 8, reflect": Augmentation(translate=8),
    "translate 8, edge": Augmentation(translate=8, padding="edge"),
    "translate 8, zero": Augmentation(translate=8, padding="zero"),
    "cutout 12": Augmentation(cutout=12),
    "holes, 8 of 8": Augmentation(holes=1.0),
    "24 pixels": Augmentation(size=24),
    "16 pixels": Augmentation(size=16),
    "affine, 30 degrees": Augmentation(affine=1.0, affine_rotate=30, affine_scale=0.2),
    "affine, zero": Augmentation(affine=1.0, affine_rotate=30, affine_scale=0.2, padding="zero"),
    "brightness, contrast": Augmentation(tone=1.0),
    "hue, saturation, value": Augmentation(hue=1.0),
    "grayscale": Augmentation(grayscale=1.0),
    "mixup": Augmentation(mixup=1.0, mixup_alpha=1.0),
    "cutmix": Augmentation(cutmix=1.0),
    "ricap": Augmentation(ricap=1.0, ricap_alpha=1.0),
    "all of dsnet": Augmentation(
        flip="random", affine=0.5, tone=0.5, hue=0.5, holes=0.3, mixup=0.3, cutmix=0.3, ricap=0.2
    ),
}


def sheet(images: torch.Tensor, method: str) -> Image.Image:
    """images: uint8 (N, H, W, 3)."""
    # Mean and deviation of one half, so that what is erased is gray and every byte can be told from the result.
    half = torch.full((3,), 0.5, device=images.device)
    common: dict[str, Any] = {"mean": half, "std": half, "dtype": torch.float32, "method": method}
    labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    first = torch.arange(COLUMNS, device=images.device)
    rows: list[tuple[str, torch.Tensor]] = []
    for name, augmentation in ROWS.items():
        rows.append((name, mix(images, labels, first, augmentation, seed=0, epoch=0, **common)[0]))
    for name, shift in (("view: mirror, 4 down", (-4, 0)), ("view: mirror, 4 right", (0, -4))):
        made = view(images, first, flip=True, shift=shift, size=32, padding="reflect", **common)
        rows.append((name, made))
    trivial = Augmentation(policy="trivial")
    for operation, name in enumerate(NAMES):
        index = _drawn(images, operation)
        rows.append((f"policy: {name}", mix(images, labels, index, trivial, seed=0, epoch=0, **common)[0]))
    return _draw(rows)


def _drawn(images: torch.Tensor, operation: int) -> torch.Tensor:
    """The first images of the data set that the policy gives this operation under seed 0 in epoch 0."""
    index = torch.arange(min(len(images), 4000), device=images.device)
    word = philox.draw(0, 0, index, [philox.POLICY])[philox.POLICY][0]
    return index[philox.below(word, len(NAMES)) == operation][:COLUMNS].contiguous()


def _draw(rows: list[tuple[str, torch.Tensor]]) -> Image.Image:
    cell = 32 * SCALE + GAP
    paper = Image.new("RGB", (LABEL + COLUMNS * cell, len(rows) * cell), "white")
    pen = ImageDraw.Draw(paper)
    for y, (name, batch) in enumerate(rows):
        pen.text((4, y * cell + cell // 2 - 6), name, fill="black")
        pixels = (batch.permute(0, 2, 3, 1) * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        for x, picture in enumerate(pixels):
            scaled = Image.fromarray(np.ascontiguousarray(picture)).resize(
                (picture.shape[1] * SCALE, picture.shape[0] * SCALE), Image.Resampling.NEAREST
            )
            paper.paste(scaled, (LABEL + x * cell, y * cell))
    return paper


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the picture to write")
    parser.add_argument("--data-dir", type=Path, default=None, help="where CIFAR-10 is")
    parser.add_argument("--method", default="auto", choices=("auto", "fused", "torch"))
    options = parser.parse_args()
    if options.out.suffix.lower() not in Image.registered_extensions():
        raise UsageError(f"--out {options.out}: no kind of picture ends so; .png is one")
    found = data.load("cifar10", data_dir=options.data_dir)  # "auto" might give generated images
    images = torch.from_numpy(found.train_images).to(devices.choose("auto").device)
    paper = sheet(images, options.method)
    try:
        paper.save(options.out)
    except (OSError, KeyError, ValueError) as error:  # of a place, or of a kind that can only be read
        raise SpeedrunError(f"--out {options.out} cannot be written: {error}") from None
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpeedrunError as error:
        print(f"augment_sheet: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
