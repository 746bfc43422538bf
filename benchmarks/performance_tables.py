"""The tables of docs/performance.md: the forms of the kernels, and what the reports say of speed on CPUs.

A report that is not there makes a table that says so; `benchmarks.readme_tables` puts them into the page.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.cold_start import FOLDER as COLD_START
from benchmarks.cold_start import JSON as COLD_START_JSON
from benchmarks.cold_start import PHASES, ColdStartReport
from benchmarks.linear_cost import FOLDER as LINEAR
from benchmarks.linear_cost import JSON as LINEAR_JSON
from benchmarks.linear_cost import LinearCostReport
from trt_svc.bench import words
from trt_svc.bench.report import REPORT, Cell, Provenance, Ratio, Report, Row, read_report
from trt_svc.native.forms import POINTS_OF_FLOAT32, candidates
from trt_svc.native.plan import NO_VIEW, Step
from trt_svc.native.toom_cook import FORMS, Form

REPORTS = Path(__file__).parent / "reports"
SPEEDS = tuple(REPORTS / name for name in ("speed", "speed-long", "speed-large"))
BUSY = REPORTS / "busy"
GRIDS = (REPORTS / "grid",)
NOT_MEASURED = "Not measured yet.\n"
OURS, AUTO = "native", "auto"
KERNELS = (2, 3, 4, 5, 7, 11)
"""Taps of the convolutions in the families; 2 are those of upsamplers whose kernel is twice their stride."""


class Asked(NamedTuple):
    """Floor and moonshot."""

    floor: float
    moonshot: float | None = None

    def reached(self, value: float) -> str:
        if self.moonshot is not None and value >= self.moonshot:
            return "moonshot"
        return "floor" if value >= self.floor else "**missed**"


UPSTREAM, UPSTREAM_BIGVGAN, UPSTREAM_MIXED = Asked(1.2, 1.5), Asked(1.15, 1.4), Asked(1.8, 2.4)
OTHERS, OTHERS_BIGVGAN = Asked(1.0), Asked(1.15)
PERCENT_OF_PEAK, LOADED, NEVER_SLOWER = Asked(90, 105), Asked(2.0), Asked(0.98)
LEAST_DB = {"fp32": 90.0, "mixed": 45.0}


def grid_of(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = ["| " + " | ".join(headings) + " |", "|---" * len(headings) + "|"]
    return "\n".join([*rows, *("| " + " | ".join(line) + " |" for line in lines)]) + "\n"


def origin(report: Report) -> str:
    """Where a report's figures come from."""
    return (
        f"`{report.recipe}`: {_made(report.provenance)}; peaks {words.three(report.peaks.gflops['fp32'])} GFLOP/s "
        f"(matrix products), {words.three(report.peaks.copy_gb_per_s)} GB/s (copying)"
    )


def _made(made: Provenance) -> str:
    names = [name for name in ("torch", "onnxruntime", "openvino") if name in made.packages]
    packages = "".join(f"{name} {made.packages[name]}, " for name in names)
    commit = f"commit {made.commit[:12]}" if made.commit else "no commit"
    return f"{words.moment(made.created)}, {made.cpu}, {made.cores} cores, {packages}{commit}"


def _report(folder: Path) -> Report | None:
    return read_report(folder) if (folder / REPORT).exists() else None


# The forms.


def forms() -> str:
    """Products per output of every form, for kernels of so many taps, as a share of the direct way's."""
    lines = [[f.name.removeprefix("toom-cook "), str(f.points), *(_share(f, taps) for taps in KERNELS)] for f in FORMS]
    for most, name in ((POINTS_OF_FLOAT32, "fp32"), (max(f.points for f in FORMS), "mixed")):
        lines.append([f"least, `{name}`", f"to {most}", *(f"**{_least(taps, most):.2f}**" for taps in KERNELS)])
    return grid_of(("outputs x taps", "points", *(f"{taps} taps" for taps in KERNELS)), lines)


def _fitting(taps: int, most_points: int) -> list[Form]:
    step = Step("convolve", NO_VIEW, NO_VIEW, 2, 2, kernel=taps)
    return [form for form in candidates(step, most_points) if form is not None]


def _share(form: Form, taps: int) -> str:
    return f"{form.share(taps):.2f}" if form in _fitting(taps, form.points) else words.MISSING


def _least(taps: int, most_points: int) -> float:
    return min(form.share(taps) for form in _fitting(taps, most_points))


# Against upstream and the others.


def in_float32() -> str:
    """Every cell of the speed recipe in float32, with what was asked for."""
    return _against_all("fp32")


def in_mixed() -> str:
    """The same in mixed precision."""
    return _against_all("mixed")


