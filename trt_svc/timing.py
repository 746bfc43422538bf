"""Interleaved timing: every contender runs once per round, so drift of the machine hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def interleaved_seconds(
    runs: Mapping[str, Callable[[], object]], rounds: int = 5, budget_s: float = 20.0, hopeless: float = 2.0
) -> dict[str, float]:
    """Median seconds per run; one warm-up each, fewer rounds where they take long.

    A contender whose warm-up and first run both took `hopeless` times the best one's is timed no further.
    """
    first = {name: min(seconds_of(run), seconds_of(run)) for name, run in runs.items()}
    taken = {name: [seconds] for name, seconds in first.items()}
    racing = {name: run for name, run in runs.items() if first[name] <= hopeless * min(first.values())}
    started = time.perf_counter()
    for done in range(rounds):
        for name, run in racing.items():
            taken[name].append(seconds_of(run))
        if time.perf_counter() - started > budget_s and done >= 1:
            break
    return {name: statistics.median(values) for name, values in taken.items()}


def seconds_of(run: Callable[[], object]) -> float:
    """How long one call takes."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
