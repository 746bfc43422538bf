"""What a recipe wants reached, and whether a run reached it: floor, stretch, moonshot."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trt_svc.bench.report import Cell, GoalResult, Reached, Row
from trt_svc.bench.words import clean, three, with_unit

Measure = Literal["speed", "audio_s_per_s", "inferences_per_s"]
OTHERS = "others"
"""In `over`: everybody who is not ours."""
UNITS = {"audio_s_per_s": "s of audio per s", "inferences_per_s": "inferences per s"}
LEVELS: tuple[Reached, ...] = ("floor", "stretch", "moonshot")


class Goal(BaseModel):
    """So many times as fast as another row of the same run, or as a figure."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    frames: Annotated[int, Field(ge=1)] | None = None
    """None: the best of all lengths raced."""
    batch: Annotated[int, Field(ge=1)] = 1
    measure: Measure = "speed"
    over: str = ""
    """For speed: the label of a row (torch fp32), a contender (the fastest of its rows), or others."""
    reference: Annotated[float, Field(gt=0)] = 1.0
    """For figures: what the times are times of."""
    times: tuple[float, float, float]
    min_snr_db: float = 60.0
    """Rows of less do not count; what they reach is told beside."""
    gpu: str = ""
    """Judged only on GPUs whose names hold this word."""

    @model_validator(mode="after")
    def _is_sound(self) -> Goal:
        if (self.measure == "speed") != bool(self.over):
            raise ValueError("speed is over another row, a figure over none")
        if list(self.times) != sorted(self.times):
            raise ValueError("floor, stretch and moonshot must rise")
        return self

    @property
    def asked(self) -> str:
        """In words, with the three levels."""
        levels = " / ".join(three(self.reference * factor) for factor in self.times)
        return f"{levels} x {self.over}" if self.measure == "speed" else f"{levels} {UNITS[self.measure]}"

    @property
    def shape(self) -> str:
        length = "best length" if self.frames is None else f"{self.frames} frames"
        return f"{length}, batch {self.batch}"


def judged(
    goals: Sequence[Goal], network: str, cells: Sequence[Cell], ours: Collection[str], gpus: Sequence[str]
) -> tuple[GoalResult, ...]:
    """Every goal of a network, from its cells."""
    return tuple(_judged(goal, network, cells, ours, gpus) for goal in goals)


def _judged(goal: Goal, network: str, cells: Sequence[Cell], ours: Collection[str], gpus: Sequence[str]) -> GoalResult:
    plain = GoalResult(network=network, shape=goal.shape, asked=goal.asked, reached="not measured")
    if goal.gpu and not any(goal.gpu.lower() in gpu.lower() for gpu in gpus):
        return plain.model_copy(update={"reason": f"it is meant for {goal.gpu}"})
    here = [cell for cell in cells if cell.batch == goal.batch and goal.frames in (None, cell.frames)]
    if not here:
        return plain.model_copy(update={"reason": "this shape was not raced"})
    found = [(value, cell, row) for cell in here for value, row in _values(goal, cell, ours)]
    good = [one for one in found if _snr_db(one[2]) >= goal.min_snr_db]
    if not good:
        return plain.model_copy(update={"reason": _why_nothing(goal, here, ours, found)})
    value, cell, row = max(good, key=lambda one: one[0])
    reached = [level for level, times in zip(LEVELS, goal.times, strict=True) if value >= goal.reference * times]
    best = max(found, key=lambda one: one[0])
    return plain.model_copy(
        update={
            "value": value,
            "row": f"{row.label} at {cell.frames} frames",
            "quality": with_unit(_snr_db(row)),
            "reached": reached[-1] if reached else "missed",
            "reason": "" if best[0] == value else _too_rough(goal, *best),
        }
    )


def _too_rough(goal: Goal, value: float, cell: Cell, row: Row) -> str:
    return f"{row.label} makes {three(value)}, at {with_unit(_snr_db(row))} of {with_unit(goal.min_snr_db)}"


def _snr_db(row: Row) -> float:
    return row.waveform.snr_db if row.waveform is not None else -math.inf


def _values(goal: Goal, cell: Cell, ours: Collection[str]) -> Iterator[tuple[float, Row]]:
    """The measure of every valid row of ours."""
    base = _base(goal, cell, ours)
    for row in cell.rows:
        if row.contender not in ours or row.latency is None or row.waveform is None:
            continue
        if goal.measure == "speed":
            if base is not None and base.latency is not None:
                yield base.latency.median_s / row.latency.median_s, row
        else:
            figure = getattr(row, goal.measure)
            if figure is not None:
                yield figure, row


def _base(goal: Goal, cell: Cell, ours: Collection[str]) -> Row | None:
    """The row that a speed is taken over: the fastest that is meant."""
    meant = [
        row
        for row in cell.rows
        if row.latency is not None
        and (goal.over in (row.label, row.contender) or (goal.over == OTHERS and row.contender not in ours))
    ]
    return min(meant, key=lambda row: row.latency.median_s if row.latency else 0.0, default=None)


def _why_nothing(
    goal: Goal, cells: Sequence[Cell], ours: Collection[str], found: Sequence[tuple[float, Cell, Row]]
) -> str:
    if found:
        return _too_rough(goal, *max(found, key=lambda one: one[0]))
    if any(row.contender in ours and row.latency is not None for cell in cells for row in cell.rows):
        return f"no valid row of {clean(goal.over)} to compare with"
    return f"no valid row of {', '.join(sorted(ours))}"
