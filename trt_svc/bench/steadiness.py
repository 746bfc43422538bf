"""How steady a measurement was: a table of every row's spread, drift and outliers, with a mark where they are large."""

from __future__ import annotations

from trt_svc.bench.report import Cell, Latency, Network, Report, Row
from trt_svc.bench.tables import Block, BlockTable, Entry, Heading, Line
from trt_svc.bench.words import MISSING, cells_of, clean, fastest, measured, name_of, percent, three

MOST_DRIFT = 0.05
MOST_OUTLIERS = 0.10
"""Of the rounds."""
ALARM = "▲"
_HEADINGS = (
    Heading("rounds"),
    Heading("spread", "± %"),
    Heading("drift", "%"),
    Heading("outliers"),
    Heading("threads"),
)


def steadiness_table(report: Report, network: Network) -> BlockTable:
    """Every measured row of a network; a refused one has no times to speak of."""
    blocks = (_block(cell) for cell in cells_of(report, network))
    return BlockTable(_HEADINGS, tuple(block for block in blocks if block.lines), ())


def steadiness_words(report: Report, network: Network) -> str:
    """How many rows drifted or have outliers, and what that means."""
    rows = [row for cell in cells_of(report, network) for row in measured(cell)]
    doubtful = [row for row in rows if row.latency and (drifted(row.latency) or strayed(row.latency))]
    count = "No row" if not doubtful else f"{len(doubtful)} of {len(rows)} rows"
    return (
        f"{count} drifted by more than {percent(MOST_DRIFT)} or had outliers in more than {percent(MOST_OUTLIERS)} of "
        f"the rounds (marked {ALARM}). Spread: half of the 95 % interval of the median. Drift: the last third of the "
        "rounds against the first. Outliers: rounds further above the third quartile than 3 interquartile ranges."
    )


def drifted(latency: Latency) -> bool:
    """Did the contender become slower or faster while it was measured?"""
    return abs(latency.drift) > MOST_DRIFT


def strayed(latency: Latency) -> bool:
    """Were there many rounds that do not fit the others?"""
    return latency.outliers > MOST_OUTLIERS * latency.rounds


def _block(cell: Cell) -> Block:
    best = fastest(cell)
    rows = ((row, row.latency) for row in measured(cell))
    return Block(cell, tuple(_line(row, latency, row is best) for row, latency in rows if latency is not None))


def _line(row: Row, latency: Latency, fastest: bool) -> Line:
    entries = (
        Entry(str(latency.rounds)),
        Entry(three(100 * latency.spread)),
        _entry(_signed(latency.drift), drifted(latency)),
        _entry(str(latency.outliers), strayed(latency)),
        Entry(MISSING if row.threads is None else str(row.threads)),
    )
    return Line(clean(name_of(row)), entries, fastest=fastest)


def _entry(text: str, alarm: bool) -> Entry:
    return Entry(f"{text} {ALARM}" if alarm else text, alarm=alarm)


def _signed(fraction: float) -> str:
    words = three(100 * fraction)
    return f"+{words}" if fraction > 0 and words != MISSING else words
