"""Search spaces: a range for each field of the config, written as text, drawn from and narrowed. Standard library only.

optim.lr=log:1e-6..1           log-uniform
optim.momentum=0.5..0.95       uniform; whole numbers for fields of whole numbers
model.activation=relu|silu     one of these, also with commas between them; model.depth=2|2,2,3 only so
model.blocks=1..4 x 2..4       a value for each of 2 to 4 stages; fields with the same number of stages agree on it
"""

import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from speedrun import config as configs
from speedrun.errors import UsageError

_STAGES = re.compile(r"(?P<element>.+?)\s+x\s+(?P<low>\d+)(\.\.(?P<high>\d+))?")
# A narrowed range reaches a tenth of the last one beyond the best values: the optimum may lie just outside them.
_SLACK = 0.1


@dataclass(frozen=True)
class Range:
    """What one field may be. choices: its values; without them `low` to `high`, by logarithm if `log`.

    stages: least and greatest number of values, where the field takes several.
    """

    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    stages: tuple[int, int] | None = None

    def draw(self, source: random.Random) -> Any:
        """One value."""
        if self.choices:
            return source.choice(self.choices)
        if self.log:
            value = math.exp(source.uniform(math.log(self.low), math.log(self.high)))
        elif self.whole:
            return source.randint(int(self.low), int(self.high))
        else:
            value = source.uniform(self.low, self.high)
        return round(value) if self.whole else float(f"{value:.4g}")

    def narrow(self, best: Sequence[float]) -> "Range":
        """The range around the best values, inside this one. Choices and stages stay: a few trials rule none out."""
        if self.choices or self.stages:
            return self
        forth, back = (math.log, math.exp) if self.log else (float, float)
        slack = _SLACK * (forth(self.high) - forth(self.low))
        low, high = back(forth(min(best)) - slack), back(forth(max(best)) + slack)
        if self.whole:
            low, high = math.floor(low), math.ceil(high)
        return replace(self, low=max(low, self.low), high=min(high, self.high))


Space = Mapping[str, Range]


def parse(ranges: Mapping[str, str]) -> dict[str, Range]:
    """The space of texts by field. Raises UsageError for an unknown field and for a text that is no range."""
    return {name: _range(name, text) for name, text in ranges.items()}


def read(words: Sequence[str]) -> dict[str, str]:
    """Texts by field, from `FIELD=RANGE` and from files that hold them as a JSON object. Raises UsageError."""
    ranges: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if equals:
            ranges[name] = text
            continue
        try:
            found = json.loads(Path(word).read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"{word}: {error.strerror}; a range is written FIELD=RANGE") from None
        except ValueError as error:
            raise UsageError(f"{word}: not JSON ({error})") from None
        if not (isinstance(found, dict) and found and all(isinstance(value, str) for value in found.values())):
            raise UsageError(f"{word}: expected an object of fields and their ranges as text")
        ranges.update(found)
    return ranges


def draw(space: Space, source: random.Random) -> dict[str, Any]:
    """A value for every field."""
    stages: dict[tuple[int, int], int] = {}
    values: dict[str, Any] = {}
    for name, range_ in space.items():
        if range_.stages is None:
            values[name] = range_.draw(source)
            continue
        if range_.stages not in stages:
            stages[range_.stages] = source.randint(*range_.stages)
        values[name] = [range_.draw(source) for _ in range(stages[range_.stages])]
    return values


def narrow(space: Space, best: Sequence[Mapping[str, Any]]) -> dict[str, Range]:
    """The space around the best draws."""
    return {name: range_.narrow([values[name] for values in best]) for name, range_ in space.items()}


def values(name: str, text: str) -> list[Any]:
    """The values in a text of several, by `|` or, where the field takes one number or word, by commas."""
    several = configs.field_type(name) in (tuple[int, ...], tuple[str, ...])
    parts = text.split("|") if "|" in text or several else text.split(",")
    return [configs.convert(name, part.strip()) for part in parts]


def _range(name: str, text: str) -> Range:
    kind = configs.field_type(name)
    several = kind == tuple[int, ...]
    if several and (match := _STAGES.fullmatch(text.strip())):
        low = int(match["low"])
        stages = (low, int(match["high"] or low))
        _require(1 <= stages[0] <= stages[1], name, text)
        element = match["element"]
        if ".." in element:
            return replace(_span(name, element, whole=True), stages=stages)
        return Range(choices=tuple(_whole(name, part) for part in re.split(r"[|,]", element)), stages=stages)
    if ".." in text and not several:
        _require(kind in (int, float), name, text)
        return _span(name, text, whole=kind is int)
    return Range(choices=tuple(values(name, text)))


def _span(name: str, text: str, *, whole: bool) -> Range:
    log = text.startswith("log:")
    try:
        low, high = (float(part) for part in text.removeprefix("log:").split(".."))
    except ValueError:
        _require(False, name, text)
    fits = math.isfinite(low) and math.isfinite(high) and low < high and (low > 0 or not log)
    _require(fits and (not whole or (low.is_integer() and high.is_integer())), name, text)
    return Range(low=low, high=high, log=log, whole=whole)


def _whole(name: str, text: str) -> int:
    _require(text.strip().isdecimal(), name, text)
    return int(text)


def _require(condition: bool, name: str, text: str) -> None:
    if not condition:
        raise UsageError(f"{name}: {text!r} is no range: LOW..HIGH, log:LOW..HIGH, A|B|C, or one of them x STAGES")
