"""Wrong arguments, one line each and before anything runs; kernels that fail; machines without Triton."""

import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_kernels import DEVICE, MEAN, METHODS, STD, images, run

from kernels import augment as module
from kernels.augment import augment, mix, view
from kernels.augmentation import Augmentation

WRONG = [
    {"size": 0},
    {"flip": "sometimes"},
    {"padding": "wrap"},
    {"translate": -1},
    {"cutout": 33},
    {"holes": 1.1},
    {"holes": 0.5, "hole_size": 40},
    {"holes": 0.5, "hole_count": 99},
    {"affine_scale": 1.0},
    {"mixup": 0.6, "ricap": 0.6},
    {"mixup_alpha": 0.0},
    {"policy": "auto"},
    {"mix_per": "epoch"},
    {"brightness": -0.1},
    *({name: 8.0} for name in ("size", "translate", "cutout", "hole_count", "hole_size")),
    {"size": True},
    {"translate": None},
    *({name: float("nan")} for name in ("affine", "mixup", "affine_scale", "mixup_alpha", "contrast")),
    *({name: float("inf")} for name in ("affine_shift", "affine_rotate", "hue_shift", "saturation_shift")),
    {"value_shift": "0.1"},
]


@pytest.mark.parametrize("fields", WRONG, ids=str)
def test_an_augmentation_out_of_range_is_refused(fields):
    with pytest.raises(ValueError, match=next(reversed(fields)).split("_")[0]):
        Augmentation(**fields)


@pytest.fixture
def nothing_runs(monkeypatch):
    monkeypatch.setattr(module, "render", lambda *_: pytest.fail("the twin ran"))
    monkeypatch.setattr("kernels.fused.launch", lambda *_: pytest.fail("the kernel ran"))


def arguments(method: str) -> dict:
    return {
        "images": images(4).to(DEVICE),
        "index": torch.zeros(2, dtype=torch.int64, device=DEVICE),
        "augmentation": Augmentation(),
        "mean": torch.tensor(MEAN, device=DEVICE),
        "std": torch.tensor(STD, device=DEVICE),
        "seed": 0,
        "epoch": 0,
        "dtype": torch.float32,
        "method": method,
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("name", "wrong", "error"),
    [
        ("images", lambda: torch.zeros(4, 32, 32, 3), TypeError),
        ("images", lambda: torch.zeros(4, 3, 32, 32, dtype=torch.uint8), ValueError),
        ("images", lambda: torch.zeros(4, 32, 32, 6, dtype=torch.uint8)[..., ::2], ValueError),
        ("images", lambda: torch.zeros(4, 24, 24, 3, dtype=torch.uint8), ValueError),
        ("index", lambda: torch.zeros(2, dtype=torch.int32), TypeError),
        ("index", lambda: torch.zeros((2, 1), dtype=torch.int64), ValueError),
        ("index", lambda: torch.zeros(4, dtype=torch.int64)[::2], ValueError),
        ("index", lambda: torch.zeros(2, dtype=torch.int64, device="meta"), ValueError),
        ("mean", lambda: torch.zeros(3, dtype=torch.float64), TypeError),
        ("std", lambda: torch.ones(1), TypeError),
        ("dtype", lambda: torch.float64, TypeError),
        ("out", lambda: torch.zeros(2, 3, 32, 32), ValueError),
        ("out", lambda: torch.zeros(3, 3, 32, 32).to(memory_format=torch.channels_last), ValueError),
        ("method", lambda: "magic", ValueError),
        ("augmentation", lambda: Augmentation(translate=32), ValueError),
        ("augmentation", lambda: Augmentation(cutmix=1.0), ValueError),
    ],
)
@pytest.mark.usefixtures("nothing_runs")
def test_T2_wrong_arguments_are_refused_before_anything_runs(name, wrong, error, method):
    with torch.device(DEVICE):
        change = {name: wrong()}
    with pytest.raises(error):
        augment(**{**arguments(method), **change})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["seed", "epoch", "step"])
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda: -1, ValueError),
        (lambda: 2**63, ValueError),
        (lambda: 0.5, TypeError),
        (lambda: True, TypeError),
        (lambda: np.float64(1), TypeError),
        (lambda: "1", TypeError),
        (lambda: torch.tensor(1.0), TypeError),
        (lambda: torch.tensor(1, dtype=torch.int32), TypeError),
        (lambda: torch.tensor([1]), TypeError),
        (lambda: torch.tensor(1, device="meta"), ValueError),
    ],
)
@pytest.mark.usefixtures("nothing_runs")
def test_T2_keys_are_refused_before_anything_runs(wrong, error, name, method):
    with torch.device(DEVICE):
        labels, change = torch.zeros(4, dtype=torch.int64), {name: wrong()}
    with pytest.raises(error, match=name):
        mix(labels=labels, **{**arguments(method), "augmentation": Augmentation(cutmix=1.0), **change})
    if name != "step":
        with pytest.raises(error, match=name):
            augment(**{**arguments(method), **change})


