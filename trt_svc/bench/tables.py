"""The tables of a report, the same for the Markdown and the page: speed and quality, listening, opening."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from trt_svc.bench.quality import metrics
from trt_svc.bench.report import Cell, Latency, Network, Opening, Report, Row, Waveform
from trt_svc.bench.words import (
    IDENTICAL,
    MISSING,
    cells_of,
    clean,
    decibels,
    fastest,
    interval,
    is_upstream,
    measured,
    megabytes,
    milliseconds,
    name_of,
    similarity,
    three,
    times,
)

_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


class Notes:
    """Footnotes of a table: the same text gets the same mark."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def mark(self, text: str) -> str:
        """The mark to set behind a figure, such as ²."""
        if text not in self._texts:
            self._texts.append(text)
        return _mark(self._texts.index(text) + 1)

    @property
    def lines(self) -> tuple[tuple[str, str], ...]:
        """(mark, text)."""
        return tuple((_mark(number), text) for number, text in enumerate(self._texts, 1))


def _mark(number: int) -> str:
    return str(number).translate(_SUPERSCRIPT)


@dataclass(frozen=True)
class Entry:
    """A figure, what comes smaller behind it, and its footnote."""

    text: str
    detail: str = ""
    against: str = ""
    """Label of the row that a ratio compares with, where the heading does not tell."""
    mark: str = ""
    alarm: bool = False
    """It has to stand out: what it says makes the row doubtful."""


@dataclass(frozen=True)
class Heading:
    name: str
    unit: str = ""
    group: str = ""
    of_quality: bool = False
    """A refused row keeps it."""
    mark: str = ""
    """Of a footnote for the whole column."""


@dataclass(frozen=True)
class Line:
    """A row of a table: who, and a figure for every heading."""

    label: str
    entries: tuple[Entry, ...]
    refused: str = ""
    """The reason; the figures of speed are missing then."""
    fastest: bool = False


@dataclass(frozen=True)
class Block:
    """The lines of one cell."""

    cell: Cell
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Table:
    headings: tuple[Heading, ...]
    lines: tuple[Line, ...]
    notes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class BlockTable:
    """A line per contender and cell."""

    headings: tuple[Heading, ...]
    blocks: tuple[Block, ...]
    notes: tuple[tuple[str, str], ...]


# Speed and quality, a line per contender and cell.


@dataclass(frozen=True)
class _Column:
    heading: Heading
    entry: Callable[[Row, Notes], Entry]


def _plain(of: Callable[[Row], float | None]) -> Callable[[Row, Notes], Entry]:
    return lambda row, notes: Entry(three(of(row)))


def _timed(of: Callable[[Latency], float]) -> Callable[[Row, Notes], Entry]:
    return lambda row, notes: Entry(MISSING if row.latency is None else milliseconds(of(row.latency)))


def _heard(of: Callable[[Waveform], str]) -> Callable[[Row, Notes], Entry]:
    return lambda row, notes: Entry(MISSING if row.waveform is None else of(row.waveform))


def _over_upstream(row: Row, notes: Notes) -> Entry:
    if row.over_upstream is not None:
        return Entry(times(row.over_upstream), interval(row.over_upstream))
    return Entry("upstream") if is_upstream(row) else Entry(MISSING, mark=notes.mark("No valid time of upstream."))


def _over_fastest_other(row: Row, notes: Notes) -> Entry:
    if row.over_fastest_other is None:
        return Entry(MISSING, mark=notes.mark("No other valid row to compare with."))
    other = row.over_fastest_other
    return Entry(times(other), interval(other), against=clean(other.against))


FEWEST_FOR_P99 = 100
"""Rounds; of fewer, a hundredth is less than one."""


def _p99(row: Row, notes: Notes) -> Entry:
    if row.latency is None:
        return Entry(MISSING)
    few = row.latency.rounds < FEWEST_FOR_P99
    seconds = max(row.latency.seconds, default=row.latency.p99_s) if few else row.latency.p99_s
    mark = notes.mark(f"With fewer than {FEWEST_FOR_P99} rounds, their longest.") if few else ""
    return Entry(milliseconds(seconds), mark=mark)


def _percent_of_peak(row: Row, notes: Notes) -> Entry:
    if row.percent_of_peak is None:
        return Entry(MISSING, mark=notes.mark("No peak was measured for this type."))
    return Entry(three(row.percent_of_peak))


_SPEED = (
    _Column(Heading("median", "ms", "latency"), _timed(lambda latency: latency.median_s)),
    _Column(Heading("p95", "ms", "latency"), _timed(lambda latency: latency.p95_s)),
    _Column(Heading("p99", "ms", "latency"), _p99),
    _Column(Heading("x upstream", "[95 %]", "times as fast"), _over_upstream),
    _Column(Heading("x fastest other", "[95 %]", "times as fast"), _over_fastest_other),
    _Column(Heading("inferences", "/s", "throughput"), _plain(lambda row: row.inferences_per_s)),
    _Column(Heading("s of audio", "/s", "throughput"), _plain(lambda row: row.audio_s_per_s)),
    _Column(Heading("RTF", "", "throughput"), _plain(lambda row: row.rtf)),
    _Column(Heading("GFLOP", "/s", "work"), _plain(lambda row: row.gflops)),
    _Column(Heading("% of peak", "", "work"), _percent_of_peak),
)
_WHERE_KNOWN = (
    _Column(Heading("% of roofline", "", "work"), _plain(lambda row: row.percent_of_roofline)),
    _Column(Heading("energy", "J", "work"), _plain(lambda row: row.energy_j)),
)
"""Shown only if some row of the network has them."""
_AGAINST = "against torch float32"
_QUALITY = (
    _Column(Heading("SNR", "dB", _AGAINST, of_quality=True), _heard(lambda waveform: decibels(waveform.snr_db))),
    _Column(Heading("MSE", "", _AGAINST, of_quality=True), _heard(lambda waveform: three(waveform.mse))),
    _Column(Heading("MAE", "", _AGAINST, of_quality=True), _heard(lambda waveform: three(waveform.mae))),
    _Column(Heading("similarity", "", _AGAINST, of_quality=True), _heard(similarity)),
)


