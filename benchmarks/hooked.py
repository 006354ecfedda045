"""Runs a script that has hooks in place of a program, as Fulcrum's E1 has, and prints its runs as airbench's table.

    python -m benchmarks.hooked SCRIPT             # CIFAR-10 as airbench keeps it, in cifar10/ beside it

The hooks (github.com/fulcrumresearch/cifar-10-speedrun): `setup()` builds, compiles and captures when it is first
called, and gives a net that was never trained with its augmented batches, then and later; `train(model, extra, ctx)`
trains it; `model.eval_forward(images)` are the logits of normalised images. What airbench's clock counts is counted:
whitening, augmentation, training, and the evaluation in airbench's six views. E1's own protocol counts set-up, so it is
counted here; the first, which compiles, belongs to a run that only warms up. Pauses, in which a chip would cool, are
left out. It goes on until it is ended.
"""

import importlib.util
import itertools
import math
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from benchmarks.printed import ACCURACY, SECONDS
from speedrun.device import synchronize
from speedrun.evaluate import Evaluator, accuracy
from speedrun.stream import Normalization

DATA = "cifar10"
# What these scripts normalise by.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


class Context:
    """What a training may ask for on its way: scores, which it does not get."""

    def validate(self, *arguments: Any, **named: Any) -> None:
        """Say nothing."""


class Net(torch.nn.Module):
    """A hooked model as an evaluator calls it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.eval_forward(images)


def load(path: Path) -> ModuleType:
    """The script as a module; it finds its data by a variable of the environment."""
    os.environ["CIFAR_DATA"] = DATA
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(script: ModuleType, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Accuracy on uint8 images (N, H, W, 3) and seconds of a training, set-up and evaluation included."""
    synchronize(images.device)
    start = time.perf_counter()
    model, extra = script.setup()
    script.train(model, extra, Context())
    normalization = Normalization(torch.tensor(MEAN, device=images.device), torch.tensor(STD, device=images.device))
    dtype = torch.half if images.is_cuda else torch.float32
    net, side = Net(model), min(images.shape[1:3])
    evaluator = Evaluator(net, images, normalization=normalization, dtype=dtype, size=side)
    logits = evaluator.with_views(evaluator.plain(), "full", 1.0, time_left=lambda: math.inf, view_seconds=0.0)
    found = accuracy(logits, labels)
    return found, time.perf_counter() - start


def main() -> None:
    time.sleep = lambda seconds: None
    script = load(Path(sys.argv[1]))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    test = torch.load(Path(DATA) / "test.pt", map_location=device, weights_only=True)
    print(f"|  run  |  epoch  |  {ACCURACY}  |  {SECONDS[0]}  |", flush=True)
    for number in itertools.count():
        found, seconds = run(script, test["images"], test["labels"])
        print(f"|  {number - 1 if number else 'warmup'}  |  eval  |  {found:.4f}  |  {seconds:.4f}  |", flush=True)


if __name__ == "__main__":
    main()
