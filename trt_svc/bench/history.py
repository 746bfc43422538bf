"""Reports over time: every row of a machine as one line, from the oldest run to the newest."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from trt_svc.bench.report import Provenance, Report, Row, read_report
from trt_svc.errors import InputError, TrtSvcError, shown
from trt_svc.registry import did_you_mean

Measure = Literal["latency", "speedup", "snr"]

BARS = "▁▂▃▄▅▆▇█"
ABSENT, REFUSED = "·", "×"
LEAST_RANGE = 0.1
"""The bars span at least this part of the largest value: jitter is no mountain."""
LEAST_RANGE_DB = 6.0
MEASURED_IN: dict[Measure, str] = {"latency": "ms", "speedup": "x upstream", "snr": "dB"}


@dataclass(frozen=True)
class Machine:
    """What has to be the same for seconds to be comparable."""

    cpu: str
    cores: int
    gpus: tuple[str, ...]
    threads: int
    busy: int = 0

    def __str__(self) -> str:
        cores = f"{self.cores} core{'s' if self.cores != 1 else ''}, {self.threads} used"
        busy = (f"{self.busy} kept busy",) if self.busy else ()
        return ", ".join((self.cpu, cores, *busy, *(self.gpus or ("no GPU",))))


def machine_of(provenance: Provenance) -> Machine:
    busy = provenance.busy_cores
    return Machine(provenance.cpu, provenance.cores, provenance.gpus, provenance.threads, busy)


def run_name(provenance: Provenance) -> str:
    """The day and what was measured: a commit, or a version where there is none."""
    code = provenance.commit[:7] if provenance.commit else f"v{provenance.trt_svc}"
    return f"{provenance.created[:10]} {code}{' dirty' if provenance.dirty else ''}"


@dataclass(frozen=True)
class Point:
    """One row of one run."""

    run: str
    median_ms: float | None
    over_upstream: float | None
    snr_db: float | None
    refused: bool

    def value(self, measure: Measure) -> float | None:
        """None where it is refused: its speed does not count."""
        values = {"latency": self.median_ms, "speedup": self.over_upstream, "snr": self.snr_db}
        return None if self.refused else values[measure]

    def as_dict(self) -> dict[str, Any]:
        snr = self.snr_db
        return {**asdict(self), "snr_db": snr if snr is not None and math.isfinite(snr) else None}


@dataclass(frozen=True)
class Line:
    """One row over time; `points` has one place for every run of the machine, None where it has no such row."""

    network: str
    frames: int
    batch: int
    label: str
    points: tuple[Point | None, ...]

    def measured(self, measure: Measure) -> list[tuple[str, float]]:
        """(run, value), the oldest first."""
        found = ((point.run, point.value(measure)) for point in self.points if point is not None)
        return [(run, value) for run, value in found if value is not None and not math.isnan(value)]

    def change(self, measure: Measure) -> float | None:
        """From the first to the last: a part of the first, of SNRs the difference; None where there are not two."""
        values = [value for _, value in self.measured(measure)]
        if len(values) < 2:
            return None
        first, last = values[0], values[-1]
        if first == last:  # infinite ones too
            return 0.0
        if measure == "snr":
            return last - first
        return last / first - 1 if first else None

    def best(self, measure: Measure) -> tuple[str, float] | None:
        """Run and value, the first of equals."""
        choose = min if measure == "latency" else max
        return choose(self.measured(measure), key=lambda pair: pair[1], default=None)

    def sparkline(self, measure: Measure) -> str:
        """A bar for every run, from the lowest value to the highest."""
        finite = [value for _, value in self.measured(measure) if math.isfinite(value)]
        low, high = min(finite, default=0.0), max(finite, default=0.0)
        span = max(high - low, LEAST_RANGE_DB if measure == "snr" else LEAST_RANGE * high)
        return "".join(_bar(point, measure, low, span) for point in self.points)

    def as_dict(self, measure: Measure) -> dict[str, Any]:
        best, change = self.best(measure), self.change(measure)
        return {
            "network": self.network,
            "frames": self.frames,
            "batch": self.batch,
            "label": self.label,
            "points": [None if point is None else point.as_dict() for point in self.points],
            "change": _finite(change),
            "best": None if best is None else {"run": best[0], "value": _finite(best[1])},
            "sparkline": self.sparkline(measure),
        }


def _bar(point: Point | None, measure: Measure, low: float, span: float) -> str:
    if point is None or point.refused:
        return ABSENT if point is None else REFUSED
    value = point.value(measure)
    if value is None or math.isnan(value):
        return ABSENT
    if math.isinf(value):
        return BARS[-1] if value > 0 else BARS[0]
    return BARS[round((value - low) / span * (len(BARS) - 1))] if span > 0 else BARS[0]


def _finite(value: float | None) -> float | None:
    """JSON has no infinity."""
    return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class Series:
    """All runs of one machine."""

    machine: Machine
    runs: tuple[str, ...]
    """The oldest first."""
    lines: tuple[Line, ...]

    def as_dict(self, measure: Measure) -> dict[str, Any]:
        lines = [line.as_dict(measure) for line in self.lines]
        return {"machine": asdict(self.machine), "runs": list(self.runs), "lines": lines}


@dataclass(frozen=True)
class History:
    """Every machine's runs; the machine that ran last comes first."""

    series: tuple[Series, ...]
    notes: tuple[str, ...]
    """What was skipped, and what makes runs unlike each other."""

    @cached_property
    def networks(self) -> list[str]:
        return sorted({line.network for one in self.series for line in one.lines})

    def of_network(self, name: str) -> History:
        """Only its lines."""
        if name not in self.networks:
            raise InputError(f"the history of {shown(name)}", "no run has it.", did_you_mean(name, self.networks))
        kept = ((one, tuple(line for line in one.lines if line.network == name)) for one in self.series)
        return History(tuple(Series(one.machine, one.runs, lines) for one, lines in kept if lines), self.notes)

    def as_dict(self, measure: Measure = "latency") -> dict[str, Any]:
        series = [one.as_dict(measure) for one in self.series]
        return {"measure": measure, "unit": MEASURED_IN[measure], "machines": series, "notes": list(self.notes)}


