"""Two reports side by side: which rows became slower, worse or unusable, which better, and what else changed.

A row is the same in both where network, weights, shape and label are; weights drawn at random differ in their last
bits between machines, so that name and parameters tell of those. A verdict on time needs a change beyond the
threshold that the jitter of the rounds does not explain, a verdict on quality one beyond what rounding does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from trt_svc.bench.changes import (
    By,
    Comparison,
    Key,
    ListeningChange,
    Quality,
    QualityChange,
    RowChange,
    Speed,
    SpeedChange,
    State,
)
from trt_svc.bench.comparison_notes import Setting, networks_of, notes_of, same_weights
from trt_svc.bench.history import run_name
from trt_svc.bench.report import Latency, Ratio, Report, Row
from trt_svc.bench.statistics import unpaired_ratio_of
from trt_svc.errors import InputError, shown
from trt_svc.registry import did_you_mean

THRESHOLD = 0.10
SNR_FALL_DB = 3.0
SNR_ENOUGH_DB = 100.0
"""What is above it is float32 rounding, which another number of threads changes: it counts as this much."""


@dataclass(frozen=True)
class Tolerance:
    """How much worse a figure may get, in its own unit."""

    slack: float
    better: Literal["lower", "higher", "zero"] = "lower"

    def verdict(self, before: float, after: float) -> Quality:
        losses = {"lower": after - before, "higher": before - after, "zero": abs(after) - abs(before)}
        loss = losses[self.better]
        if math.isnan(loss):
            return "unknown"
        return "worse" if loss > self.slack else "better" if loss < -self.slack else "same"


TOLERANCES: Mapping[str, Tolerance] = {
    "pesq_wb": Tolerance(0.01, "higher"),
    "pesq_wb_delta": Tolerance(0.01, "zero"),
    "visqol": Tolerance(0.02, "higher"),
    "visqol_delta": Tolerance(0.02, "zero"),
    "vuv_f1": Tolerance(0.005, "higher"),
    "mr_stft": Tolerance(0.02),
    "mel_l1": Tolerance(0.01),
    "lsd_above_8k_db": Tolerance(0.2),
    "f0_rmse_cents": Tolerance(2.0),
    "periodicity_rmse": Tolerance(0.005),
}
"""By name of the listening metric; one that is not here is shown, but not judged."""
_SNR = Tolerance(SNR_FALL_DB, "higher")


def measured_by(text: str) -> By:
    """The way to compare of that name."""
    for way in get_args(By):
        if text == way:
            return text  # type: ignore[return-value]
    raise InputError(f"comparing by {shown(text)}", "there is no such way.", did_you_mean(text, list(get_args(By))))


def compare(before: Report, after: Report, threshold: float = THRESHOLD, by: By = "latency") -> Comparison:
    """What changed from one report to the next; `threshold` is the part by which a row may become slower."""
    if not (math.isfinite(threshold) and threshold >= 0):
        raise InputError(f"a threshold of {threshold}", "it is no part of a time.", "Give one such as 0.1.")
    judge = _Judge(threshold, measured_by(by))
    _check_load(before, after)
    then, now = _rows(before, _weights(before)), _rows(after, _weights(after, before))
    common = [key for key in then if key in now]
    replaced = _replaced(before, after)
    if not common:
        raise _nothing_in_common(replaced)
    rows = [_change(key, then[key], now[key], judge) for key in common]
    rows += [RowChange(key, "missing", _absence(key, after)) for key in _only(then, now, replaced)]
    rows += [RowChange(key, "new", _absence(key, before)) for key in _only(now, then, replaced)]
    heard = tuple(_listening(before, after, replaced))
    notes = notes_of(before, after, tuple(rows), heard, Setting(threshold, by, replaced, frozenset(TOLERANCES)))
    rows.sort(key=lambda row: row.severity)
    names = (run_name(before.provenance), run_name(after.provenance))
    return Comparison(*names, by, threshold, tuple(rows), heard, notes)


def _check_load(before: Report, after: Report) -> None:
    """A loaded machine and a quiet one have nothing to say about each other."""
    cores = (before.provenance.busy_cores, after.provenance.busy_cores)
    if cores[0] != cores[1]:
        found = f"the first was raced beside {cores[0]} busy cores, the second beside {cores[1]}."
        raise InputError("comparing two reports", found, "Race both with the same --busy-cores.")


@dataclass(frozen=True)
class _Judge:
    threshold: float
    by: By

    def speed(self, before: Row, after: Row) -> SpeedChange | None:
        """None where one of them has no such figure."""
        if self.by == "latency":
            if before.latency is None or after.latency is None:
                return None
            return self._by_latency(before.latency, after.latency)
        if before.over_upstream is None or after.over_upstream is None:
            return None
        return self._by_speedup(before.over_upstream, after.over_upstream)

    def _by_latency(self, before: Latency, after: Latency) -> SpeedChange:
        found = unpaired_ratio_of(after.seconds, before.seconds, "before")
        return self._judged((before.median_s, after.median_s), found.value, found.low, found.high)

    def _by_speedup(self, before: Ratio, after: Ratio) -> SpeedChange:
        then, now = _logs(before), _logs(after)
        value = then[1] - now[1]
        # Two runs know nothing of each other: their uncertainties add up as squares, each side for itself
        # (Zou and Donner, "Construction of confidence limits about effect measures", 2008).
        low = value - math.hypot(then[1] - then[0], now[2] - now[1])
        high = value + math.hypot(then[2] - then[1], now[1] - now[0])
        return self._judged((before.value, after.value), *(math.exp(power) for power in (value, low, high)))

    def _judged(self, ends: tuple[float, float], ratio: float, low: float, high: float) -> SpeedChange:
        verdict: Speed = "same"
        if ratio > 1 + self.threshold and low > 1:
            verdict = "slower"
        elif ratio < 1 / (1 + self.threshold) and high < 1:
            verdict = "faster"
        unsure = verdict == "same" and abs(math.log(ratio)) > math.log1p(self.threshold)
        return SpeedChange(*ends, ratio, low, high, verdict, unsure)


def _logs(ratio: Ratio) -> tuple[float, float, float]:
    ends = (ratio.low, ratio.value, ratio.high)
    if not all(1e-9 < end < 1e9 for end in ends):
        found = f"{shown(ends)} is no interval of a factor."
        raise InputError("comparing by speedup", found, "Compare reports that trt-svc bench wrote.")
    return math.log(ratio.low), math.log(ratio.value), math.log(ratio.high)


def _weights(report: Report, before: Report | None = None) -> dict[str, str]:
    """Hash by network; that of the report before where those count as the same."""
    found = {network.name: network.weights_sha256 for network in report.networks}
    pairs = () if before is None else networks_of(before, report)
    return {**found, **{new.name: old.weights_sha256 for old, new in pairs if same_weights(old, new)}}


def _rows(report: Report, weights: Mapping[str, str]) -> dict[Key, Row]:
    return {
        Key(cell.network, weights.get(cell.network, ""), cell.frames, cell.batch, row.label): row
        for cell in report.cells
        for row in cell.rows
    }


def _replaced(before: Report, after: Report) -> tuple[str, ...]:
    return tuple(new.name for old, new in networks_of(before, after) if not same_weights(old, new))


def _nothing_in_common(replaced: Sequence[str]) -> InputError:
    weights = f" ({', '.join(shown(name) for name in replaced)}: other weights)" if replaced else ""
    found = f"they have no row in common{weights}."
    return InputError("comparing two reports", found, "Give reports of the same recipe and the same weights.")


def _only(there: Mapping[Key, Row], elsewhere: Mapping[Key, Row], replaced: Sequence[str]) -> list[Key]:
    return [key for key in there if key not in elsewhere and key.network not in replaced]


def _absence(key: Key, report: Report) -> str:
    """Why that report has no such row."""
    for left in report.left_out:
        row = f"{left.contender} {left.precision}" if left.precision else left.contender
        of_network = left.network in (None, key.network)
        if of_network and (key.label == row or key.label.startswith(f"{row} ")):
            return f"left out there: {left.reason}"
    if report.stopped:
        return "that run was stopped before"
    if all(cell.network != key.network for cell in report.cells):
        return "that network was not benchmarked there"
    if all((cell.network, cell.frames, cell.batch) != (key.network, key.frames, key.batch) for cell in report.cells):
        return "that shape was not benchmarked there"
    return "that contender was not benchmarked there"


def _change(key: Key, before: Row, after: Row, judge: _Judge) -> RowChange:
    states: dict[tuple[str, str], State] = {
        ("measured", "measured"): "compared",
        ("measured", "refused"): "refused now",
        ("refused", "measured"): "measured now",
        ("refused", "refused"): "refused in both",
    }
    state = states[before.status, after.status]
    speed = judge.speed(before, after) if state == "compared" else None
    return RowChange(key, state, after.reason or before.reason, speed, _snr(before, after, state))


def _snr(before: Row, after: Row, state: State) -> QualityChange | None:
    """Judged where both were measured: what is refused has its reason."""
    if before.waveform is None or after.waveform is None:
        return None
    ends = (before.waveform.snr_db, after.waveform.snr_db)
    verdict = _SNR.verdict(*(min(end, SNR_ENOUGH_DB) for end in ends)) if state == "compared" else "unknown"
    return QualityChange("snr_db", *ends, verdict)


def _listening(before: Report, after: Report, replaced: Sequence[str]) -> Iterator[ListeningChange]:
    for old, new in networks_of(before, after):
        if new.name in replaced or old.listened_to != new.listened_to:
            continue
        then = {heard.contender: heard.metrics for heard in old.listening}
        for heard in new.listening:
            if heard.contender in then:
                yield ListeningChange(new.name, heard.contender, _metrics(then[heard.contender], heard.metrics))


def _metrics(before: Mapping[str, float | None], after: Mapping[str, float | None]) -> tuple[QualityChange, ...]:
    return tuple(_metric(name, before[name], after[name]) for name in before if name in after)


def _metric(name: str, before: float | None, after: float | None) -> QualityChange:
    tolerance = TOLERANCES.get(name)
    if tolerance is None or before is None or after is None:
        return QualityChange(name, before, after, "unknown")
    return QualityChange(name, before, after, tolerance.verdict(before, after))
