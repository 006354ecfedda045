"""resnet18: the baseline of mynet, ImageNet's ResNet-18 as it is.

Published: 73.6 % in about 360 s on a T4, without augmentation and without normalising.
"""

from dataclasses import replace

from speedrun.config import AugmentConfig, ModelConfig
from speedrun.recipes import mynet

SUMMARY = "ImageNet's ResNet-18 with its 7x7 stem, 11.2 M parameters; published: 73.6 %"
MODEL = ModelConfig(
    family="resnet", widths=(64, 128, 256, 512), blocks=(2, 2, 2, 2), stem="imagenet", activation="relu"
)
CONFIG = replace(mynet.CONFIG, recipe="resnet18", model=MODEL)
PUBLISHED = replace(
    mynet.PUBLISHED,
    recipe="resnet18",
    model=MODEL,
    augment=AugmentConfig(flip="none", translate=0, cutout=0),
    normalise=False,
)
