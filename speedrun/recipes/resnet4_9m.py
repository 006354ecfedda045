"""resnet4.9m: a fixed ResNet under 5 million parameters, trained by AdamW.

Published: 93.93 % at best, 92 % after 50 epochs, with 4,918,602 parameters.
"""

from dataclasses import replace

from speedrun.config import Config, ModelConfig, OptimConfig
from speedrun.recipes import resnet5m
from speedrun.recipes._parts import CROP_AND_FLIP

SUMMARY = "fixed ResNet of 4.92 M parameters; published, by AdamW: 93.93 %"
MODEL = ModelConfig(
    family="resnet", widths=(64, 128, 256), blocks=(3, 5, 3), activation="relu", parameter_limit=5_000_000
)
CONFIG = replace(resnet5m.CONFIG, recipe="resnet4.9m", model=MODEL)
PUBLISHED = Config(
    recipe="resnet4.9m",
    epochs=50,
    batch_size=128,
    resolutions=(32,),
    tta="none",
    model=MODEL,
    augment=CROP_AND_FLIP,
    optim=OptimConfig(
        filters="adamw",
        lr=1e-3,
        momentum=0.9,
        weight_decay=0.05,
        label_smoothing=0.0,
        schedule="cosine",
        warmup=0.1,
        start_lr=0.01,
    ),
)
