"""resnet5m: the best ResNet under 5 million parameters that a random search finds.

Published: 94.60 % after 200 epochs, 91.98 at 100, 90.59 at 50. The search's own result is not known: these are three
stages of 4, 4 and 3 blocks, 4,697,162 parameters.
"""

from dataclasses import replace

from speedrun.config import AugmentConfig, Config, ModelConfig
from speedrun.recipes._parts import CROP_AND_FLIP, MUON, SGD

SUMMARY = "ResNet under 5 M parameters, its sizes open to search; published: 94.60 %"
MODEL = ModelConfig(
    family="resnet", widths=(64, 128, 256), blocks=(4, 4, 3), activation="relu", parameter_limit=5_000_000
)
SPACE = {
    "model.blocks": "1..5 x 2..4",
    "model.widths": "32|48|64|96|128|192|256 x 2..4",
    "model.kernels": "1|3|5 x 2..4",
    "model.skip_kernels": "1|3 x 2..4",
    "model.pool": "1|2|4|8",
    "optim.lr": "log:0.05..0.5",
}
CONFIG = Config(
    recipe="resnet5m",
    model=MODEL,
    augment=AugmentConfig(translate=4, cutout=0),
    optim=MUON,
)
PUBLISHED = Config(
    recipe="resnet5m",
    epochs=200,
    batch_size=128,
    resolutions=(32,),
    tta="none",
    model=MODEL,
    augment=CROP_AND_FLIP,
    optim=replace(SGD, lr=0.1),
)
