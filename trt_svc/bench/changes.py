"""What a comparison of two reports consists of: changes of rows and of listening metrics, each with its verdict."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

By = Literal["latency", "speedup"]
Speed = Literal["slower", "faster", "same"]
Quality = Literal["worse", "better", "same", "unknown"]
State = Literal["compared", "refused now", "measured now", "refused in both", "missing", "new"]


@dataclass(frozen=True)
class Key:
    """What makes a row the same in two reports."""

    network: str
    weights_sha256: str
    frames: int
    batch: int
    label: str


@dataclass(frozen=True)
class SpeedChange:
    """Seconds before and after, or times upstream's speed; `ratio` above 1 is slower either way."""

    before: float
    after: float
    ratio: float
    low: float
    high: float
    """95 % interval of `ratio`."""
    verdict: Speed
    unsure: bool
    """Beyond the threshold, but so may be chance."""


@dataclass(frozen=True)
class QualityChange:
    """One figure of quality."""

    metric: str
    before: float | None
    after: float | None
    verdict: Quality

    @property
    def ends(self) -> tuple[float | None, float | None]:
        return self.before, self.after

    def as_dict(self) -> dict[str, Any]:
        # What is not finite is null in JSON.
        before, after = (_finite(end) for end in self.ends)
        return {**asdict(self), "before": before, "after": after}


@dataclass(frozen=True)
class RowChange:
    """One row then and now."""

    key: Key
    state: State
    reason: str = ""
    """Why it is refused, missing or new."""
    speed: SpeedChange | None = None
    snr: QualityChange | None = None

    @property
    def regressed(self) -> bool:
        slower, worse = self.speed is not None and self.speed.verdict == "slower", is_judged(self.snr, "worse")
        return self.state == "refused now" or slower or worse

    @property
    def gained(self) -> bool:
        faster, better = self.speed is not None and self.speed.verdict == "faster", is_judged(self.snr, "better")
        return not self.regressed and (self.state == "measured now" or faster or better)

    @property
    def severity(self) -> tuple[int, float]:
        """Sorts the worst first: regressions, what came or went, gains, the rest; in each the largest change."""
        one_sided = self.state in ("missing", "new")
        rank = 0 if self.regressed else 1 if one_sided else 2 if self.gained else 3
        # Rounded: rows that moved alike stay in the order of the report.
        return rank, -math.inf if self.speed is None else -round(abs(math.log(self.speed.ratio)), 2)

    def as_dict(self) -> dict[str, Any]:
        return {
            **asdict(self.key),
            "state": self.state,
            "reason": self.reason,
            "regressed": self.regressed,
            "gained": self.gained,
            "speed": None if self.speed is None else asdict(self.speed),
            "snr": None if self.snr is None else self.snr.as_dict(),
        }


@dataclass(frozen=True)
class ListeningChange:
    """How a contender's audio is judged then and now, on the network's listening input."""

    network: str
    label: str
    metrics: tuple[QualityChange, ...]

    @property
    def regressed(self) -> bool:
        return any(is_judged(metric, "worse") for metric in self.metrics)

    @property
    def gained(self) -> bool:
        return not self.regressed and any(is_judged(metric, "better") for metric in self.metrics)

    def as_dict(self) -> dict[str, Any]:
        metrics = [metric.as_dict() for metric in self.metrics]
        return {"network": self.network, "label": self.label, "regressed": self.regressed, "metrics": metrics}


Change = RowChange | ListeningChange


@dataclass(frozen=True)
class Comparison:
    """What changed between two reports."""

    before: str
    after: str
    by: By
    threshold: float
    rows: tuple[RowChange, ...]
    """The worst first."""
    listening: tuple[ListeningChange, ...]
    notes: tuple[str, ...]
    """What else differs, and what the figures therefore cannot say."""

    @cached_property
    def regressions(self) -> tuple[Change, ...]:
        return tuple(change for change in self._changes if change.regressed)

    @cached_property
    def gains(self) -> tuple[Change, ...]:
        return tuple(change for change in self._changes if change.gained)

    @property
    def missing(self) -> tuple[RowChange, ...]:
        """Rows of the first report that the second has not: seen, but no regression."""
        return tuple(row for row in self.rows if row.state == "missing")

    @property
    def _changes(self) -> tuple[Change, ...]:
        return (*self.rows, *self.listening)

    @property
    def failed(self) -> bool:
        return bool(self.regressions)

    def as_dict(self) -> dict[str, Any]:
        return {
            "before": self.before,
            "after": self.after,
            "by": self.by,
            "threshold": self.threshold,
            "failed": self.failed,
            "regressions": len(self.regressions),
            "gains": len(self.gains),
            "missing": len(self.missing),
            "rows": [row.as_dict() for row in self.rows],
            "listening": [heard.as_dict() for heard in self.listening],
            "notes": list(self.notes),
        }


def is_judged(change: QualityChange | None, verdict: Quality) -> bool:
    """Is there a figure, and is that what was said of it?"""
    return change is not None and change.verdict == verdict


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