def speed_table(report: Report, network: Network) -> BlockTable:
    """Every cell of a network; refused rows keep their quality and lose every figure of speed."""
    notes = Notes()
    cells = cells_of(report, network)
    speed = (*_SPEED, *(column for column in _WHERE_KNOWN if _known(column, cells)))
    blocks = tuple(_block(cell, speed, notes) for cell in cells)
    return BlockTable(_headings((*speed, *_QUALITY)), blocks, notes.lines)


def _headings(columns: Iterable[_Column]) -> tuple[Heading, ...]:
    return tuple(column.heading for column in columns)


def _known(column: _Column, cells: Sequence[Cell]) -> bool:
    return any(column.entry(row, Notes()).text != MISSING for cell in cells for row in measured(cell))


def _block(cell: Cell, speed: Sequence[_Column], notes: Notes) -> Block:
    best = fastest(cell)
    return Block(cell, tuple(_line(row, speed, notes, fastest=row is best) for row in cell.rows))


def _line(row: Row, speed: Sequence[_Column], notes: Notes, fastest: bool) -> Line:
    quality = tuple(column.entry(row, notes) for column in _QUALITY)
    name = clean(name_of(row))
    if row.status == "refused":
        reason = clean(row.reason) or "no reason was given"
        return Line(name, (Entry(MISSING),) * len(speed) + quality, refused=reason)
    return Line(name, tuple(column.entry(row, notes) for column in speed) + quality, fastest=fastest)


# Goals.


def goals_table(report: Report) -> Table:
    """What the recipe asks for, and the best valid row."""
    names = ("shape", "floor / stretch / moonshot", "best", "by", "quality", "reached")
    lines = tuple(
        Line(
            clean(goal.network),
            (
                Entry(goal.shape),
                Entry(clean(goal.asked)),
                Entry(three(goal.value)),
                Entry(clean(goal.row) or MISSING),
                Entry(goal.quality or MISSING),
                Entry(goal.reached, f"({clean(goal.reason)})" if goal.reason else ""),
            ),
        )
        for goal in report.goals
    )
    return Table(tuple(Heading(name) for name in names), lines)


# Listening and opening, a line per contender.


NO_AUDIO = "audio"
"""Among a listening's notes: why there is nothing to hear."""


def listening_table(network: Network) -> Table:
    """Every metric that was asked; what says nothing about a pair is missing with its reason."""
    notes = Notes()
    names = list(dict.fromkeys(name for heard in network.listening for name in heard.metrics))
    headings = tuple(_metric_headings(names, notes))
    lines = []
    for heard in network.listening:
        silent = heard.notes.get(NO_AUDIO, "")
        entries = tuple(_metric(heard.metrics.get(name), heard.notes.get(name, silent), notes) for name in names)
        lines.append(Line(clean(heard.contender), entries))
    return Table(headings, tuple(lines), notes.lines)


_BETTER = {"lower": "↓", "higher": "↑", "zero": "→ 0"}
"""Where the better figures of a metric are."""


_ABOUT = {"lsd_above_8k_db": "A difference of levels; whether it can be heard is not claimed."}
"""What a metric could be mistaken for."""


def _metric_headings(names: Iterable[str], notes: Notes) -> Iterator[Heading]:
    """In words where the metric is still known; a report may be older or newer."""
    known = dict(metrics)
    for name in names:
        metric = known.get(name)
        mark = notes.mark(_ABOUT[name]) if name in _ABOUT else ""
        if metric is None:
            yield Heading(clean(name), mark=mark)
        else:
            yield Heading(metric.title, f"{metric.unit} {_BETTER[metric.better]}", mark=mark)


def _metric(value: float | None, why: str, notes: Notes) -> Entry:
    if value is not None and math.isinf(value) and value > 0:
        return Entry(IDENTICAL)
    return Entry(three(value), mark=notes.mark(clean(why)) if why else "")


_OPENING = ("build", "s"), ("load", "s"), ("first call", "s"), ("memory", "MB"), ("GPU memory", "MB"), ("engine", "MB")
_KEY_LETTERS = 12
_CACHED = "The engine came from the cache; this is what building it took at the time."


def opening_table(report: Report, network: Network) -> Table:
    """Every contender's way to its first audio."""
    notes = Notes()
    rows = [row for cell in cells_of(report, network) for row in measured(cell)]
    opened = dict.fromkeys((clean(name_of(row)), row.opening) for row in rows)
    lines = tuple(Line(label, _opened(opening, notes)) for label, opening in opened)
    headings = (*(Heading(name, unit) for name, unit in _OPENING), Heading("engine key"))
    return Table(headings, lines, notes.lines)


def _opened(opening: Opening, notes: Notes) -> tuple[Entry, ...]:
    cached = notes.mark(_CACHED) if opening.from_cache and opening.build_s is not None else ""
    return (
        Entry(three(opening.build_s), mark=cached),
        Entry(three(opening.load_s)),
        Entry(three(opening.first_call_s)),
        Entry(megabytes(opening.rss_added_bytes)),
        Entry(megabytes(opening.device_bytes)),
        Entry(megabytes(opening.engine_bytes)),
        Entry(clean(opening.engine_key or "")[:_KEY_LETTERS] or MISSING),
    )
