"""Turns seconds into steps: how far each step moves the schedule, so that it ends exactly when the time does.

Progress p goes from 0 to 1 and everything scheduled (rate, resolution) is a function of p. A step costs a known number
of seconds by the work that it does in each stage; the pacer divides the time left by the cost of what is left, and
corrects itself when steps turn out slower or faster than calibrated. Standard library only; the clock is passed in.
"""

from collections.abc import Mapping, Sequence

from speedrun.selection import Stage, Work

# Re-planning on each tremor of the clock would make the schedule jitter; a hundredth off is worth correcting.
TOLERANCE = 0.01
# Weight of the newest step in the running cost of a step.
NEWEST = 0.2
# Times its expected cost from which a single step is not believed.
OUTLIER = 3.0


class Pacer:
    """Plans the number of steps and keeps the plan true.

    stages: of the run, the last one up to a progress of 1.
    step_seconds: calibrated seconds of a step by its work. max_steps: a bound on the steps, or None.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        step_seconds: Mapping[Work, float],
        *,
        max_steps: int | None = None,
    ) -> None:
        self.stages = tuple(stages)
        self.step_seconds = dict(step_seconds)
        self.max_steps = max_steps
        self.progress = 0.0
        self.steps = 0
        self.steps_left: int | None = None
        self.slowdown = 1.0
        self._calibrated = dict(step_seconds)
        self._newest = self.work
        self._seen: set[Work] = set()
        self._surprised = False

    def go_on(self, progress: float, steps: int, max_steps: int | None) -> None:
        """Take up a run that was at `progress` after `steps`."""
        self.progress, self.steps, self.max_steps, self.steps_left = progress, steps, max_steps, None

    def scale(self, factor: float) -> None:
        """From here a step costs `factor` times what it did: its batch has another size."""
        for costs in (self.step_seconds, self._calibrated):
            costs.update({work: factor * seconds for work, seconds in costs.items()})
        self.steps_left = None

    @property
    def done(self) -> bool:
        return self.progress >= 1.0

    @property
    def work(self) -> Work:
        """What the next step does."""
        return next((stage.work for stage in self.stages if self.progress < stage.until), self.stages[-1].work)

    @property
    def calibrated(self) -> float:
        """Seconds that the newest step was expected to take before any was seen."""
        return self._calibrated[self._newest]

    def fitting(self, seconds_left: float) -> int:
        """Steps from here to the end that fit `seconds_left`; at least one."""
        fits = self._fitting(seconds_left)
        if self.max_steps is not None:
            fits = min(fits, float(self.max_steps - self.steps))
        return max(1, int(fits))

    def plan(self, seconds_left: float) -> int:
        """Steps from here to the end that fit `seconds_left`; at least one. Keeps the last plan within tolerance."""
        steps = self.fitting(seconds_left)
        if self.steps_left is None or abs(steps - self.steps_left) > TOLERANCE * self.steps_left:
            self.steps_left = steps
        return self.steps_left

    def advance(self, step_seconds: float | None, seconds_left: float) -> None:
        """Account for a step that took `step_seconds` (None: not known yet), then plan again."""
        self._newest = self.work
        if step_seconds is not None:
            self._observe(self.work, step_seconds)
        left = self.steps_left or self.plan(seconds_left)
        self.progress = 1.0 if left == 1 else self.progress + (1.0 - self.progress) / left
        self.steps += 1
        self.steps_left = left - 1
        if not self.done and self._fitting(seconds_left) < 0.5:  # one more step would end far past the time
            self.progress, self.steps_left = 1.0, 0
        if not self.done:
            self.plan(seconds_left)

    def _fitting(self, seconds_left: float) -> float:
        """Steps, all of one stride in progress, that fit into the seconds."""
        seconds_a_step = self._mean_step_seconds()
        if seconds_left == float("inf"):
            return float("inf") if self.max_steps is None else float(self.max_steps)
        return seconds_left / seconds_a_step

    def _mean_step_seconds(self) -> float:
        """Mean cost of a step over the progress that is left."""
        total = begin = 0.0
        for until, work in self.stages:
            total += max(0.0, until - max(self.progress, begin)) * self.step_seconds[work]
            begin = until
        return max(total, 1e-9) / max(1.0 - self.progress, 1e-9)

    def _observe(self, work: Work, seconds: float) -> None:
        surprising = seconds > OUTLIER * self.step_seconds[work]
        if surprising and not self._surprised:  # one slow step is a hiccup; two are a slower machine
            self._surprised = True
            return
        self._surprised = surprising
        weight = NEWEST if work in self._seen else 0.5
        self._seen.add(work)
        self.step_seconds[work] += weight * (seconds - self.step_seconds[work])
        self.slowdown = self.step_seconds[work] / self._calibrated[work]
        for other in self.step_seconds:
            if other not in self._seen:  # not run yet: as much off its calibration as this one
                self.step_seconds[other] = self._calibrated[other] * self.slowdown