def _against_all(precision: str) -> str:
    headings = (
        "network", "audio", "torch eager", "best other", f"native {precision}", "x upstream [95 %]",
        "x best other [95 %]", "% of peak", "SNR",
    )  # fmt: skip
    return _each_speed(headings, lambda cell, report: _cell_line(cell, precision))


def _each_speed(headings: Sequence[str], line: Callable[[Cell, Report], list[str]]) -> str:
    """A table for every report of the speed recipes: one would take too long for one sitting."""
    reports = [report for report in map(_report, SPEEDS) if report is not None]
    tables = [
        grid_of(headings, [line(cell, report) for cell in report.cells]) + f"\n{origin(report)}\n" for report in reports
    ]
    return "\n".join(tables) or NOT_MEASURED


def best(cell: Cell, contender: str, precision: str) -> Row | None:
    """The fastest valid row of a contender's forms, else a refused one."""
    rows = [row for row in cell.rows if (row.contender, row.precision) == (contender, precision)]
    return min(rows, key=lambda row: row.latency.median_s if row.latency else float("inf"), default=None)


def _cell_line(cell: Cell, precision: str) -> list[str]:
    upstream, ours, other = best(cell, "torch", "fp32"), best(cell, OURS, precision), _best_other(cell)
    start = [cell.network, f"{words.three(cell.audio_s)} s", _ms(upstream)]
    against = f"{words.clean(other.label)}, {_ms(other)}" if other else words.MISSING
    if ours is None or ours.latency is None or ours.waveform is None:
        return [*start, against, _ms(ours), *[words.MISSING] * 4]
    is_bigvgan = "bigvgan" in cell.network
    mixed = precision == "mixed"
    over_upstream = UPSTREAM_MIXED if mixed else UPSTREAM_BIGVGAN if is_bigvgan else UPSTREAM
    peak = "" if mixed else f", {PERCENT_OF_PEAK.reached(ours.percent_of_peak or 0)}"
    heard = ours.waveform.snr_db
    return [
        *start,
        against,
        _ms(ours),
        _ratio(ours.over_upstream, over_upstream),
        _ratio(ours.over_fastest_other, OTHERS_BIGVGAN if is_bigvgan and not mixed else OTHERS),
        f"{words.three(ours.percent_of_peak)}{peak}",
        f"{words.with_unit(heard)}{'' if heard >= LEAST_DB[precision] else ', **missed**'}",
    ]


def _best_other(cell: Cell) -> Row | None:
    """The fastest of those that are not ours, whatever its precision, as in a row's own ratio."""
    rows = [row for row in words.measured(cell) if row.contender not in (OURS, AUTO)]
    return min(rows, key=words.median_s, default=None)


def _ms(row: Row | None) -> str:
    if row is None:
        return words.MISSING
    return f"{words.milliseconds(row.latency.median_s)} ms" if row.latency else words.REFUSED


def _ratio(ratio: Ratio | None, asked: Asked) -> str:
    if ratio is None:
        return words.MISSING
    return f"{words.times(ratio)} {words.interval(ratio)}, {asked.reached(ratio.value)}"


# Roofline.


def roofline() -> str:
    """Operations and bytes of every network, what they take at least, and how near everybody comes."""
    headings = (
        "network", "audio", "GFLOP", "GB", "FLOP per byte", "at least, by operations", "at least, by memory",
        "torch eager", "best other", "native fp32", "native mixed",
    )  # fmt: skip
    return _each_speed(headings, _roof_line)


def _roof_line(cell: Cell, report: Report) -> list[str]:
    rows = (best(cell, "torch", "fp32"), _best_other(cell), best(cell, OURS, "fp32"), best(cell, OURS, "mixed"))
    return [
        cell.network,
        f"{words.three(cell.audio_s)} s",
        words.three(cell.gflop),
        words.three(cell.traffic_bytes / 1e9),
        words.three(1e9 * cell.gflop / cell.traffic_bytes),
        f"{words.milliseconds(cell.gflop / report.peaks.gflops['fp32'])} ms",
        f"{words.milliseconds(cell.traffic_bytes / 1e9 / report.peaks.copy_gb_per_s)} ms",
        *(_percents(row) for row in rows),
    ]


def _percents(row: Row | None) -> str:
    if row is None or row.latency is None:
        return _ms(row)
    return f"{words.three(row.percent_of_peak)} % ({words.three(row.percent_of_roofline)} %)"


# Beside other work, and everywhere.


