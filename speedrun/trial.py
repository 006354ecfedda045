"""One training of a job, in plain values: what became of it, and whether it may be compared."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from speedrun import metrics, schema
from speedrun.config import Config
from speedrun.errors import BudgetError, DivergedError, SpeedrunError
from speedrun.launch import Result
from speedrun.summary import percent

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Trial:
    """One training of a job, as `speedrun.schema.TRIAL` has it.

    status: of its own record, or "diverged", or "refused" where it could not end within its seconds; it then took
    `least_seconds`. logits: of the scored images, float32 (N, classes), on the CPU.
    """

    name: str
    status: str
    problem: str | None
    seed: int
    changes: dict[str, Any]
    accuracy: float | None
    loss: float | None
    steps: int
    parameters: int | None
    train_seconds: float | None
    wall_seconds: float
    logits: "Tensor | None" = field(default=None, compare=False, repr=False)
    least_seconds: float | None = None

    @property
    def finished(self) -> bool:
        """Whether it was trained and scored to its end, and may be compared."""
        return self.status == "complete"

    def plain(self) -> dict[str, Any]:
        """As a record holds it."""
        whole = asdict(replace(self, logits=None))
        return {name: whole[name] for name in schema.TRIAL}

    def __str__(self) -> str:
        if self.finished and self.accuracy is not None:
            return f"{percent(self.accuracy)}, {self.steps:,} steps, {self.wall_seconds:.1f} s"
        return f"{self.status}" + (f": {self.problem}" if self.problem else "")


def attempt(
    run: Callable[[], Result], name: str, config: Config, changes: Mapping[str, Any], *, spare_seconds: float
) -> Trial:
    """Call `run`, which trains by `config`, and tell what became of it.

    Errors that a person can mend become the trial's status; a signal's exception passes through. spare_seconds: of the
    config's seconds, those that belong to nobody.
    """
    began = time.monotonic()
    result, status, problem, least = Result({}, None), "failed", None, None
    try:
        result = run()
        status, problem = _judged(result)
    except BudgetError as error:
        status, least = "refused", error.least_seconds - spare_seconds
        problem = f"takes {least:.1f} s at least and had {(config.seconds or 0.0) - spare_seconds:.1f}"
    except DivergedError as error:
        status, problem = "diverged", str(error)
    except SpeedrunError as error:
        problem = str(error)
    return Trial(
        name=name,
        status=status,
        problem=problem,
        seed=config.seed,
        changes=dict(changes),
        accuracy=result.accuracy if status == "complete" else None,
        loss=_loss(result),
        steps=result.record.get("steps", 0),
        parameters=result.record.get("parameters"),
        train_seconds=result.record.get("train_seconds"),
        wall_seconds=time.monotonic() - began,
        logits=result.logits,
        least_seconds=least,
    )


def _judged(result: Result) -> tuple[str, str | None]:
    """The status of a training that ended by itself or by a signal, and why it does not count."""
    status = result.record.get("status", "interrupted")
    if status != "complete":
        return status, None
    loss_lost = _loss(result) is None
    if loss_lost or (result.logits is not None and not bool(result.logits.isfinite().all())):
        return "diverged", "its loss is not finite" if loss_lost else "its logits are not finite"
    return status, None


def _loss(result: Result) -> float | None:
    return None if result.folder is None else metrics.newest_loss(result.folder)
