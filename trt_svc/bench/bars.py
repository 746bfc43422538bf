"""Bars of a report: from a checkpoint to sound, and one call with the stage before it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from trt_svc.bench.drawing import FAINT, PURPOSE, WIDTH, Drawn, Style, number_words, plain_ticks, shortened
from trt_svc.bench.report import Network, Opening, Report, Row
from trt_svc.bench.words import lasting, measured, median_s, name_of, representative, shape, short, three
from trt_svc.optional import require

_LINE_HEIGHT = 0.185


def way_to_sound(figures: ModuleType, report: Report, network: Network, styles: Mapping[str, Style]) -> Any:
    cell = representative(report, network)
    if cell is None:
        return None
    groups = [(row, _stages(row)) for row in measured(cell)]
    bars = [seconds for _, stages in groups for _, seconds, _ in stages if seconds > 0]
    if not bars:
        return None
    left = 10 ** math.floor(math.log10(min(bars)) - 0.2)
    lines = sum(len(stages) + 1.6 for _, stages in groups)
    figure = figures.Figure(figsize=(WIDTH, 0.7 + _LINE_HEIGHT * lines), layout="constrained")
    axis = figure.add_subplot()
    axis.set_xscale("log")
    _grouped_bars(axis, groups, styles, left)
    axis.set_xlim(left, max(bars) * 12)  # room for the words behind the longest
    plain_ticks(axis.xaxis, (1,), lambda value, _: lasting(value, short))
    axis.grid(visible=False, axis="y")
    caption = (
        f"Each stage once, one run at {shape(cell.frames, cell.batch)}; "
        "the axis is logarithmic: compare the numbers, not the areas."
    )
    return Drawn("opening", "From a checkpoint to sound", caption, figure)


def _stages(row: Row) -> list[tuple[str, float, str]]:
    """(stage, seconds, remark) in order, without those that do not apply."""
    opening: Opening = row.opening
    stages = (
        ("build", opening.build_s, ", earlier" if opening.from_cache else ""),
        ("load", opening.load_s, ""),
        ("first call", opening.first_call_s, ""),
        ("one run", median_s(row), ""),
    )
    return [(name, seconds, remark) for name, seconds, remark in stages if seconds is not None]


def _grouped_bars(
    axis: Any, groups: Sequence[tuple[Row, list[tuple[str, float, str]]]], styles: Mapping[str, Style], left: float
) -> None:
    """A headed group of bars per contender; what happens in every call is solid, what happens once is pale."""
    height, ticks = 0.0, []
    for row, stages in groups:
        height -= 1.6
        axis.text(left * 1.08, height + 0.1, shortened(name_of(row)), va="center", fontweight="bold", fontsize=8.5)
        for name, seconds, remark in stages:
            height -= 1
            pale = 1.0 if name == "one run" else 0.45
            axis.barh(height, max(seconds, left) - left, 0.78, left, color=styles[row.label].colour, alpha=pale)
            words = ((max(seconds, left), height), (4, 0), "data", "offset points")
            axis.annotate(lasting(seconds) + remark, *words, va="center", fontsize=8)
            ticks.append((height, name))
    axis.set_yticks([at for at, _ in ticks], [name for _, name in ticks], fontsize=8)
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(height - 0.8, -0.6)


def inside_a_call(figures: ModuleType, report: Report, network: Network, styles: Mapping[str, Style]) -> Any:
    cell = representative(report, network)
    if cell is None or cell.source_s <= 0:
        return None
    rows = sorted(measured(cell), key=median_s, reverse=True)
    figure = figures.Figure(figsize=(WIDTH, 0.9 + 0.34 * len(rows)), layout="constrained")
    axis = figure.add_subplot()
    longest = 1000 * (cell.source_s + median_s(rows[0]))
    for height, row in enumerate(reversed(rows)):
        _call_bar(axis, -height, row, 1000 * cell.source_s, styles[row.label].colour)
    axis.set_yticks([-height for height in range(len(rows))], [shortened(name_of(row)) for row in reversed(rows)])
    axis.tick_params(axis="y", length=0, labelsize=8)
    axis.set_xlim(0, 1.35 * longest)
    axis.xaxis.set_major_locator(require("matplotlib.ticker", PURPOSE).MaxNLocator(5))
    axis.xaxis.set_major_formatter(number_words)
    axis.set_xlabel("ms")
    axis.grid(visible=False, axis="y")
    caption = (
        f"{shape(cell.frames, cell.batch)}. Pale: harmonic source and noise ({lasting(cell.source_s)}), "
        "rendered before, the same for all and in no time of the tables; solid: the network, as in the tables."
    )
    return Drawn("call", "One call, and the source before it", caption, figure)


def _call_bar(axis: Any, height: float, row: Row, source_ms: float, colour: str) -> None:
    network_ms = 1000 * median_s(row)
    axis.barh(height, source_ms, 0.62, color=FAINT, alpha=0.45)
    axis.barh(height, network_ms, 0.62, source_ms, color=colour)
    where = ((source_ms + network_ms, height), (4, 0), "data", "offset points")
    axis.annotate(f"{three(source_ms)} + {three(network_ms)}", *where, va="center", fontsize=8)
