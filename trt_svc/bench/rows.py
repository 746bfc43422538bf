"""From laps to rows: statistics, ratios, rates, and the refusals. Made at the end, when all peaks are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from trt_svc.bench.cost import Cost
from trt_svc.bench.entries import REFERENCE, Entry
from trt_svc.bench.peaks import Probes
from trt_svc.bench.race import Lap
from trt_svc.bench.refusal import refusal
from trt_svc.bench.report import Cell, Latency, Ratio, Row, Rules, Waveform
from trt_svc.bench.statistics import latency_of, ratio_of

HALVES = ("fp16", "bf16")


@dataclass(frozen=True)
class RacedCell:
    """A cell as it came from the race."""

    network: str
    frames: int
    batch: int
    audio_s: float
    cost: Cost
    source_s: float
    entries: tuple[Entry, ...]
    """Without their runtimes."""
    laps: Mapping[str, Lap]
    """By label; entries that could not be opened have none."""
    declared_gflop: Mapping[str, float]
    """Operations per call of each, as it says itself."""
    energy_j: Mapping[str, float | None]


def cell_of(raced: RacedCell, probes: Probes, rules: Rules) -> Cell:
    """The cell with all its rows, the fastest first, refused ones last."""
    rows = [_row(raced, entry, probes, rules) for entry in raced.entries]
    with_ratios = [_with_ratios(row, rows) for row in rows]
    return Cell(
        network=raced.network,
        frames=raced.frames,
        batch=raced.batch,
        audio_s=raced.audio_s,
        gflop=raced.cost.gflop,
        traffic_bytes=raced.cost.traffic_bytes,
        source_s=raced.source_s,
        rows=tuple(sorted(with_ratios, key=lambda row: row.latency.median_s if row.latency else float("inf"))),
    )


def _row(raced: RacedCell, entry: Entry, probes: Probes, rules: Rules) -> Row:
    lap = raced.laps.get(entry.label, Lap(failure=entry.failure or "it was not raced"))
    latency = _latency(tuple(lap.seconds)) if len(lap.seconds) > 1 and not lap.failure else None
    gflop = raced.declared_gflop.get(entry.label, raced.cost.gflop)
    if len(lap.differences) != len(lap.seconds) and not lap.failure:
        lap = Lap(failure="some of its rounds could not be compared with torch float32")
        latency = None
    reason = lap.failure or refusal(entry.precision, lap.worst, latency, gflop, probes.highest(entry.precision), rules)
    plain = Row(
        contender=entry.contender,
        precision=entry.precision,
        forms=entry.forms,
        chosen=entry.chosen,
        threads=entry.threads,
        status="refused" if reason else "measured",
        reason=reason,
        waveform=_waveform(lap),
        opening=entry.opening,
    )
    if reason or latency is None:
        return plain
    return plain.model_copy(update=_rates(raced, entry, latency, probes))


def _waveform(lap: Lap) -> Waveform | None:
    found = lap.worst
    if found is None or not found.mse < float("inf"):
        return None
    return Waveform(mse=found.mse, mae=found.mae, max=found.max, snr_db=found.snr_db)


def _rates(raced: RacedCell, entry: Entry, latency: Latency, probes: Probes) -> dict[str, object]:
    """Operations are those of the plain algorithm, whoever needs fewer: the same work for all."""
    seconds, gflop = latency.median_s, raced.cost.gflop
    peak = probes.gflops.get(entry.precision, probes.gflops["fp32"])
    roof = probes.highest(entry.precision)
    width = 2 if entry.precision in HALVES else 4
    return {
        "latency": latency,
        "inferences_per_s": raced.batch / seconds,
        "audio_s_per_s": raced.audio_s / seconds,
        "rtf": seconds / raced.audio_s,
        "gflops": gflop / seconds,
        "percent_of_peak": 100 * gflop / seconds / peak,
        "percent_of_roofline": 100 * raced.cost.least_s(roof, probes.copy_gb_per_s, width) / seconds,
        "energy_j": raced.energy_j.get(entry.label),
    }


def _with_ratios(row: Row, rows: Sequence[Row]) -> Row:
    """A refused row has none, and none is taken against it."""
    if row.latency is None:
        return row
    upstream = next((r for r in rows if r.label == REFERENCE and r.latency), None)
    others = [r for r in rows if r.latency and r.label != row.label]
    # Another form or precision of the same contender is a rival only where there is nobody else.
    others = [r for r in others if r.contender != row.contender] or others
    fastest = min(others, key=lambda r: r.latency.median_s if r.latency else 0.0, default=None)
    return row.model_copy(update={"over_upstream": _ratio(upstream, row), "over_fastest_other": _ratio(fastest, row)})


def _ratio(base: Row | None, row: Row) -> Ratio | None:
    if base is None or base.latency is None or row.latency is None or base.label == row.label:
        return None
    return _paired(base.latency.seconds, row.latency.seconds, base.label)


# A report is written after every cell, and its intervals do not change.


@lru_cache(maxsize=10_000)
def _latency(seconds: tuple[float, ...]) -> Latency:
    return latency_of(seconds)


@lru_cache(maxsize=20_000)
def _paired(base: tuple[float, ...], other: tuple[float, ...], against: str) -> Ratio:
    return ratio_of(base, other, against)
