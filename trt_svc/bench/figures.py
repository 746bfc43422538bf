"""The plots of a report: time by length, throughput by batch, quality against speed, and bars."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from trt_svc.bench.bars import inside_a_call, way_to_sound
from trt_svc.bench.drawing import (
    FAINT,
    HEIGHT,
    PAPER,
    PURPOSE,
    WIDTH,
    Drawn,
    Plot,
    Style,
    legend,
    number_words,
    plain_ticks,
    settings,
    shortened,
    styles_of,
    svg,
)
from trt_svc.bench.report import Cell, Network, Report, Row
from trt_svc.bench.words import (
    IDENTICAL,
    cells_of,
    clean,
    is_upstream,
    measured,
    median_s,
    name_of,
    percent,
    representative,
    shape,
    short,
)
from trt_svc.optional import require
from trt_svc.types import Doubles


def plots_of(report: Report, network: Network, prefix: str) -> tuple[Plot, ...]:
    """All that this network has enough rows for; every id in them begins with `prefix`."""
    styles = styles_of(report)
    with settings(prefix) as figures:
        drawn = (draw(figures, report, network, styles) for draw in _DRAWERS)
        return tuple(
            Plot(one.name, one.title, one.caption, svg(one.figure, f"{prefix}-{one.name}-"))
            for one in drawn
            if one is not None
        )


# Lines: time by length, throughput by batch.

_Points = Mapping[str, list[tuple[float, Row]]]


def _by_label(cells: Sequence[Cell], x: Callable[[Cell], float]) -> _Points:
    """Measured rows of some cells, a curve per label."""
    curves: dict[str, list[tuple[float, Row]]] = {}
    for cell in cells:
        for row in measured(cell):
            curves.setdefault(row.label, []).append((x(cell), row))
    return curves


def _latency_by_frames(figures: ModuleType, report: Report, network: Network, styles: Mapping[str, Style]) -> Any:
    cells = cells_of(report, network)
    cells = tuple(cell for cell in cells if cell.batch == cells[0].batch)
    if len({cell.frames for cell in cells}) < 2:
        return None
    figure, axis = _lines(figures, _by_label(cells, lambda cell: cell.frames), styles, lambda row: 1000 * median_s(row))
    axis.set_yscale("log")
    plain_ticks(axis.yaxis, (1, 2, 5))
    axis.set_xlabel("frames in a call")
    axis.set_ylabel("median of a call, ms")
    caption = (
        f"Batch {cells[0].batch}; both axes are logarithmic: straight and parallel means the same factor everywhere."
    )
    legend(figure, axis)
    return Drawn("latency", "Time of a call by its length", caption, figure)


def _throughput_by_batch(figures: ModuleType, report: Report, network: Network, styles: Mapping[str, Style]) -> Any:
    by_frames: dict[int, list[Cell]] = {}
    for cell in cells_of(report, network):
        by_frames.setdefault(cell.frames, []).append(cell)
    cells = max(by_frames.values(), key=len, default=[])
    if len({cell.batch for cell in cells}) < 2:
        return None
    curves = _by_label(cells, lambda cell: cell.batch)
    figure, axis = _lines(figures, curves, styles, lambda row: row.audio_s_per_s or math.nan)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("clips in a call (batch)")
    axis.set_ylabel("seconds of audio per second")
    legend(figure, axis)
    caption = f"{cells[0].frames} frames in every clip; above 1 is faster than real time."
    return Drawn("throughput", "Throughput by batch", caption, figure)


def _lines(
    figures: ModuleType, curves: _Points, styles: Mapping[str, Style], y: Callable[[Row], float]
) -> tuple[Any, Any]:
    """A curve per contender over a logarithmic axis with a tick at every point."""
    figure = figures.Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axis = figure.add_subplot()
    for label, points in curves.items():
        style = styles[label]
        looks = {"color": style.colour, "marker": style.marker, "linestyle": style.dashes, "markeredgecolor": PAPER}
        axis.plot([x for x, _ in points], [y(row) for _, row in points], label=shortened(_name(label, points)), **looks)
    axis.set_xscale("log", base=2)
    axis.set_xticks(sorted({x for points in curves.values() for x, _ in points}))
    axis.xaxis.set_major_formatter(number_words)
    axis.minorticks_off()
    return figure, axis


def _name(label: str, points: Sequence[tuple[float, Row]]) -> str:
    """With what `auto` chose, if that is the same along the whole curve."""
    names = {name_of(row) for _, row in points}
    return names.pop() if len(names) == 1 else label


# Quality against speed.


def _quality_by_speed(figures: ModuleType, report: Report, network: Network, styles: Mapping[str, Style]) -> Any:
    # Where upstream was refused nothing has a place: another shape stands for the network then.
    cells = [cell for cell in cells_of(report, network) if _with_a_place(cell)]
    if not cells:
        return None
    wanted = representative(report, network)
    centre = next((cell for cell in cells if cell is wanted), cells[-1])
    points = [(row, cell is centre) for cell in cells for row in _with_a_place(cell)]
    top = _identical_at(report, [row for row, _ in points])
    figure = figures.Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axis = figure.add_subplot()
    for row, central in sorted(points, key=lambda point: point[1]):
        _point(axis, row, styles[row.label], central, top)
    _label_quality(axis, report, {row.precision for row, _ in points}, top)
    legend(figure, axis, handle_length=1)
    where = f"Large: {shape(centre.frames, centre.batch)}; small: the other shapes."
    caption = f"Up is truer, right is faster. Dotted: the least that a precision must reach. {where}"
    return Drawn("quality", "Quality against speed", caption, figure)


def _identical_at(report: Report, rows: Sequence[Row]) -> float:
    """Height for rows without any difference: above everything else."""
    known = [row.waveform.snr_db for row in rows if row.waveform is not None and math.isfinite(row.waveform.snr_db)]
    return max([*known, *report.rules.gate_db.values(), 0]) + 20


def _with_a_place(cell: Cell) -> list[Row]:
    return [row for row in measured(cell) if row.waveform is not None and _speed(row) is not None]


def _speed(row: Row) -> float | None:
    """Times upstream's; none where upstream has no valid time in that cell, unless the row is upstream's own."""
    if row.over_upstream is not None:
        return row.over_upstream.value
    return 1.0 if is_upstream(row) else None


def _point(axis: Any, row: Row, style: Style, central: bool, top: float) -> None:
    snr = math.nan if row.waveform is None else min(row.waveform.snr_db, top)
    size, alpha = (8.5, 1.0) if central else (4, 0.55)
    label = shortened(name_of(row)) if central else None
    looks = {"linestyle": "none", "markeredgecolor": PAPER, "markeredgewidth": 0.6}
    axis.plot(
        _speed(row), snr, marker=style.marker, color=style.colour, markersize=size, alpha=alpha, label=label, **looks
    )


def _label_quality(axis: Any, report: Report, precisions: set[str], top: float) -> None:
    axis.axvline(1, color=FAINT, linewidth=0.9)
    for precision, limit in report.rules.gate_db.items():
        if precision in precisions:
            axis.axhline(limit, color=FAINT, linewidth=0.9, linestyle=":")
            where = ((1, limit), (0, 3), ("axes fraction", "data"), "offset points")
            axis.annotate(f"least for {clean(precision)}", *where, color=FAINT, ha="right", fontsize=8)
    axis.set_ylim(min(0, axis.get_ylim()[0]), top + 8)
    ticks = list(range(0, int(top) - 9, 20))
    axis.set_yticks([*ticks, top], [*map(str, ticks), IDENTICAL])
    axis.margins(x=0.12)
    axis.xaxis.set_major_formatter(lambda value, _: f"{short(value)}x")
    axis.set_xlabel("times as fast as upstream")
    axis.set_ylabel("SNR against torch float32, dB")


# Every round in order.

_LEAST_SWING, _MOST_SWING = 0.05, 0.3
"""How far from its median a line of rounds can show at least and at most."""


def _rounds_in_order(figures: ModuleType, report: Report, network: Network, styles: Mapping[str, Style]) -> Any:
    """A strip per contender: a slope is drift, a peak an outlier."""
    cell = representative(report, network)
    series = [] if cell is None else [(row, _off_median(row)) for row in measured(cell)]
    if cell is None or not series:
        return None
    swing = _swing([off for _, off in series])
    figure = figures.Figure(figsize=(WIDTH, 0.8 + 0.42 * len(series)), layout="constrained")
    axis = figure.add_subplot()
    for number, (row, off) in enumerate(series):
        _strip(axis, -2.0 * number, off / swing, styles[row.label].colour)
    axis.set_yticks([-2 * k for k in range(len(series))], [shortened(name_of(row)) for row, _ in series], fontsize=8)
    axis.set_ylim(1 - 2 * len(series), 1)
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_locator(require("matplotlib.ticker", PURPOSE).MaxNLocator(5, integer=True))
    axis.set_xlabel("round")
    caption = (
        f"{shape(cell.frames, cell.batch)}; every contender against its own median, the line in the middle of its "
        f"strip, which reaches {percent(swing)} to either side. A slope is drift, a triangle a round beyond the strip."
    )
    return Drawn("rounds", "Every round in order", caption, figure)


def _off_median(row: Row) -> Doubles:
    """(rounds,) how much longer each took than the median, as a part of it."""
    seconds = np.asarray(() if row.latency is None else row.latency.seconds, np.float64)
    return seconds / median_s(row) - 1


def _swing(series: Sequence[Doubles]) -> float:
    """One scale for all strips, twice as far as three of four rounds go: stragglers shall not flatten a drift."""
    usual = max((float(np.percentile(np.abs(off), 75)) for off in series if off.size), default=0.0)
    return math.ceil(100 * min(max(2 * usual, _LEAST_SWING), _MOST_SWING)) / 100


def _strip(axis: Any, middle: float, heights: Doubles, colour: str) -> None:
    """Heights from -1 to 1 around the middle; what is beyond gets a triangle at the edge."""
    rounds = np.arange(1, len(heights) + 1)
    axis.plot(rounds, middle + 0.92 * np.clip(heights, -1, 1), color=colour, linewidth=1.2)
    for beyond, edge, marker in ((heights > 1, 0.85, "^"), (heights < -1, -0.85, "v")):
        looks = {"linestyle": "none", "marker": marker, "color": colour, "markersize": 4.5, "clip_on": False}
        axis.plot(rounds[beyond], np.full(int(beyond.sum()), middle + edge), **looks)


_DRAWERS = (
    _latency_by_frames,
    _throughput_by_batch,
    _quality_by_speed,
    way_to_sound,
    inside_a_call,
    _rounds_in_order,
)