def loaded() -> str:
    """Times as fast as torch eager beside busy cores."""
    report = _report(BUSY)
    if report is None:
        return NOT_MEASURED
    columns = list(dict.fromkeys((row.contender, row.precision) for cell in report.cells for row in cell.rows))
    columns.remove(("torch", "fp32"))
    lines = []
    for cell in report.cells:
        entries = [_loaded_entry(best(cell, *column)) for column in columns]
        lines.append([cell.network, f"{words.three(cell.audio_s)} s", _ms(best(cell, "torch", "fp32")), *entries])
    table = grid_of(("network", "audio", "torch eager", *(" ".join(column) for column in columns)), lines)
    return f"{table}\n{origin(report)}; {report.provenance.busy_cores} of the cores kept busy\n"


def _loaded_entry(row: Row | None) -> str:
    if row is None or row.latency is None or row.over_upstream is None:
        return _ms(row)
    verdict = f", {LOADED.reached(row.over_upstream.value)}" if row.contender in (OURS, AUTO) else ""
    return f"{words.times(row.over_upstream)}{verdict}"


def everywhere() -> str:
    """`auto` against the fastest contender over the grid of lengths and batches."""
    reports = [report for report in map(_report, GRIDS) if report is not None]
    return "\n".join(map(_everywhere, reports)) or NOT_MEASURED


def _everywhere(report: Report) -> str:
    frames = sorted({cell.frames for cell in report.cells})
    lines, ratios = [], []
    for network, batch in dict.fromkeys((cell.network, cell.batch) for cell in report.cells):
        cells = {cell.frames: cell for cell in report.cells if (cell.network, cell.batch) == (network, batch)}
        autos = {length: best(cell, AUTO, "fp32") for length, cell in cells.items()}
        ratios += [r.over_fastest_other.value for r in autos.values() if r is not None and r.over_fastest_other]
        chosen = ", ".join(dict.fromkeys(row.chosen for row in autos.values() if row is not None))
        lines.append([network, str(batch), chosen, *(_everywhere_entry(autos.get(length)) for length in frames)])
    table = grid_of(("network", "batch", "chose", *(f"{length} frames" for length in frames)), lines)
    short = sum(ratio < NEVER_SLOWER.floor for ratio in ratios)
    verdict = f"{len(ratios)} valid cells, {short} of them below {NEVER_SLOWER.floor}"
    lowest = f", the lowest {words.three(min(ratios))}x" if ratios else ""
    return f"{table}\n{verdict}{lowest}. {origin(report)}\n"


def _everywhere_entry(row: Row | None) -> str:
    if row is None or row.latency is None or row.over_fastest_other is None:
        return _ms(row)
    missed = "" if row.over_fastest_other.value >= NEVER_SLOWER.floor else " **missed**"
    return f"{words.times(row.over_fastest_other)}{missed}"


# By length, and from a cold start.


def by_length() -> str:
    """Work per second of audio, and memory, for longer and longer calls."""
    path = LINEAR / LINEAR_JSON
    if not path.exists():
        return NOT_MEASURED
    report = LinearCostReport.model_validate_json(path.read_text("utf-8"))
    lines = [
        [
            row.network,
            _backend(row.backend, row.chosen),
            f"{length.audio_s:g} s",
            f"{length.cost:.4f} s",
            f"{length.cost / row.lengths[0].cost:.2f}",
            words.MISSING if length.working_mib is None else f"{length.working_mib:.0f}",
        ]
        for row in report.rows
        for length in row.lengths
    ]
    headings = ("network", "backend", "audio", "work per second of audio", "x shortest", "MiB beside the audio")
    verdicts = [
        f"- {row.network}: {'linear' if row.is_linear else '**not linear**'} ({row.growth:.2f}x), memory "
        f"{ {True: 'bounded by one window', False: '**not bounded**', None: 'not measured'}[row.is_bounded] }"
        for row in report.rows
    ]
    return grid_of(headings, lines) + "\n" + "\n".join(verdicts) + f"\n\n{_made(report.provenance)}\n"


def cold_start() -> str:
    """Seconds to the first samples in a fresh process."""
    path = COLD_START / COLD_START_JSON
    if not path.exists():
        return NOT_MEASURED
    report = ColdStartReport.model_validate_json(path.read_text("utf-8"))
    lines = [
        [
            row.network,
            _backend(row.backend, row.chosen),
            *(f"{seconds:.2f}" for seconds in row.phases_s().values()),
            f"{row.first_samples_s:.2f}",
            f"{row.slowest_s:.2f}",
        ]
        for row in report.rows
    ]
    headings = ("network", "backend", *PHASES.values(), "together", "slowest")
    verdict = "kept" if report.kept else "**not kept**"
    runs = round(statistics.mean(len(row.starts) for row in report.rows))
    return (
        f"{grid_of(headings, lines)}\nWithin {report.allowed_s:g} s: {verdict}; medians of {runs} starts. "
        f"{_made(report.provenance)}\n"
    )


def _backend(asked: str, chosen: str) -> str:
    return asked if asked == chosen else f"{asked} ({chosen})"
