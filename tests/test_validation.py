"""Scores on held-out images while training: where they fall, what they cost, when they stop a run, what stays."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import colour_classes
from processes import TINY_NET
from torch import Tensor, nn

import speedrun
from speedrun import checkpoint, cli, config, data, device, predictor
from speedrun import scores as curves
from speedrun.config import Config, ValidationConfig
from speedrun.errors import UsageError
from speedrun.evaluate import Evaluator
from speedrun.machine import open_machine
from speedrun.scores import Score
from speedrun.stream import Normalization
from speedrun.validation import Validator

IMAGES = torch.zeros(300, 8, 8, 3, dtype=torch.uint8)


class Scripted(nn.Module):
    """Says class 0 for the share of images that its weight tells, and 1 for the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.zeros(()))
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        right = torch.arange(len(images)) < self.share * len(images)
        return torch.stack([right.float(), 1 - right.float()], 1)


def validator(path: Path, count: int, *, seconds: float = math.inf, **options: Any) -> Validator:
    normalization = Normalization(torch.zeros(3), torch.ones(3))
    evaluator = Evaluator(Scripted(), IMAGES, normalization=normalization, dtype=torch.float32, size=8, batch_size=300)
    labels = torch.zeros(300, dtype=torch.int64)
    settings = ValidationConfig(count=count, **options)
    return Validator(settings, evaluator, labels, image_seconds=0.01, seconds=seconds, path=path / curves.FILE)


def follow(found: Validator, accuracies: list[float]) -> list[float]:
    """Score a net of these accuracies, one after the other, until it stops; returns those that were looked at."""
    for step, accuracy in enumerate(accuracies, 1):
        found.evaluator.net.share.data.fill_(accuracy)
        found.score(step, step / len(accuracies), 0.5 * step, 2.0 * step)
        if found.stop:
            break
    return [score.accuracy for score in found.scores]


def test_scores_are_spread_evenly_and_end_with_the_run(tmp_path: Path):
    found = validator(tmp_path, 4)
    at = []
    for step in range(1, 11):
        if found.due(step / 10):
            found.score(step, step / 10, 0.0, 0.0)
            at.append(step)
    assert at == [3, 5, 8, 10]
    assert not found.due(1.0)
    assert found.seconds_left == 0


def test_the_file_holds_the_scores(tmp_path: Path):
    found = validator(tmp_path, 3)
    follow(found, [0.25, 0.5, 0.75])
    assert curves.read(tmp_path) == found.scores
    assert found.scores[1] == Score(step=2, progress=pytest.approx(2 / 3), epoch=1.0, seconds=4.0, accuracy=0.5)
    assert curves.read(tmp_path / "none") == []


def test_it_takes_a_tenth_of_the_time_at_most(tmp_path: Path):
    found = validator(tmp_path, 2, seconds=30.0)  # 3 s for two scores at 0.01 s an image: 150 images
    assert found.seconds_left == pytest.approx(3.0)
    follow(found, [0.5, 0.5])
    assert found.evaluator.net.seen == 300
    assert validator(tmp_path, 2, seconds=1.0).cost == pytest.approx(1.0)  # a hundred images are the least
    assert validator(tmp_path, 2).cost == pytest.approx(3.0)  # all of them where there is no deadline


def test_patience_counts_scores_without_a_gain_and_the_best_weights_stay(tmp_path: Path):
    curve = [0.2, 0.5, 0.52, 0.4, 0.53, 0.9]
    assert follow(validator(tmp_path, 6), curve) == pytest.approx(curve, abs=0.01)
    found = validator(tmp_path, 6, patience=2, delta=0.05)
    assert follow(found, curve) == pytest.approx(curve[:4], abs=0.01)  # 0.52 and 0.4 are the two without a gain
    found.restore()
    assert found.evaluator.net.share.item() == pytest.approx(0.5)


