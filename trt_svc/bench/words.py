"""What a report says in rounded numbers and in a sentence: one wording for the Markdown, the page and its plots."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from trt_svc.bench.report import Cell, Network, Ratio, Report, Row, Waveform

MISSING = "–"
REFUSED = "refused"
IDENTICAL = "identical"
_THIN_SPACE = "\N{NARROW NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"


# Numbers.


def clean(text: str) -> str:
    """On one line, without characters that steer a terminal, a parser or the writing direction."""
    return re.sub(" +", " ", "".join(map(_harmless, text))).strip()


def _harmless(character: str) -> str:
    if character.isprintable() or character == _THIN_SPACE:
        return character
    return " " if character.isspace() else "\N{REPLACEMENT CHARACTER}"


def three(value: float | None) -> str:
    """Three significant figures as people write them: 0.0123, 1.23, 12.3, 123, 12 345, 1.23e-7."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value < 0:
        return _MINUS + three(-value)
    if value == 0:
        return "0"
    exponent = int(f"{value:.2e}".partition("e")[2])
    if not -4 <= exponent < 9:
        return f"{value:.2e}".partition("e")[0] + f"e{exponent}"
    grouped = f"{value:,.{max(0, 2 - exponent)}f}"
    return grouped.replace(",", "" if exponent < 4 else _THIN_SPACE)


def milliseconds(seconds: float | None) -> str:
    return MISSING if seconds is None else three(1000 * seconds)


def megabytes(count: int | None) -> str:
    return MISSING if count is None else three(count / 1e6)


def short(value: float) -> str:
    """A limit or a size without zeros behind the point: 40, 0.5."""
    words = three(value)
    return words.rstrip("0").rstrip(".") if "." in words and "e" not in words else words


def percent(fraction: float) -> str:
    return f"{short(100 * fraction)} %"


def decibels(snr_db: float) -> str:
    """Without the unit, which the heading has."""
    return IDENTICAL if math.isinf(snr_db) and snr_db > 0 else three(snr_db)


def with_unit(snr_db: float) -> str:
    """The same for running text: "112 dB" or "identical"."""
    words = decibels(snr_db)
    return words if words in (IDENTICAL, MISSING) else f"{words} dB"


def times(ratio: Ratio) -> str:
    return f"{three(ratio.value)}x"


def interval(ratio: Ratio) -> str:
    return f"[{three(ratio.low)}, {three(ratio.high)}]"


def similarity(waveform: Waveform) -> str:
    """With as many nines as it has, and two figures behind them."""
    if waveform.mae == 0:
        return "1"
    if not math.isfinite(waveform.mae):
        return MISSING
    decimals = min(12, max(2, 1 - math.floor(math.log10(waveform.mae))))
    return f"{waveform.similarity:.{decimals}f}".replace("-", _MINUS)


def duration(seconds: float) -> str:
    """ "42 s", "5 min 21 s" or "3 h 10 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes_left} min"
    return f"{minutes} min {rest} s" if minutes else f"{three(seconds)} s"


def lasting(seconds: float, words: Callable[[float], str] = three) -> str:
    """A time with the unit that fits it: 284 ms, 1.20 s."""
    return f"{words(1000 * seconds)} ms" if seconds < 0.9995 else f"{words(seconds)} s"


def moment(created: str) -> str:
    """A time stamp for people; what is none stays as it is."""
    try:
        parsed = datetime.fromisoformat(created)
    except ValueError:
        return created
    zoned = parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    return f"{zoned.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def shape(frames: int, batch: int) -> str:
    clips = "" if batch == 1 else f", batch {batch}"
    return f"{frames} frames{clips}"


# Rows to speak of.


def is_upstream(row: Row) -> bool:
    """torch eager float32, what hosts run today."""
    return row.contender == "torch" and row.precision == "fp32"


def name_of(row: Row) -> str:
    """Its label and, of `auto`, what it chose: for showing, while the label alone says which rows are the same."""
    return f"{row.label} ({row.chosen})" if row.chosen else row.label


def no_ratio(row: Row) -> str:
    """Why there is none to upstream: only upstream's own row is 1 without having been compared."""
    return "upstream" if is_upstream(row) else "no valid time of upstream"


def cells_of(report: Report, network: Network) -> tuple[Cell, ...]:
    """By batch, then by frames."""
    cells = (cell for cell in report.cells if cell.network == network.name)
    return tuple(sorted(cells, key=lambda cell: (cell.batch, cell.frames)))


def measured(cell: Cell) -> list[Row]:
    return [row for row in cell.rows if row.status == "measured" and row.latency is not None]


def median_s(row: Row) -> float:
    return math.nan if row.latency is None else row.latency.median_s


def fastest(cell: Cell) -> Row | None:
    """The measured row with the least median."""
    return min(measured(cell), key=median_s, default=None)


def representative(report: Report, network: Network) -> Cell | None:
    """Chosen by its shape, not by what came out."""
    cells = [cell for cell in cells_of(report, network) if measured(cell)]
    smallest = [cell for cell in cells if cell.batch == cells[0].batch]
    return smallest[len(smallest) // 2] if smallest else None


# The result in a sentence.


@dataclass(frozen=True)
class Headline:
    """The fastest row of the cell that stands for a network."""

    cell: Cell
    row: Row
    everywhere: str
    """Least and most times upstream over all cells where this contender counts."""

    @property
    def where(self) -> str:
        return f"{shape(self.cell.frames, self.cell.batch)}, {three(self.cell.audio_s)} s of audio"


def headline(report: Report, network: Network) -> Headline | None:
    """Of the middle length at the smallest batch; none where no row was measured."""
    cell = representative(report, network)
    row = None if cell is None else fastest(cell)
    if cell is None or row is None:
        return None
    rows = [r for c in cells_of(report, network) for r in measured(c) if r.label == row.label]
    ratios = [r.over_upstream.value for r in rows if r.over_upstream is not None]
    spread = f"{three(min(ratios))}x to {three(max(ratios))}x over {len(ratios)} shapes" if len(ratios) > 1 else ""
    return Headline(cell, row, spread)


def headline_words(found: Headline | None) -> str:
    """Who, how much faster than what, and how true."""
    if found is None:
        return "no valid row."
    row, parts = found.row, []
    if row.over_upstream is None:
        parts.append("upstream itself is the fastest" if is_upstream(row) else no_ratio(row))
    else:
        everywhere = f" ({found.everywhere})" if found.everywhere else ""
        parts.append(f"{times(row.over_upstream)} {interval(row.over_upstream)} upstream{everywhere}")
    if row.over_fastest_other is not None:
        other = row.over_fastest_other
        parts.append(f"{times(other)} {interval(other)} the fastest other, {clean(other.against)}")
    if row.waveform is not None:
        parts.append(f"SNR {with_unit(row.waveform.snr_db)}")
    return f"{clean(name_of(row))}: {'; '.join(parts)} (at {found.where})."
