"""Medians, ratios and their intervals: against scipy, against numpy, and against the truth in simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from trt_svc.bench.report import Ratio
from trt_svc.bench.statistics import latency_of, median_interval, ratio_of, unpaired_ratio_of
from trt_svc.errors import InputError
from trt_svc.types import Doubles

RUNS = 300
LEAST_COVERAGE = 0.9
NEAR = 0.2
"""Of the width: medians of resamples are one round or the next, so other draws may end at the next."""


def rounds_of(rng: np.random.Generator, count: int, median_s: float = 0.02, jitter: float = 0.03) -> Doubles:
    """Skewed jitter, and a straggler now and then."""
    series = median_s * np.exp(jitter * rng.normal(size=count))
    return series * np.where(rng.random(count) < 0.05, 1.6, 1.0)


def by_scipy(statistic: object, *series: Doubles, paired: bool = False) -> tuple[float, float]:
    found = stats.bootstrap(
        series, statistic, n_resamples=9999, method="percentile", paired=paired, vectorized=True, rng=1
    )
    return found.confidence_interval.low, found.confidence_interval.high


def log_ratio(base: Doubles, other: Doubles, axis: int = -1) -> Doubles:
    return np.log(np.median(base, axis=axis) / np.median(other, axis=axis))


@pytest.mark.parametrize("count", [5, 15, 40, 400])
def test_the_interval_of_a_median_is_that_of_scipy(count: int) -> None:
    series = rounds_of(np.random.default_rng(count), count)
    width = np.ptp(by_scipy(np.median, series))
    assert median_interval(series) == pytest.approx(by_scipy(np.median, series), abs=NEAR * width)


@pytest.mark.parametrize("count", [7, 15, 40])
def test_the_interval_of_a_paired_ratio_is_that_of_scipy(count: int) -> None:
    rng = np.random.default_rng(count)
    shared = np.exp(0.1 * rng.normal(size=count))
    base, other = rounds_of(rng, count, 0.03) * shared, rounds_of(rng, count, 0.02) * shared
    low, high = by_scipy(log_ratio, base, other, paired=True)
    found = ratio_of(base.tolist(), other.tolist(), "torch fp32")
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((low, high), abs=NEAR * (high - low))
    assert found.value == pytest.approx(np.median(base) / np.median(other))
    assert found.against == "torch fp32"


def test_the_interval_of_an_unpaired_ratio_is_that_of_scipy() -> None:
    rng = np.random.default_rng(4)
    base, other = rounds_of(rng, 15, 0.03), rounds_of(rng, 40, 0.02, jitter=0.05)
    low, high = by_scipy(log_ratio, base, other)
    found = unpaired_ratio_of(base.tolist(), other.tolist(), "yesterday")
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((low, high), abs=NEAR * (high - low))


@pytest.mark.parametrize("count", [2, 3, 4, 7, 20])
@pytest.mark.parametrize("paired", [True, False])
def test_what_is_equally_fast_is_told_to_be(count: int, paired: bool) -> None:
    """A against A: about 95 of 100 intervals hold 1.0, however few the rounds are."""
    rng = np.random.default_rng(count)
    held = 0
    for _ in range(RUNS):
        shared = np.exp(0.1 * rng.normal(size=count)) if paired else 1.0
        one, two = rounds_of(rng, count) * shared, rounds_of(rng, count) * shared
        found = (ratio_of if paired else unpaired_ratio_of)(one.tolist(), two.tolist(), "itself")
        held += found.low <= 1 <= found.high
    assert held / RUNS >= LEAST_COVERAGE


@pytest.mark.parametrize("count", [2, 3, 4, 20])
def test_the_interval_of_a_median_holds_it(count: int) -> None:
    rng = np.random.default_rng(count)
    intervals = [median_interval(np.exp(0.03 * rng.normal(size=count))) for _ in range(RUNS)]
    assert np.mean([low <= 1 <= high for low, high in intervals]) >= LEAST_COVERAGE


def test_pairing_takes_out_what_slows_a_whole_round() -> None:
    rng = np.random.default_rng(0)
    shared = np.exp(0.3 * rng.normal(size=20))
    base, other = 0.03 * shared, 0.02 * shared
    paired, apart = (way(base.tolist(), other.tolist(), "x") for way in (ratio_of, unpaired_ratio_of))
    assert (paired.low, paired.high) == pytest.approx((1.5, 1.5))
    assert apart.high / apart.low > 1.1


def test_a_ratio_turned_around_is_its_inverse() -> None:
    rng = np.random.default_rng(1)
    base, other = rounds_of(rng, 15).tolist(), rounds_of(rng, 15).tolist()
    there, back = ratio_of(base, other, "x"), ratio_of(other, base, "x")
    assert (back.value, back.low, back.high) == pytest.approx((1 / there.value, 1 / there.high, 1 / there.low))


def test_few_rounds_are_never_sure() -> None:
    two, three = latency_of([1.0, 1.02]), latency_of([1.0, 1.02, 1.01])
    many = latency_of([1.0, 1.02, 1.01] * 5)
    assert two.spread > three.spread > many.spread
    assert two.spread > 0.1
    wide = ratio_of([1.0, 1.1], [0.9, 1.05], "x")
    assert wide.low < 1 < wide.high


def test_every_figure_of_a_latency() -> None:
    series = rounds_of(np.random.default_rng(2), 33)
    found = latency_of(series.tolist())
    expected = [
        33,
        np.median(series),
        np.percentile(series, 95),
        np.percentile(series, 99),
        series.mean(),
        series.min(),
    ]
    fields = [found.rounds, found.median_s, found.p95_s, found.p99_s, found.mean_s, found.min_s]
    assert fields == pytest.approx(expected)
    low, high = median_interval(series)
    assert found.spread == pytest.approx((high - low) / 2 / np.median(series))
    assert found.seconds == tuple(series)


def test_outliers_are_far_above_the_rest() -> None:
    calm = [1.0, 1.01, 1.02, 1.03, 1.04] * 4
    assert latency_of(calm).outliers == 0
    assert latency_of([*calm, 1.06]).outliers == 0
    assert latency_of([*calm, 1.5, 9.0]).outliers == 2
    assert latency_of([*calm, 0.01]).outliers == 0, "a quick round is none"


def test_drift_is_from_the_first_third_to_the_last() -> None:
    assert latency_of([1.0] * 5 + [7.0] * 5 + [1.2] * 5).drift == pytest.approx(0.2)
    assert latency_of([1.0, 0.5]).drift == pytest.approx(-0.5)
    assert latency_of([1.0] * 9).drift == 0


def test_the_same_rounds_say_the_same_every_time() -> None:
    series = rounds_of(np.random.default_rng(3), 20).tolist()
    assert latency_of(series) == latency_of(series)
    assert unpaired_ratio_of(series, series, "x") == unpaired_ratio_of(series, series, "x")
    assert ratio_of(series, series, "x") == Ratio(value=1, low=1, high=1, against="x")


def test_many_rounds_are_resampled_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    series = rounds_of(np.random.default_rng(5), 50)
    whole = median_interval(series)
    monkeypatch.setattr("trt_svc.bench.statistics._BLOCK", 7 * 50)
    assert median_interval(series) == pytest.approx(whole, rel=0.01)


@pytest.mark.parametrize("series", [[], [1.0], [1.0, 0.0], [1.0, -1.0], [1.0, math.nan], [1.0, math.inf]])
def test_what_is_no_measurement_is_refused(series: list[float]) -> None:
    with pytest.raises(InputError):
        latency_of(series)


def test_pairs_need_equally_many_rounds() -> None:
    with pytest.raises(InputError, match="3 rounds, the other 2"):
        ratio_of([1.0, 1.0, 1.0], [1.0, 1.0], "x")


def test_absurd_rounds_stay_finite() -> None:
    found = unpaired_ratio_of([1e-300, 1e300], [1.0, 1.0], "x")
    assert 0 < found.low < found.value < found.high < math.inf
