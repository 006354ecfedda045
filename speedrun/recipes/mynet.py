"""mynet: ten minutes on one GPU, no pretrained weights.

Published: 83.84 % after 20 epochs, 9.2 min on a T4.
"""

from dataclasses import replace

from speedrun.config import AugmentConfig, Config, ModelConfig
from speedrun.recipes._parts import CROP_AND_FLIP, MUON, SGD

SUMMARY = "plain and depthwise-separable convolutions, 2.48 M parameters; published: 83.84 %"
MODEL = ModelConfig(family="mynet", widths=(64, 128, 256), activation="relu", dropout=0.2)
CONFIG = Config(
    recipe="mynet",
    model=MODEL,
    augment=AugmentConfig(cutout=0),
    optim=MUON,
)
PUBLISHED = Config(
    recipe="mynet",
    epochs=20,
    batch_size=256,
    resolutions=(32,),
    tta="none",
    model=MODEL,
    augment=CROP_AND_FLIP,
    optim=replace(SGD, lr=0.1, warmup=0.3, start_lr=0.04),
)
