"""Medians, ratios and how sure they are, from the rounds of a benchmark.

Only numpy: the suite also runs where a host program brings torch and little else, and scipy is no dependency of the
package. The tests hold the intervals against `scipy.stats.bootstrap`.

Intervals are percentile bootstraps of 95 %. Of two to four rounds no resample is ever further out than the shortest
or the longest round, so that their intervals would hold the truth in 50, 75 and 88 of 100 cases instead of 95. There
the longer side is scaled up and taken on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from trt_svc.bench.report import Latency, Ratio
from trt_svc.errors import InputError
from trt_svc.types import Doubles

CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 20
FEWEST_ROUNDS = 2
"""One round says nothing about how sure it is."""

_FEW = {2: 12.7, 3: 1.9, 4: 1.2}
"""What makes an interval of so few normal or log-normal rounds hold their median in 95 of 100; 12.7 is Student's t."""
_FAR = 3.0
"""Interquartile ranges above the third quartile that make an outlier."""
_BLOCK = 1_000_000
"""Numbers resampled at once: a hundred thousand rounds need no gigabytes."""


def latency_of(seconds: Sequence[float]) -> Latency:
    """What the rounds of one contender say, in the order they were measured."""
    rounds = _checked(seconds)
    median = float(np.median(rounds))
    low, high = median_interval(rounds)
    p95, p99, third, first = (float(np.percentile(rounds, rank)) for rank in (95, 99, 75, 25))
    return Latency(
        rounds=len(rounds),
        median_s=median,
        p95_s=p95,
        p99_s=p99,
        mean_s=float(np.mean(rounds)),
        min_s=float(np.min(rounds)),
        spread=(high - low) / 2 / median,
        drift=_drift(rounds),
        outliers=int(np.count_nonzero(rounds > third + _FAR * (third - first))),
        seconds=tuple(rounds.tolist()),
    )


def median_interval(seconds: Sequence[float] | Doubles) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    rounds = _checked(seconds)
    return _interval(_medians(rounds, SEED), float(np.median(rounds)), len(rounds))


def ratio_of(base: Sequence[float], other: Sequence[float], against: str) -> Ratio:
    """How many times faster `other` is than `base`; both were measured in the same rounds.

    A resample takes whole rounds, so whatever slowed both down in a round cancels out.
    """
    slow, fast = _checked(base), _checked(other)
    if len(slow) != len(fast):
        raise InputError(
            "a ratio of paired rounds",
            f"one has {len(slow)} rounds, the other {len(fast)}.",
            "Measure both in every round, or use unpaired_ratio_of.",
        )
    return _ratio(slow, fast, against, SEED)


def unpaired_ratio_of(base: Sequence[float], other: Sequence[float], against: str) -> Ratio:
    """How many times faster `other` is than `base`; measured apart, such as on different days.

    The interval knows of the jitter within each run, not of what makes one day unlike another.
    """
    return _ratio(_checked(base), _checked(other), against, SEED + 1)


def _ratio(slow: Doubles, fast: Doubles, against: str, fast_seed: int) -> Ratio:
    """With the seed of `slow` and as many rounds, `fast` is resampled in the same rounds."""
    value = math.log(float(np.median(slow))) - math.log(float(np.median(fast)))
    found = np.log(_medians(slow, SEED)) - np.log(_medians(fast, fast_seed))
    # Factors, not differences: half as fast and twice as fast are equally far from the same.
    low, high = _interval(found, value, min(len(slow), len(fast)))
    return Ratio(value=_exp(value), low=_exp(low), high=_exp(high), against=against)


def _exp(power: float) -> float:
    """Finite for whatever a file may hold."""
    return math.exp(min(max(power, -700.0), 700.0))


def _medians(rounds: Doubles, seed: int) -> Doubles:
    """Medians of the resamples, the same rounds for the same seed."""
    rng = np.random.default_rng(seed)
    found = np.empty(RESAMPLES)
    step = max(1, _BLOCK // len(rounds))
    for start in range(0, RESAMPLES, step):
        rows = rng.integers(0, len(rounds), (min(step, RESAMPLES - start), len(rounds)))
        found[start : start + step] = np.median(rounds[rows], axis=1)
    return found


def _interval(resampled: Doubles, value: float, rounds: int) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2 * 100
    low, high = (float(np.percentile(resampled, rank)) for rank in (tail, 100 - tail))
    if rounds not in _FEW:
        return low, high
    side = _FEW[rounds] * max(value - low, high - value)
    return value - side, value + side


def _drift(rounds: Doubles) -> float:
    third = max(1, len(rounds) // 3)
    return float(np.median(rounds[-third:]) / np.median(rounds[:third])) - 1


def _checked(seconds: Sequence[float] | Doubles) -> Doubles:
    rounds = np.asarray(seconds, np.float64)
    if rounds.ndim != 1 or len(rounds) < FEWEST_ROUNDS:
        found = f"there are {rounds.size}."
        raise InputError("statistics of measured rounds", found, f"Measure at least {FEWEST_ROUNDS} rounds.")
    if not np.all(np.isfinite(rounds)) or np.any(rounds <= 0):
        found = "a round took no time, less than none, or no number at all."
        raise InputError("statistics of measured rounds", found, "Measure with a monotonic clock.")
    return rounds
