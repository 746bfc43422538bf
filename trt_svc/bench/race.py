"""The race: every round runs every entrant once, in a new random order, on an input that none has seen before.

The upstream way runs in every round too, so each timed output is compared with its audio for the same input: what
is fast because it remembers, skips work or comes back early is caught by its sound.
"""

from __future__ import annotations

import gc
import math
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from trt_svc.bench.peaks import finish
from trt_svc.bench.statistics import latency_of
from trt_svc.difference import Difference, difference, worst
from trt_svc.errors import TrtSvcError, shown
from trt_svc.timing import at_rest
from trt_svc.types import Array

WARM_UPS = 2
LOUDNESS_STEP, LOUDNESS_STEPS = 0.01, 50
"""Every input is also a little louder than the one before (nepers), until it starts again from below."""
ROLL = 97
SHORT_S = 0.5
"""Runs shorter than this are led in by an untimed one: what the one before left in caches and threads would show."""


class Entrant(ABC):
    """An opened contender."""

    device = "cpu"
    """Where it takes inputs and makes audio, as torch names it."""

    @abstractmethod
    def placed(self, inputs: Mapping[str, Array]) -> Any:
        """The inputs where it wants them; not timed."""

    @abstractmethod
    def run(self, placed: Any) -> Any:
        """One call; what is still going on in a device when it returns is waited for and timed."""

    def audio(self, made: Any) -> Array:
        """What `run` gave, as it is now, on the host (B, samples); not timed."""
        return np.array(made)

    def gflop(self, plain: float) -> float:
        """10^9 operations of a call whose plain algorithm takes `plain`: fast convolutions need fewer."""
        return plain

    def close(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Lets go of its memory."""


@dataclass(frozen=True)
class Pace:
    """How long to race."""

    min_rounds: int = 7
    max_rounds: int = 40
    budget_s: float = 30.0
    """For all entrants of a cell together; the least number of rounds is run even so."""
    patience: float = 3.0
    """So many times the budget may be raced while some median is not known well enough."""
    max_spread: float = 0.15


@dataclass
class Lap:
    """What one entrant did in a race."""

    seconds: list[float] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    warm_s: float = 0.0
    """What its last run before the race took."""
    failure: str = ""

    @property
    def worst(self) -> Difference | None:
        """The lowest quality of all timed rounds."""
        return worst(self.differences) if self.differences else None


class Inputs:
    """Inputs that are alike but never the same: each is the first one, moved in time and at another loudness."""

    def __init__(self, base: Mapping[str, Array], per_frame: Mapping[str, Fraction]) -> None:
        self._base, self._per_frame = base, per_frame
        self._drawn = 0

    def draw(self) -> dict[str, Array]:
        self._drawn += 1
        frames = self._base["mel"].shape[-1]
        roll = 1 + self._drawn * ROLL % (frames - 1) if frames > 1 else 0
        moved = {
            name: np.roll(value, int(roll * self._per_frame[name]), axis=-1) if value.shape[-1] > 1 else value
            for name, value in self._base.items()
        }
        moved["mel"] = moved["mel"] + np.float32(LOUDNESS_STEP * (self._drawn % LOUDNESS_STEPS))
        return {name: np.ascontiguousarray(value, np.float32) for name, value in moved.items()}


def race(
    entrants: Mapping[str, Entrant],
    reference: str,
    inputs: Inputs,
    pace: Pace,
    clock: Callable[[], float] = time.perf_counter,
    settle: Callable[[], None] = at_rest,
    seen: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Lap]:
    """Every entrant's lap; `reference` names the one whose audio the others' is compared with."""
    laps = {name: Lap() for name in entrants}
    order = random.Random(0)
    for _ in range(WARM_UPS):
        given = inputs.draw()
        for name in _running(laps):
            _warm_up(entrants[name], laps[name], given, clock)
        if laps[reference].warm_s > pace.budget_s / 4:
            break  # runs that long are warm after one
    started, rounds = clock(), 0
    gc.collect()
    gc.disable()
    try:
        while _goes_on(rounds, clock() - started, laps, pace):
            names = _running(laps)
            order.shuffle(names)
            before, given = given, inputs.draw()
            _one_round({name: entrants[name] for name in names}, laps, reference, (before, given), clock, settle)
            rounds += 1
            if laps[reference].failure:
                break  # nothing could be compared any more
            seen(rounds, _expected(rounds, clock() - started, pace))
    finally:
        gc.enable()
    return laps


def _goes_on(rounds: int, taken_s: float, laps: Mapping[str, Lap], pace: Pace) -> bool:
    """Another round? Beyond the budget only for medians that are not known well enough yet."""
    if rounds >= pace.max_rounds:
        return False
    if rounds < pace.min_rounds or taken_s < pace.budget_s:
        return True
    return taken_s < pace.patience * pace.budget_s and any(
        latency_of(lap.seconds).spread > pace.max_spread for lap in laps.values() if not lap.failure
    )


def _running(laps: Mapping[str, Lap]) -> list[str]:
    return [name for name, lap in laps.items() if not lap.failure]


def _expected(rounds: int, taken_s: float, pace: Pace) -> int:
    """How many rounds there will be in all, as far as one can tell."""
    fitting = rounds * pace.budget_s / max(taken_s, 1e-9)
    return max(rounds, int(min(pace.max_rounds, max(pace.min_rounds, fitting))))


def _warm_up(entrant: Entrant, lap: Lap, given: Mapping[str, Array], clock: Callable[[], float]) -> None:
    try:
        placed, began = entrant.placed(given), clock()
        entrant.audio(entrant.run(placed))
        lap.warm_s = clock() - began
    except Exception as err:  # whatever a runtime throws is its own row's business
        lap.failure = failure(err)


def _one_round(
    entrants: Mapping[str, Entrant],
    laps: Mapping[str, Lap],
    reference: str,
    inputs: tuple[Mapping[str, Array], Mapping[str, Array]],
    clock: Callable[[], float],
    settle: Callable[[], None],
) -> None:
    before, given = inputs
    made: dict[str, Array] = {}
    for name, entrant in entrants.items():
        try:
            led_in, placed = entrant.placed(before), entrant.placed(given)
            settle()
            if laps[name].warm_s < SHORT_S:
                entrant.run(led_in)
            finish(entrant.device)
            begin = clock()
            out = entrant.run(placed)
            finish(entrant.device)
            seconds = clock() - begin
            made[name] = entrant.audio(out)  # at once: what is not there yet does not count
        except Exception as err:  # whatever a runtime throws is its own row's business
            laps[name].failure = failure(err)
            continue
        laps[name].seconds.append(seconds)
    if reference not in made:
        return
    for name, audio in made.items():
        laps[name].differences.append(compared(audio, made[reference]))


def compared(made: Array, reference: Array) -> Difference:
    """The difference, with a wrong shape as wrong as can be."""
    if made.shape != reference.shape:
        return Difference(math.inf, math.inf, math.inf, -math.inf)
    found = difference(made, reference)
    return found if math.isfinite(found.mse) else Difference(math.inf, math.inf, math.inf, -math.inf)


def failure(err: Exception) -> str:
    """What went wrong, in a line."""
    return shown(f"{err.asked}: {err.found}" if isinstance(err, TrtSvcError) else f"{type(err).__name__}: {err}")
