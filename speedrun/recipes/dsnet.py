"""dsnet: the best net under 200,000 parameters, from depthwise-separable convolutions.

Published: 87.42 % with 150,690 parameters, up to 200 epochs, 0.23 h on a GPU. Its averaged weights scored 12.08 %
once, its test views 47.24 %: here the average keeps its own batch-norm statistics, and views are those of training.
"""

from dataclasses import replace

from speedrun.config import AugmentConfig, Config, ModelConfig, OptimConfig, ValidationConfig
from speedrun.recipes._parts import MUON

SUMMARY = "depthwise-separable net under 200,000 parameters; published: 87.42 %"
MODEL = ModelConfig(
    family="dsnet",
    widths=(20, 40, 80, 160),
    blocks=(2, 2, 2, 2),
    activation="relu",
    dropout=0.2,
    parameter_limit=200_000,
)
CONFIG = Config(
    recipe="dsnet",
    model=MODEL,
    augment=AugmentConfig(cutout=0),
    optim=replace(MUON, ema=0.99),
)
PUBLISHED = Config(
    recipe="dsnet",
    epochs=200,
    batch_size=128,
    resolutions=(32,),
    tta="mirror",
    validation=ValidationConfig(count=200, patience=30),
    model=MODEL,
    augment=AugmentConfig(
        flip="random", translate=0, cutout=0, affine=0.5, tone=0.5, hue=0.5, holes=0.3, mixup=0.3, cutmix=0.3, ricap=0.2
    ),
    optim=OptimConfig(
        filters="sgd",
        lr=0.05,
        momentum=0.9,
        weight_decay=1e-4,
        label_smoothing=0.1,
        schedule="cosine",
        warmup=0.025,
        start_lr=0.0,
        clip=1.0,
        ema=0.999,
    ),
)
