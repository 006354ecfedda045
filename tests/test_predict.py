"""Predictions: what they score when read back, from every source of images, and one line for each mistake."""

import csv
import json
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import colour_classes
from PIL import Image
from processes import TINY_NET, one_line, speedrun

from speedrun import checkpoint, cli, models, predictor, record
from speedrun.errors import SpeedrunError
from speedrun.images import ArrayImages, order
from speedrun.jobs import predict as job

IMAGES, LABELS = colour_classes(23, seed=5)
NAMES = ["0", "1", "2"]


@pytest.fixture(scope="module")
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("predict") / "run"
    ended = speedrun(f"--dataset={tiny_data}", f"--out={out}", "--steps=20", "--quiet", *TINY_NET)
    assert ended.code == 0, ended.stderr
    return out


def predict(trained: Path, images: object, out: Path, *more: str) -> list[list[str]]:
    """The rows of the CSV, read back."""
    words = [f"--checkpoint={trained}", f"--images={images}", f"--out={out}", "--device=cpu", "--quiet", *more]
    assert cli.main(["predict", *words], 0.0) == 0
    with out.open(newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Path]:
    """The same images by every way; a folder and a pickle out of order, numbered 3 to 25."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, image in enumerate(IMAGES, 3):
        Image.fromarray(image).save(folder / f"{number}.png")
    np.save(tmp_path / "images.npy", IMAGES)
    mixed = np.random.default_rng(0).permutation(len(IMAGES))
    np.savez(tmp_path / "images.npz", images=IMAGES[mixed], ids=mixed + 3)
    (tmp_path / "images.pkl").write_bytes(pickle.dumps({b"data": IMAGES[mixed], b"ids": mixed + 3}))
    return {"folder": folder, **{kind: tmp_path / f"images.{kind}" for kind in ("npy", "npz", "pkl")}}


def test_B3_the_file_scores_the_recorded_accuracy_when_read_back(trained: Path, tiny_data: Path, tmp_path: Path):
    rows = predict(trained, "test", tmp_path / "test.csv", "--labels=indices")
    truth = np.load(tiny_data)["test_labels"]
    assert rows[0] == ["id", "label"]
    assert [int(row[0]) for row in rows[1:]] == list(range(200))
    scored = float(np.mean([int(row[1]) == label for row, label in zip(rows[1:], truth, strict=True)]))
    assert scored == pytest.approx(json.loads((trained / "result.json").read_text())["accuracy"])
    about = json.loads((tmp_path / "test.csv.json").read_text())
    assert record.check(about) == []
    assert (about["accuracy"], about["count"], about["members"]) == (pytest.approx(scored), 200, 1)
    assert b"\r" not in (tmp_path / "test.csv").read_bytes()


def test_predictions_in_a_runs_folder_leave_its_record_alone(trained: Path, sources: dict[str, Path]):
    before = (trained / "result.json").read_bytes()
    predict(trained, sources["npy"], trained / "result.csv")
    assert (trained / "result.json").read_bytes() == before


def test_B3_every_source_gives_the_same_rows_in_numeric_order(trained: Path, sources: dict[str, Path], tmp_path: Path):
    rows = {kind: predict(trained, path, tmp_path / f"{kind}.csv")[1:] for kind, path in sources.items()}
    assert [row[0] for row in rows["npy"]] == [str(number) for number in range(len(IMAGES))]
    assert [row[0] for row in rows["folder"]] == [str(number) for number in range(3, 3 + len(IMAGES))]
    assert [row[1] for row in rows["npy"]] == [row[1] for row in rows["folder"]]
    assert rows["folder"] == rows["npz"] == rows["pkl"]
    right = np.mean([row[1] == NAMES[label] for row, label in zip(rows["npy"], LABELS, strict=True)])
    assert right > 0.8


def test_an_ensembles_folder_predicts_by_the_mean_probability(trained: Path, sources: dict[str, Path], tmp_path: Path):
    both = tmp_path / "both"
    for number in (1, 2):
        (both / f"member-{number}").mkdir(parents=True)
        (both / f"member-{number}" / "model.pt").write_bytes((trained / "model.pt").read_bytes())
    options = ("--probabilities", "--header=ID,Labels")
    one = predict(trained, sources["npy"], tmp_path / "one.csv", *options)
    assert one[0] == ["ID", "Labels", *NAMES]
    for row in one[1:]:
        chances = [float(value) for value in row[2:]]
        assert sum(chances) == pytest.approx(1, abs=1e-5)
        assert row[1] == NAMES[int(np.argmax(chances))]
    assert predict(both, sources["npy"], tmp_path / "two.csv", *options) == one  # of two equal nets
    assert predict(trained, sources["npy"], tmp_path / "bare.csv", "--header=none") == [row[:2] for row in one[1:]]


def test_many_images_are_read_in_parts(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    np.save(tmp_path / "a.npy", IMAGES)
    whole = predict(trained, tmp_path / "a.npy", tmp_path / "whole.csv", "--tta=none")
    monkeypatch.setattr("speedrun.jobs.predict.PART", 7)
    assert predict(trained, tmp_path / "a.npy", tmp_path / "parts.csv", "--tta=none") == whole


def test_three_hundred_thousand_images_go_through_in_one_pass_and_never_all_as_floats(monkeypatch: pytest.MonkeyPatch):
    count, seen = 300_000, []  # as many as Kaggle's; one image's bytes stand for all

    class Member:
        mean = torch.zeros(3)

        def with_views(self, pixels: torch.Tensor, tta: str) -> torch.Tensor:
            seen.append((pixels.dtype, len(pixels)))
            return torch.eye(10)[torch.arange(len(pixels)) % 10]

    images = ArrayImages(range(count), np.broadcast_to(np.zeros((32, 32, 3), np.uint8), (count, 32, 32, 3)))
    probabilities = job._predict([Member()] * 2, images, "none")  # type: ignore[list-item]
    assert (probabilities.shape, probabilities.dtype) == ((count, 10), np.float32)
    assert (probabilities.argmax(1) == np.arange(count) % 10).all()
    assert set(seen) == {(torch.uint8, job.PART)}
    assert sum(size for _, size in seen) == 2 * count


def test_the_dtype_of_the_run_is_that_of_its_predictions(
    trained: Path, tiny_data: Path, sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, used = tmp_path / "half", []
    settings = [f"--dataset={tiny_data}", f"--out={out}", "--steps=1", "--quiet", "--dtype=bfloat16", *TINY_NET]
    assert cli.main(settings, time.monotonic()) == 0
    real = predictor.Predictor.with_views

    def noted(self: predictor.Predictor, images: torch.Tensor, tta: str | None = None) -> torch.Tensor:
        used.append(self.dtype)
        return real(self, images, tta)

    monkeypatch.setattr(predictor.Predictor, "with_views", noted)
    predict(out, sources["npy"], tmp_path / "a.csv")
    predict(out, sources["npy"], tmp_path / "b.csv", "--dtype=float32")
    assert used == [torch.bfloat16, torch.float32]


def test_ids_are_ordered_by_number_then_by_name():
    ids = ["b", "10", "9", "a", "010", "-2", "--2"]
    assert [ids[position] for position in order(ids)] == ["-2", "9", "010", "10", "--2", "a", "b"]


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def bad(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"bad.{kind}"
    match kind:
        case "npy":
            np.save(path, IMAGES.astype(np.float32))
        case "npz":
            np.savez(path, pictures=IMAGES)
        case "encrypted":
            path = tmp_path / "encrypted.npz"
            np.savez(path, images=IMAGES)
            whole = path.read_bytes()
            entry = whole.index(b"PK\x01\x02")
            path.write_bytes(whole[: entry + 8] + b"\x01" + whole[entry + 9 :])
        case "large":
            path = tmp_path / "large.npy"
            np.save(path, np.zeros((2, 32, 32, 3), np.uint8))
        case "pkl":
            path.write_bytes(pickle.dumps({b"data": Evil()}))
        case "gray":
            path.mkdir()
            Image.fromarray(IMAGES[0, :, :, 0]).save(path / "1.png")
        case "broken":
            path.mkdir()
            (path / "1.png").write_bytes(b"\x89PNG not really")
        case "empty":
            path.mkdir()
        case "same.npz":
            np.savez(path, images=IMAGES[:3], ids=[4, 7, 4])
        case "few.npz":
            np.savez(path, images=IMAGES[:3], ids=[4, 7])
        case "twice":
            path.mkdir()
            for name in ("1.png", "01.png"):
                Image.fromarray(IMAGES[0]).save(path / name)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("npy", "bad.npy: expected images uint8 (N, H, W, 3), found float32"),
        ("npz", "bad.npz: expected an array named images, found pictures"),
        ("encrypted", "encrypted.npz cannot be read: "),
        ("large", "large.npy: expected images of 16 pixels, as the net was trained on; found 32 x 32"),
        ("pkl", "refused, it asks for builtins.print"),
        ("gray", "bad.gray/1.png: expected RGB of 16 pixels, as the net was trained on; found L 16 x 16"),
        ("broken", "bad.broken/1.png is not a readable image"),
        ("empty", "found none"),
        ("twice", "bad.twice: 2 images are called 1"),
        ("same.npz", "bad.same.npz: 2 images are called 4"),
        ("few.npz", "bad.few.npz: ids: expected 3 integers or names, found int64 (2,)"),
        ("missing", "bad.missing does not exist"),
    ],
)
def test_images_that_cannot_be_taken_are_named(kind, message, trained: Path, tmp_path: Path, capsys):
    out = tmp_path / "out.csv"
    words = [f"--checkpoint={trained}", f"--images={bad(tmp_path, kind)}", f"--out={out}", "--device=cpu"]
    assert cli.main(["predict", *words], 0.0) == 1
    printed = capsys.readouterr()
    assert message in one_line(printed.err)
    assert "executed" not in printed.out
    assert not out.exists()


@pytest.mark.parametrize("place", ["none/out.csv", ".", "file/out.csv"])
def test_a_file_that_cannot_be_written_is_told_before_predicting(
    place: str, trained: Path, sources: dict[str, Path], tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("speedrun.jobs.predict._predict", lambda *_: pytest.fail("predicted"))
    words = [f"--checkpoint={trained}", f"--images={sources['npy']}", f"--out={tmp_path / place}", "--device=cpu"]
    assert cli.main(["predict", *words], 0.0) == 1
    assert "cannot be written" in one_line(capsys.readouterr().err)


def test_what_cannot_predict_is_named(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    out = f"--out={tmp_path / 'out.csv'}"
    assert cli.main(["predict", f"--checkpoint={tmp_path}", out], 0.0) == 1
    assert "no checkpoint here" in one_line(capsys.readouterr().err)
    assert cli.main(["predict", f"--checkpoint={trained}", "--dataset=cifar100", "--header=id", out], 0.0) == 2
    assert "--header takes two names" in one_line(capsys.readouterr().err)
    config = checkpoint.load(trained / "model.pt").config
    checkpoint.save(tmp_path / "checkpoint.pt", model={}, config=config, extra={"steps": 3})
    assert cli.main(["predict", f"--checkpoint={tmp_path / 'checkpoint.pt'}", out], 0.0) == 1
    assert "a checkpoint of a training and no trained net" in one_line(capsys.readouterr().err)
    build = models.build
    monkeypatch.setattr(models, "build", lambda config, classes: build(config, classes + 1))
    assert cli.main(["predict", f"--checkpoint={trained}", out], 0.0) == 1
    line = one_line(capsys.readouterr().err)
    assert "of another architecture; of another shape: head.weight (3, 8), in the net (4, 8)" in line


def test_without_pillow_a_folder_asks_for_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from speedrun.images import open_images

    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(SpeedrunError, match="speedrun\\[images\\]"):
        open_images(tmp_path, 16)