def measure_called(text: str) -> Measure:
    """The measure of that name."""
    for measure in get_args(Measure):
        if text == measure:
            return measure  # type: ignore[no-any-return]
    raise InputError(f"a history of {shown(text)}", "there is no such measure.", did_you_mean(text, [*MEASURED_IN]))


def history(paths: Iterable[Path]) -> History:
    """Of all reports in these files and folders, at any depth; what is no report is skipped with a note."""
    reports, notes = _read(paths)
    reports.sort(key=lambda report: _moment(report.provenance.created))
    machines: dict[Machine, list[Report]] = {}
    for report in reversed(reports):
        machines.setdefault(machine_of(report.provenance), []).insert(0, report)
    series = tuple(_series(machine, runs) for machine, runs in machines.items())
    return History(series, (*notes, *_weight_notes(reports)))


def _read(paths: Iterable[Path]) -> tuple[list[Report], list[str]]:
    reports: list[Report] = []
    notes: list[str] = []
    for file in _files(paths):
        try:
            reports.append(read_report(file))
        except TrtSvcError as err:
            notes.append(f"skipped: {err.asked}: {err.found.rstrip('.')}")
    if not reports:
        found = f"there are none{f' ({notes[0]})' if notes else ''}."
        raise InputError("reading benchmark reports", found, "Give report.json files of `trt-svc bench`, or folders.")
    return reports, notes


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    """Each once, however often it is named."""
    seen: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise InputError(f"reports in {shown(str(path))}", "there is no such file or folder.", "Check the path.")
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            # Hidden ones are half-written reports and other programs' folders.
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if file.is_file() and not hidden and file.resolve() not in seen:
                seen.add(file.resolve())
                yield file


def _moment(created: str) -> datetime:
    """When that was; the beginning of time where it cannot be told."""
    try:
        found = datetime.fromisoformat(created)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _series(machine: Machine, reports: Sequence[Report]) -> Series:
    points = [dict(_points(report)) for report in reports]
    known = dict.fromkeys(key for run in points for key in run)
    lines = [Line(*key, tuple(run.get(key) for run in points)) for key in known]
    return Series(machine, tuple(run_name(report.provenance) for report in reports), tuple(lines))


_Key = tuple[str, int, int, str]


def _points(report: Report) -> Iterator[tuple[_Key, Point]]:
    run = run_name(report.provenance)
    for cell in report.cells:
        for row in cell.rows:
            yield (cell.network, cell.frames, cell.batch, row.label), _point(run, row)


def _point(run: str, row: Row) -> Point:
    return Point(
        run,
        median_ms=None if row.latency is None else 1e3 * row.latency.median_s,
        over_upstream=None if row.over_upstream is None else row.over_upstream.value,
        snr_db=None if row.waveform is None else row.waveform.snr_db,
        refused=row.status == "refused",
    )


def _weight_notes(reports: Iterable[Report]) -> Iterator[str]:
    weights: dict[str, set[str]] = {}
    for report in reports:
        for network in report.networks:
            # Random ones differ in their last bits from machine to machine.
            which = network.weights_sha256 if network.trained else f"{network.parameters} drawn at random"
            weights.setdefault(network.name, set()).add(which)
    for name, found in weights.items():
        if len(found) > 1:
            yield f"{shown(name)} had {len(found)} different sets of weights in these runs"
