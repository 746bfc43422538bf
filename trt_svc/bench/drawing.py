"""Drawing with matplotlib for inside a page: its look, and figures as inline SVG that fetch nothing.

Colours in the SVG are CSS variables with the printed colour behind them: a page in dark mode only sets the variables.
"""

from __future__ import annotations

import io
import math
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

from trt_svc.bench.report import Report
from trt_svc.bench.words import clean, short
from trt_svc.optional import require

PURPOSE = "drawing the report"
WIDTH, HEIGHT = 5.0, 3.1
"""Inches; narrow, so that letters stay legible where a phone shows the whole width."""
_LEGEND_LINE = 0.17
_LONGEST_LABEL, _LETTERS = 38, 60
"""Letters in a label, and side by side in a legend."""

# Okabe and Ito's colours (2008), told apart with any kind of colour vision; their yellow is too faint on white.
PALETTE = (
    ("#4d4d4d", "#c4c8cf"),
    ("#0072b2", "#58aee8"),
    ("#d55e00", "#ff955a"),
    ("#009e73", "#3ccaa0"),
    ("#cc79a7", "#e79fc8"),
    ("#e69f00", "#f5bd4a"),
    ("#56b4e9", "#9ad8ff"),
    ("#6b4c9a", "#b39ddb"),
)
"""(on white, on a dark page); the first is upstream's, who comes first."""
_MARKERS = "osD^vPX*"
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
INK, FAINT, LINE, PAPER = "#1f2328", "#667079", "#d5dade", "#fffffe"
_VARIABLES = {
    INK: "ink",
    FAINT: "faint",
    LINE: "line",
    PAPER: "paper",
    **{light: f"c{number}" for number, (light, _) in enumerate(PALETTE)},
}
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_REFERENCE = re.compile(r'(?:href="#|url\(#)([^")]+)')
_FONT = re.compile(r"font-family:[^;]*")


@dataclass(frozen=True)
class Style:
    """How a contender looks in all plots: the colour says who, marker and dashes say in which precision and form."""

    number: int
    """Of the colour in the palette."""
    marker: str
    dashes: Any

    @property
    def colour(self) -> str:
        return PALETTE[self.number][0]


@dataclass(frozen=True)
class Plot:
    """A finished figure: SVG, what it shows and how to read it."""

    name: str
    title: str
    caption: str
    svg: str


def styles_of(report: Report) -> dict[str, Style]:
    """By label; the same in all plots of a report."""
    variants: dict[str, list[str]] = {}
    for row in (row for cell in report.cells for row in cell.rows):
        labels = variants.setdefault(row.contender, [])
        if row.label not in labels:
            labels.append(row.label)
    return {
        label: Style(_colour_number(number), _MARKERS[k % len(_MARKERS)], _DASHES[k % len(_DASHES)])
        for number, labels in enumerate(variants.values())
        for k, label in enumerate(labels)
    }


def _colour_number(contender: int) -> int:
    """Where colours run out they come again, but never upstream's."""
    return contender if contender == 0 else 1 + (contender - 1) % (len(PALETTE) - 1)


# matplotlib, without its global figures.


@dataclass(frozen=True)
class Drawn:
    name: str
    title: str
    caption: str
    figure: Any


_DRAWING = threading.Lock()
"""matplotlib's settings belong to the whole process."""
_SETTINGS: Mapping[str, Any] = {
    # Letters stay letters: the page's own fonts know scripts that matplotlib's does not, and can be searched. Its
    # own font, which it measures them with, is wider than most.
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


@contextmanager
def settings(salt: str) -> Iterator[ModuleType]:
    """matplotlib.figure, with the settings of this module for one thread at a time."""
    matplotlib = require("matplotlib", PURPOSE)
    figures = require("matplotlib.figure", PURPOSE)
    with _DRAWING, matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": salt}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # names can use any script
        yield figures


def svg(figure: Any, prefix: str) -> str:
    """The figure as one <svg> for inside a page."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg", metadata=_NO_METADATA)
    root = ElementTree.fromstring(drawn.getvalue())
    used = set(_REFERENCE.findall(drawn.getvalue().decode("utf-8")))
    for element in list(root.iter()):
        for style in element.findall("{*}style"):  # would apply to everything in the page
            element.remove(style)
        _localise(element, used, prefix)
        _name_plainly(element)
    for size in ("width", "height"):  # the page decides
        root.attrib.pop(size, None)
    root.set("stroke-linejoin", "round")
    return ElementTree.tostring(root, encoding="unicode")


def _localise(element: ElementTree.Element, used: set[str], prefix: str) -> None:
    """Ids that nobody uses go, others get the prefix; colours become variables and fonts the page's."""
    name = element.attrib.pop("id", None)
    if name in used:
        element.set("id", f"{prefix}{name}")
    for key, value in element.attrib.items():
        if key.endswith("href"):
            element.set(key, value.replace("#", f"#{prefix}", 1))
        elif key == "style":
            coloured = _COLOUR.sub(lambda found: _variable(found.group()), value)
            element.set(key, _FONT.sub("font-family: system-ui, sans-serif", coloured))
        else:
            element.set(key, value.replace("url(#", f"url(#{prefix}"))


def _name_plainly(element: ElementTree.Element) -> None:
    """As HTML wants it: no namespaces in front of names."""
    element.tag = element.tag.rpartition("}")[2]
    for key in [key for key in element.attrib if key.startswith("{")]:
        element.set(key.rpartition("}")[2], element.attrib.pop(key))


def _variable(colour: str) -> str:
    name = _VARIABLES.get(colour)
    return colour if name is None else f"var(--{name}, {colour})"


def number_words(value: float, position: int | None = None) -> str:
    return short(value)


def shortened(label: str) -> str:
    words = clean(label)
    return words if len(words) <= _LONGEST_LABEL else words[: _LONGEST_LABEL - 1] + "…"


def legend(figure: Any, axis: Any, handle_length: float = 3) -> None:
    """Below the plot, which keeps its height."""
    handles, labels = axis.get_legend_handles_labels()
    half = (len(labels) + 1) // 2
    columns = 2 if max(map(len, labels[:half])) + max(map(len, labels[half:]), default=0) <= _LETTERS else 1
    figure.set_figheight(HEIGHT + _LEGEND_LINE * math.ceil(len(labels) / columns))
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, handlelength=handle_length, fontsize=8)


def plain_ticks(axis: Any, subs: Sequence[float], words: Callable[[float, int | None], str] = number_words) -> None:
    """Plain numbers on a logarithmic axis."""
    axis.set_major_locator(require("matplotlib.ticker", PURPOSE).LogLocator(subs=subs))
    axis.set_major_formatter(words)
    axis.set_minor_locator(require("matplotlib.ticker", PURPOSE).NullLocator())
