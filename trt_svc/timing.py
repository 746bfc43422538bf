"""Interleaved timing: every contender runs once per round, so drift of the machine hits all alike."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping

QUIET_SHARE, QUIET_LOOK_S, QUIET_WITHIN_S = 0.2, 0.003, 0.5
"""Others' threads are at rest when the process uses less than this share of a core; looked at for so long, at most."""
SHORT_S, SHORT_ROUNDS = 0.1, 3
"""Runs this short are timed so many times as often: moments count there."""


def at_rest(share: float = QUIET_SHARE, within_s: float = QUIET_WITHIN_S) -> None:
    """Waits until the threads of whoever ran last have stopped spinning: onnxruntime's go on for 50 ms."""
    started = time.perf_counter()
    while time.perf_counter() - started < within_s:
        wall, used = time.perf_counter(), time.process_time()
        time.sleep(QUIET_LOOK_S)
        if time.process_time() - used < share * (time.perf_counter() - wall):
            return


def interleaved_seconds(
    runs: Mapping[str, Callable[[], object]], rounds: int = 5, budget_s: float = 20.0, hopeless: float = 2.0
) -> dict[str, float]:
    """Median seconds per run; one warm-up each, more rounds where runs are short, fewer where they take long.

    A contender whose warm-up and first run both took `hopeless` times the best one's is timed no further.
    """
    first = {name: min(_rested_seconds(run), seconds_of(run)) for name, run in runs.items()}
    taken = {name: [seconds] for name, seconds in first.items()}
    racing = [name for name in runs if first[name] <= hopeless * min(first.values())]
    rounds *= SHORT_ROUNDS if min(first.values()) < SHORT_S else 1
    started, order = time.perf_counter(), random.Random(0)
    for done in range(rounds):
        order.shuffle(racing)  # nobody always follows the same one
        for name in racing:
            taken[name].append(_rested_seconds(runs[name]))
        if time.perf_counter() - started > budget_s and done >= 1:
            break
    return {name: statistics.median(values) for name, values in taken.items()}


def _rested_seconds(run: Callable[[], object]) -> float:
    at_rest()
    return seconds_of(run)


def seconds_of(run: Callable[[], object]) -> float:
    """How long one call takes."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin
