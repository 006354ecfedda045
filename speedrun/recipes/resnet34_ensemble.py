"""resnet34-ensemble: ten ResNet-34, their probabilities averaged.

Published: 95.09 % for ten nets of 21,282,122 parameters each, in 2.5 h on an L4 after a random search for the rate, ten
at a time for five epochs each, in a range that narrows:
`python -m speedrun search --recipe resnet34-ensemble-published --epochs 5 --trials 30 --rounds 3`.
"""

from dataclasses import replace

from speedrun.config import AugmentConfig, Config, ModelConfig, ValidationConfig
from speedrun.recipes._parts import CROP_AND_FLIP, MUON, SGD

SUMMARY = "ten ResNet-34 with a 3x3 stem, 21.3 M parameters each; published: 95.09 %"
MODEL = ModelConfig(family="resnet", widths=(64, 128, 256, 512), blocks=(3, 4, 6, 3), activation="relu")
JOB = ("ensemble", "--members=10")
SPACE = {"optim.lr": "log:1e-6..1"}
CONFIG = Config(
    recipe="resnet34-ensemble",
    model=MODEL,
    augment=AugmentConfig(translate=4, cutout=0),
    optim=MUON,
)
PUBLISHED = Config(
    recipe="resnet34-ensemble",
    epochs=100,
    batch_size=64,
    resolutions=(32,),
    tta="none",
    validation=ValidationConfig(count=100, patience=10, delta=0.001),
    model=MODEL,
    augment=CROP_AND_FLIP,
    # The rate is what its search is for; this one is usual for the batch.
    optim=replace(SGD, lr=0.02),
)
