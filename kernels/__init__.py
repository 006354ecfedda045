"""Device kernels: uint8 NHWC images in, augmented channels-last half out, in one pass.

The public names load on first use, so `import kernels` imports neither torch nor Triton:

    from kernels import Augmentation, augment

    images = torch.from_numpy(array).cuda()              # uint8 (N, H, W, 3), the whole data set
    recipe = Augmentation(flip="random", translate=4)    # a compile-time constant
    batch = augment(images, index, recipe, mean=mean, std=std, seed=0, epoch=3, dtype=torch.float16)

`batch` is (B, 3, H, W) in channels-last memory format. What happens to an image depends on (seed, epoch, its index in
the data set) alone: not on the batch that it is in, nor on the device.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {"Augmentation": "kernels.augmentation", "augment": "kernels.augment", "view": "kernels.augment"}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kernels' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
