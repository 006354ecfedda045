"""Runs and jobs for Weights & Biases, sent from what they left. Needs the extra `track`.

Sent afterwards, so that no network is ever waited for inside the clock.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speedrun import metrics, scores
from speedrun.errors import SpeedrunError
from speedrun.files import read_sealed

# Numbers of a record that stand beside the curves.
_SUMMARY = ("status", "accuracy", "accuracy_plain", "parameters", "steps", "epochs", "train_seconds", "wall_seconds")


def send(folder: Path, *, project: str, offline: bool) -> list[str]:
    """Send a run, or every training of a job as one group; returns the names they have there.

    offline: kept on this machine, for `wandb sync`. Raises SpeedrunError where wandb or a record is missing, or wandb
    fails.
    """
    try:
        import wandb
    except ImportError:
        raise SpeedrunError("tracking needs wandb: pip install 'speedrun[track]'") from None
    return [_send(wandb, path, folder, project, offline) for path in _runs(folder)]


def _runs(folder: Path) -> Iterator[Path]:
    """The folders of the runs in a folder: itself, or those of the job's trainings that left a record."""
    record = read_sealed(folder / "result.json")
    if "trials" not in record:
        yield folder
        return
    for trial in record["trials"]:
        if (folder / trial["name"] / "result.json").exists():
            yield folder / trial["name"]


def _send(wandb: Any, path: Path, job: Path, project: str, offline: bool) -> str:
    record = read_sealed(path / "result.json")
    own = path == job
    name = path.name if own else f"{job.name}/{path.name}"
    try:
        run = wandb.init(
            project=project,
            name=name,
            group=None if own else job.name,
            config=record["config"],
            mode="offline" if offline else "online",
            dir=str(path),
        )
        for step, line in _lines(path):
            run.log(line, step=step)
        run.summary.update({key: record[key] for key in _SUMMARY if record.get(key) is not None})
        run.finish()
    except wandb.Error as error:
        raise SpeedrunError(f"{path}: wandb: {error}") from None
    return name


def _lines(path: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """What is known at each step: the training batch and, where they were scored, the held-out images."""
    held_out = {score.step: score.accuracy for score in scores.read(path)}
    for line in metrics.read(path / "metrics.jsonl"):
        known = {f"train/{key}": value for key, value in line.items() if key != "step" and value is not None}
        step = int(line["step"] or 0)
        accuracy = held_out.get(step)
        yield step, known if accuracy is None else {**known, "held_out/accuracy": accuracy}