def test_the_curve_in_numbers():
    scores = [Score(i, i / 20, 0.0, 0.0, accuracy) for i, accuracy in enumerate([0.1] * 18 + [0.7, 0.8, 0.9])]
    first = curves.first_at(scores, 0.75)
    assert first is not None
    assert first.step == 19
    assert curves.first_at(scores, 0.95) is None
    assert curves.stability(scores) == pytest.approx(0.1)
    assert curves.stability(scores[:-2]) is None


def test_any_first_part_of_the_images_held_out_is_a_fair_sample(tmp_path: Path):
    labels = np.repeat(np.arange(10), 60)
    images = np.broadcast_to(labels[:, None, None, None], (600, 16, 16, 3)).astype(np.uint8)
    np.savez(tmp_path / "sorted.npz", images=images, labels=labels, test_images=images[:9], test_labels=labels[:9])
    chosen = device.choose("cpu", "float32")
    machine = open_machine(chosen, data.load(str(tmp_path / "sorted.npz")), holdout=True)
    pixels, truth = machine.scored()
    assert len(set(truth[:30].tolist())) >= 8
    assert torch.equal(pixels[:, 0, 0, 0].long(), truth)
    fewer = machine.scoring(20)
    assert (fewer.scored_count, fewer.split["scored"]) == (20, "train[20 of 600, held out]")
    assert torch.equal(fewer.scored()[1], truth[:20])


@pytest.fixture
def poisoned(tmp_path: Path) -> Path:
    """The tiny set with test images in place but labels that are no guide: each class is called the next."""
    path = tmp_path / "poisoned.npz"
    images, labels = colour_classes(600, seed=0)
    test_images, test_labels = colour_classes(200, seed=1)
    np.savez(path, images=images, labels=labels, test_images=test_images, test_labels=(test_labels + 1) % 3)
    return path


def test_B7_a_run_stops_by_the_split_and_never_by_the_test_labels(tiny_data: Path, poisoned: Path, tmp_path: Path):
    settings = dict(word.removeprefix("--set=").split("=", 1) for word in TINY_NET if word.startswith("--set="))
    settings |= {"validation.count": "20", "validation.patience": "2", "steps": "60", "dtype": "float32"}
    base = config.override(Config(quiet=True, device="cpu"), settings)
    sound, misled = (
        speedrun.train(config.override(base, {"dataset": str(data), "out": tmp_path / name}))
        for name, data in (("sound", tiny_data), ("misled", poisoned))
    )
    assert sound.folder is not None
    assert misled.folder is not None
    scores = curves.read(sound.folder)
    assert [score.accuracy for score in scores] == [score.accuracy for score in curves.read(misled.folder)]
    assert (sound.record["status"], sound.record["split"]["scored"]) == ("complete", "test[200]")
    assert sound.record["plan"] == misled.record["plan"]
    assert sound.record["steps"] == misled.record["steps"] == scores[-1].step < 60
    weights = [checkpoint.load(result.folder / "model.pt").model for result in (sound, misled) if result.folder]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert sound.accuracy is not None
    assert misled.accuracy is not None
    assert sound.accuracy > 0.8 > 0.2 > misled.accuracy
    # What is saved is the best net of the split.
    images, _ = colour_classes(600, seed=0)
    assert predictor.load(sound.folder)(torch.from_numpy(images[:5])).shape == (5, 3)
    assert max(score.accuracy for score in scores) > scores[-1].accuracy - 1e-9


def test_validation_does_not_change_the_training(tiny_data: Path, tmp_path: Path):
    words = [f"--dataset={tiny_data}", "--steps=12", "--holdout", "--dtype=float32", "--quiet", *TINY_NET]
    for name, more in (("plain", []), ("watched", ["--set=validation.count=6"])):
        assert cli.main([*words, f"--out={tmp_path / name}", *more], 0.0) == 0
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("plain", "watched")]
    losses = [[json.loads(line)["loss"] for line in run] for run in lines]
    assert losses[0] == losses[1]
    assert len(curves.read(tmp_path / "watched")) == 6


@pytest.mark.parametrize("changes", [{"count": -1}, {"patience": 0}, {"count": 2, "delta": 1.0}])
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any]):
    with pytest.raises(UsageError, match="validation"):
        ValidationConfig(**changes)