@pytest.mark.usefixtures("nothing_runs")
def test_a_view_farther_than_the_image_is_refused():
    tensor = torch.tensor(STD)
    with pytest.raises(ValueError, match="shift"):
        view(
            images(4),
            torch.arange(2),
            flip=False,
            shift=(0, 32),
            size=32,
            padding="reflect",
            mean=tensor,
            std=tensor,
            dtype=torch.float32,
        )


@pytest.fixture
def launches(monkeypatch):
    """As on CUDA, for `auto` takes the kernel there only: a list of what the next launches do, None or an error."""
    fused = pytest.importorskip("kernels.fused")
    outcomes: list[Exception | None] = []

    def launch(*_):
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    monkeypatch.setattr(fused, "launch", launch)
    monkeypatch.setattr(module, "_on_device", lambda _: True)
    monkeypatch.setattr(module, "_launches", {})
    module._warn.cache_clear()
    yield outcomes
    module._warn.cache_clear()


def test_G6_a_kernel_that_cannot_be_compiled_gives_the_twin_and_one_warning(launches):
    launches += [RuntimeError("Failed to find C compiler")] * 2
    everything, index = Augmentation(flip="random", hue=0.5, policy="trivial"), torch.arange(5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for augmentation in (everything, Augmentation(flip="random"), everything):
            made = run(images(), index, augmentation, method="auto")
            assert torch.equal(made, run(images(), index, augmentation))
    assert launches == []  # each was tried once
    assert [type(warning.message) for warning in caught] == [RuntimeWarning]
    assert "Failed to find C compiler" in str(caught[0].message)


@pytest.mark.parametrize(
    ("message", "capturing", "before"),
    [
        ("Triton Error [CUDA]: out of memory", False, []),
        ("operation not permitted when stream is capturing", True, []),
        ("an illegal memory access was encountered", False, [None]),
    ],
)
def test_a_failure_that_is_not_the_compilers_is_raised(message, capturing, before, launches, monkeypatch):
    monkeypatch.setattr(module, "_capturing", lambda _: capturing)
    launches += [*before, RuntimeError(message), None]
    for _ in before:
        run(images(), [1], Augmentation(), method="auto")
    with pytest.raises(RuntimeError, match=message.replace("[", r"\[")):
        run(images(), [1], Augmentation(), method="auto")
    run(images(), [1], Augmentation(), method="auto")  # and the kernel is not given up
    assert launches == []


def test_G2_without_triton_a_gpu_gets_one_warning(monkeypatch):
    monkeypatch.setattr(module.backend, "ENABLED", False)
    module._warn.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert not any(module._on_device(SimpleNamespace(is_cuda=cuda)) for cuda in (True, False, True))
    module._warn.cache_clear()
    assert ["Triton is not installed" in str(warning.message) for warning in caught] == [True]


def test_G2_without_triton_everything_loads_and_the_twin_runs():
    code = """
import os, sys
os.environ.pop("TRITON_INTERPRET", None)
sys.modules["triton"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name == "triton" else find(name, *a)
import kernels
assert "torch" not in sys.modules
import torch
import kernels.fused
from kernels.augment import Augmentation, augment
images = torch.zeros((4, 32, 32, 3), dtype=torch.uint8)
third = torch.full((3,), 0.5)
augmentation = Augmentation(flip="random", policy="trivial")
options = dict(mean=third, std=third, seed=0, epoch=0, dtype=torch.float16)
print(augment(images, torch.arange(4), augmentation, **options).shape)
try:
    augment(images, torch.arange(4), augmentation, method="fused", **options)
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([4, 3, 32, 32])" in done.stdout
    assert "needs Triton" in done.stdout
