from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from trt_svc.cli.console import JsonFlag, escape, out, print_json, reported

if TYPE_CHECKING:
    from trt_svc.bench.changes import Comparison, QualityChange, RowChange

REGRESSED = 3
"""Exit code: the reports are fine, what they say is not."""
WORST, GAIN, PLAIN = "red", "green", ""


def command(
    before: Annotated[Path, typer.Argument(help="The earlier report.json, or its folder.", show_default=False)],
    after: Annotated[Path, typer.Argument(help="The later one.", show_default=False)],
    threshold: Annotated[float, typer.Option(min=0, max=1000, help="Percent by which a row may be slower.")] = 10.0,
    by: Annotated[
        str,
        typer.Option(
            help="latency, or speedup: how many times faster than upstream in the same run, which tells of the code "
            "even where the machine is another or was busy."
        ),
    ] = "latency",
    everything: Annotated[bool, typer.Option("--all", help="List unchanged rows too.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it as Markdown (.md).", show_default=False)
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare two reports; exit code 3 where a row became slower, sounds worse or is refused now."""
    with reported(as_json):
        from trt_svc.bench.compare import compare, measured_by
        from trt_svc.bench.report import read_report
        from trt_svc.files import replacing

        found = compare(read_report(before), read_report(after), threshold / 100, measured_by(by))
        view = _view(found, everything)
        if output is not None:
            with replacing(output) as part:
                part.write_text(_markdown(view), "utf-8")
        if as_json:
            print_json({**found.as_dict(), "output": None if output is None else str(output)})
        else:
            _print(view)
            if output is not None:
                out.print(f"wrote {escape(output)}", highlight=False, soft_wrap=True)
        if found.failed:
            raise typer.Exit(REGRESSED)


@dataclass(frozen=True)
class _Grid:
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    """(style, cells)"""


@dataclass(frozen=True)
class _View:
    """What is shown, on a console or in Markdown."""

    title: str
    summary: str
    style: str
    grids: tuple[_Grid, ...]
    lines: tuple[str, ...]
    """Rows in one report only, and notes."""


def _view(found: Comparison, everything: bool) -> _View:
    change = "time" if found.by == "latency" else "time against upstream's"
    rows = [row for row in found.rows if row.state not in ("missing", "new")]
    speed = _Grid(
        "Rows",
        ("network", "frames x batch", "contender", "before", "after", change, "95 %", "SNR dB", "verdict"),
        tuple((_style(row), _cells(row, found)) for row in rows if everything or row.regressed or row.gained),
    )
    heard = _Grid(
        "Listening", ("network", "contender", "metric", "before", "after", "verdict"), _heard(found, everything)
    )
    return _View(
        title=f"{found.before} → {found.after}, by {found.by}, threshold {100 * found.threshold:g} %",
        summary=_summary(found, rows, everything),
        style=WORST if found.failed else GAIN if found.gains else PLAIN,
        grids=tuple(grid for grid in (speed, heard) if grid.rows),
        lines=(*_one_sided(found), *(f"note: {note}" for note in found.notes)),
    )


def _style(row: RowChange) -> str:
    return WORST if row.regressed else GAIN if row.gained else PLAIN


def _cells(row: RowChange, found: Comparison) -> tuple[str, ...]:
    from trt_svc.bench.words import MISSING, decibels

    key, speed = row.key, row.speed
    names = (key.network, f"{key.frames} x {key.batch}", key.label)
    times: tuple[str, ...] = ("", "", "", "")
    if speed is not None:
        ends = tuple(_speed(value, found.by) for value in (speed.before, speed.after))
        times = (*ends, f"{_percent(speed.ratio)} %", f"{_percent(speed.low)} … {_percent(speed.high)}")
    snr = "" if row.snr is None else " → ".join(MISSING if end is None else decibels(end) for end in row.snr.ends)
    return (*names, *times, snr, _verdict(row))


def _verdict(row: RowChange) -> str:
    if row.state in ("refused now", "refused in both"):
        return f"{row.state}: {row.reason}"
    if row.state == "measured now":
        return f"measured now, was refused: {row.reason}"
    words = {"worse": "SNR fell", "better": "SNR rose"}
    said: list[str] = [] if row.speed is None else ["unsure" if row.speed.unsure else row.speed.verdict]
    if row.snr is not None and row.snr.verdict in words:
        said = [*(word for word in said if word != "same"), words[row.snr.verdict]]
    return ", ".join(said)


def _heard(found: Comparison, everything: bool) -> tuple[tuple[str, tuple[str, ...]], ...]:
    styles = {"worse": WORST, "better": GAIN}
    figures = [(heard, metric) for heard in found.listening for metric in heard.metrics]
    figures.sort(key=lambda pair: ("worse", "better", "same", "unknown").index(pair[1].verdict))
    return tuple(
        (styles.get(metric.verdict, PLAIN), (heard.network, heard.label, *_metric_cells(metric)))
        for heard, metric in figures
        if everything or metric.verdict in styles
    )


def _metric_cells(metric: QualityChange) -> tuple[str, ...]:
    from trt_svc.bench.words import three

    ends = (three(value) for value in (metric.before, metric.after))
    return (metric.metric, *ends, "not judged" if metric.verdict == "unknown" else metric.verdict)


def _summary(found: Comparison, rows: list[RowChange], everything: bool) -> str:
    quiet = [row for row in rows if not row.regressed and not row.gained]
    ratios = [row.speed.ratio for row in quiet if row.speed is not None]
    span = f" ({_percent(min(ratios))} … {_percent(max(ratios))} %)" if ratios else ""
    hidden = "; --all lists them" if quiet and not everything else ""
    changed = f"{_count(found.regressions, 'regression')}, {_count(found.gains, 'gain')}"
    missing = (
        f", {_count(found.missing, 'row')} {'is' if len(found.missing) == 1 else 'are'} missing"
        if found.missing
        else ""
    )
    return f"{changed}{missing}, {_count(quiet, 'row')} unchanged{span}{hidden}"


def _count(things: Sequence[object], what: str) -> str:
    return f"{len(things)} {what}{'' if len(things) == 1 else 's'}"


def _one_sided(found: Comparison) -> Iterator[str]:
    """Rows in one report only, those of one reason together."""
    groups: dict[tuple[str, str], list[RowChange]] = {}
    for row in found.rows:
        if row.state in ("missing", "new"):
            groups.setdefault((row.state, row.reason), []).append(row)
    for (state, reason), rows in groups.items():
        labels = list(dict.fromkeys(row.key.label for row in rows))
        names = ", ".join(labels[:6]) + (f" and {len(labels) - 6} more" if len(labels) > 6 else "")
        networks = ", ".join(dict.fromkeys(row.key.network for row in rows))
        yield f"{state}: {_count(rows, 'row')} of {networks} ({names}): {reason}"


def _speed(value: float, by: str) -> str:
    from trt_svc.bench.words import three

    return f"{three(1e3 * value)} ms" if by == "latency" else f"{three(value)}x"


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f}"


def _print(view: _View) -> None:
    from trt_svc.bench.words import clean

    out.print(Text(clean(view.title), style="bold"), soft_wrap=True)
    for grid in view.grids:
        table = Table(*grid.header, title=grid.title)
        for style, cells in grid.rows:
            table.add_row(*(Text(clean(cell)) for cell in cells), style=style)
        out.print(table)
    for line in view.lines:
        out.print(Text(clean(line)), soft_wrap=True)
    out.print(Text(view.summary, style=view.style), soft_wrap=True)


def _markdown(view: _View) -> str:
    from trt_svc.bench.markdown import escaped

    parts = [f"# {escaped(view.title)}", view.summary]
    for grid in view.grids:
        lines = [grid.header, ("---",) * len(grid.header)]
        lines += [(*map(escaped, most), _marked(style, escaped(verdict))) for style, (*most, verdict) in grid.rows]
        parts += [f"## {grid.title}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]
    if view.lines:
        parts.append("\n".join(f"- {escaped(line)}" for line in view.lines))
    return "\n\n".join(parts) + "\n"


def _marked(style: str, verdict: str) -> str:
    """Markdown has no colours."""
    return f"**{verdict}**" if style == WORST else verdict
