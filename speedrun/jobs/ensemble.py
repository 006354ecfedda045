"""`python -m speedrun ensemble`: train several nets from derived seeds and average their probabilities."""

from dataclasses import replace
from typing import Any

from speedrun import seeds, stats, trials
from speedrun.arguments import Parser, take_config
from speedrun.config import Config
from speedrun.errors import SpeedrunError, UsageError
from speedrun.summary import percent


class Ensemble(trials.Job):
    """Each member has an equal share of the seconds; the accuracy is that of the members' mean probabilities."""

    kind = "ensemble"

    def __init__(self, config: Config, members: int) -> None:
        super().__init__(config)
        if members < 1:
            raise UsageError(f"--members must be at least 1, not {members}")
        if config.runs > 1:
            raise UsageError("an ensemble takes --members, not --runs")
        self.members = members

    @property
    def planned(self) -> int:
        return self.members

    def work(self) -> None:
        self.deal(self.members, self._train_member)

    def _train_member(self, number: int) -> bool:
        config = replace(self.config, seed=seeds.derive(self.config.seed, "member", number))
        left = self.members - number
        trial = self.train(f"member-{number + 1:02}", config, seconds=self.share(left, dealt=number), changes={})
        if trial.least_seconds is not None:
            raise self.refuse(trial.least_seconds, left)
        if trial.status == "failed":
            raise SpeedrunError(f"{trial.name}: {trial.problem}")
        return True

    def results(self) -> dict[str, Any]:
        scores = self._by_members()
        own = [trial.accuracy for trial in self.finished if trial.accuracy is not None]
        return {
            "members": self.members,
            "accuracy": scores[-1] if scores else None,
            "mean_accuracy": stats.describe(own).mean if own else None,
            "by_members": scores,
        }

    def _by_members(self) -> list[float]:
        """Accuracy of the mean probabilities of the first member, the first two, and so on."""
        scored = [trial.logits for trial in self.finished if trial.logits is not None]
        if not scored:
            return []
        import torch

        from speedrun.evaluate import accuracy

        labels = self.machine.scored()[1].cpu()
        totals = torch.stack([logits.softmax(1) for logits in scored]).cumsum(0)
        return [accuracy(total, labels) for total in totals]

    def lines(self) -> list[str]:
        results = self.results()
        rows = [f"{trial.name}: {trial}" for trial in self.trials]
        if self.finished:
            rows.append(f"mean of the members: {percent(results['mean_accuracy'])}")
            rows.append("by members: " + "  ".join(map(percent, results["by_members"])))
            rows.append(f"ensemble of {len(self.finished)}: {percent(results['accuracy'])}")
        return rows


def main(argv: list[str], start: float) -> int:
    """Train and score an ensemble; returns the exit code. Raises SpeedrunError where no member could be trained."""
    parser = Parser("python -m speedrun ensemble", "Train several nets and average their probabilities.")
    parser.add_argument("--members", type=int, default=10, metavar="N", help="nets to train (default 10)")
    parser.add_config()
    given = vars(parser.parse_args(argv))
    members: int = given.pop("members")
    return trials.run(Ensemble(take_config(given), members), start)
