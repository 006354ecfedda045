"""What is known of a run while it goes on, and the record made of it. Standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from speedrun import record
from speedrun.clock import Clock, Ledger
from speedrun.config import Config, to_dict

_KEPT = ("steps", "epochs", "images", "train_seconds", "provenance")

if TYPE_CHECKING:
    from speedrun.machine import Machine
    from speedrun.planner import Plan


@dataclass
class Outcome:
    """Fills up as the run goes on. Accuracies are fractions of 1; images: trained so far, repeats counted."""

    status: str = "failed"
    machine: "Machine | None" = None
    plan: "Plan | None" = None
    expected_accuracy: float | None = None
    compile_warm: bool | None = None
    parameters: int | None = None
    steps: int = 0
    epochs: float = 0.0
    images: int = 0
    accuracy: float | None = None
    accuracy_plain: float | None = None
    train_seconds: float | None = None
    threads: int | None = None
    world_size: int = 1
    rank_images_per_second: list[float] | None = None
    provenance: "dict[str, Any] | None" = None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {name: getattr(self, name) for name in _KEPT}

    def go_on(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        for name in _KEPT:
            setattr(self, name, state[name])

    def record(self, config: Config, clock: Clock, ledger: Ledger) -> dict[str, Any]:
        """The record of the run as it stands at this moment; kind "run" of `speedrun.record`."""
        machine, plan, phases = self.machine, self.plan, ledger.snapshot()
        if self.provenance is None:  # of the beginning: the checkout may change while a run is on
            self.provenance = record.envelope("run", None, age_seconds=clock.elapsed())
        dtype = str(machine.choice.dtype).removeprefix("torch.") if machine else None
        return {
            **self.provenance,
            "device": machine.description if machine else None,
            "versions": record.versions(),
            "status": self.status,
            "dataset": machine.dataset.name if machine else None,
            "split": machine.split if machine else None,
            "recipe": config.recipe,
            "config": to_dict(config),
            "seed": config.seed,
            "budget_seconds": clock.seconds,
            "wall_seconds": sum(phases.values()),
            "fetch_seconds": clock.fetch_seconds,
            "train_seconds": self.train_seconds,
            "phases": phases,
            "warm": {"data": machine.dataset.warm if machine else None, "compile": self.compile_warm},
            "accuracy": self.accuracy,
            "accuracy_plain": self.accuracy_plain,
            "expected_accuracy": self.expected_accuracy,
            "epochs": self.epochs,
            "steps": self.steps,
            "parameters": self.parameters,
            "images_per_second": self.images / phases["train"] if self.images and phases["train"] else None,
            "flops_per_second": machine.flops_per_second if machine else None,
            "dtype": dtype,
            "dtype_reason": machine.choice.dtype_reason if machine else None,
            "plan": plan.plain() if plan else None,
            "threads": self.threads,
            "world_size": self.world_size,
            **self._of_ranks(machine),
        }

    def _of_ranks(self, machine: "Machine | None") -> dict[str, Any]:
        """What there is to tell of several ranks."""
        if self.world_size == 1 or machine is None:
            return {}
        backend = "nccl" if machine.choice.device.type == "cuda" else "gloo"
        return {"backend": backend, "rank_images_per_second": self.rank_images_per_second}
