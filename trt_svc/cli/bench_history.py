from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from trt_svc.cli.console import JsonFlag, out, print_json, reported

if TYPE_CHECKING:
    from trt_svc.bench.history import Line, Measure, Series

FOLDER = Path("benchmarks/reports")


def command(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Reports and folders of them, at any depth; without any: benchmarks/reports.", show_default=False
        ),
    ] = None,
    network: Annotated[str | None, typer.Option(help="Only this network.", show_default=False)] = None,
    measure: Annotated[str, typer.Option(help="latency, speedup or snr.")] = "latency",
    as_json: JsonFlag = False,
) -> None:
    """Show how every row changed over the reports of each machine."""
    with reported(as_json):
        from trt_svc.bench.history import history, measure_called

        asked = measure_called(measure)
        found = history(paths or [_default_folder()])
        if network is not None:
            found = found.of_network(network)
        if as_json:
            print_json(found.as_dict(asked))
            return
        for series in found.series:
            _print(series, asked)
        for note in found.notes:
            out.print(_text(f"note: {note}"), soft_wrap=True)


def _default_folder() -> Path:
    from trt_svc.errors import InputError

    if FOLDER.is_dir():
        return FOLDER
    found = f"there is no {FOLDER.as_posix()} in this folder."
    raise InputError("a history of benchmark reports", found, "Give report.json files or folders of them.")


def _print(series: Series, measure: Measure) -> None:
    from trt_svc.bench.history import MEASURED_IN

    unit = MEASURED_IN[measure]
    header = ("network", "frames x batch", "contender", "runs", f"first, {unit}", f"last, {unit}", "change", "best")
    table = Table(*header)
    for line in series.lines:
        table.add_row(*(_text(cell) for cell in _cells(line, measure)))
    out.print(_text(str(series.machine), "bold"), soft_wrap=True)
    out.print(table)
    runs = (f"{number}: {name}" for number, name in enumerate(series.runs, 1))
    out.print(_text(f"runs: {', '.join(runs)}"), soft_wrap=True)


def _cells(line: Line, measure: Measure) -> tuple[str, ...]:
    values, best, change = line.measured(measure), line.best(measure), line.change(measure)
    ends = (_value(values[0][1]), _value(values[-1][1])) if values else ("", "")
    return (
        line.network,
        f"{line.frames} x {line.batch}",
        line.label,
        line.sparkline(measure),
        *ends,
        "" if change is None else _change(change, measure),
        "" if best is None else f"{_value(best[1])} ({best[0]})",
    )


def _change(change: float, measure: Measure) -> str:
    return f"{change:+.1f} dB" if measure == "snr" else f"{100 * change:+.1f} %"


def _value(value: float) -> str:
    from trt_svc.bench.words import decibels

    return decibels(value)  # three figures, or the word for an infinite one


def _text(text: str, style: str = "") -> Text:
    """As it is: no markup, and nothing that moves the cursor."""
    from trt_svc.bench.words import clean

    return Text(clean(text), style=style)
