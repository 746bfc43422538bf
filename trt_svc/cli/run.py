from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from trt_svc.cli.console import CRASH, INTERRUPTED, JsonFlag, err, escape, print_json, reported
from trt_svc.errors import InputError, shown
from trt_svc.progress import Quiet

if TYPE_CHECKING:
    from trt_svc.dropin.report import Report
    from trt_svc.dropin.script import Script
    from trt_svc.dropin.watching import Watch

SETTINGS = {"context_settings": {"allow_interspersed_args": False, "ignore_unknown_options": True}}
"""Options behind the script's name are the script's; `-m` may come without `--` before it."""


def command(
    script: Annotated[
        list[str],
        typer.Argument(
            metavar="-- SCRIPT ARGS...",
            help="The host's own script (or -m MODULE) and its arguments, as after `python`.",
            show_default=False,
        ),
    ],
    backend: Annotated[str, typer.Option(help="What runs the vocoders: auto is the fastest here.")] = "auto",
    precision: Annotated[
        str,
        typer.Option(help="fp16 (fp32 where a vocoder is on the CPU), fp32, or mixed (faster on CPUs, above 53 dB)."),
    ] = "fp16",
    min_snr: Annotated[
        float | None,
        typer.Option(
            "--min-snr",
            help="Lowest SNR (dB) against the host's own sound on its first call. \\[default: by precision]",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write what was accelerated, and by how much, as JSON.", show_default=False)
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--cwd", help="Folder to run it in. \\[default: the present one]", show_default=False),
    ] = None,
    race: Annotated[
        bool, typer.Option("--race/--no-race", help="At the end, time host and engine in turns on its first call.")
    ] = True,
    as_json: JsonFlag = False,
) -> None:
    """Run another project's own script, its vocoders accelerated: so-vits-svc, GPT-SoVITS, DDSP-SVC, RVC, BigVGAN ...

    Nothing of the project is changed. What does not fit runs as before, with one line why.
    """
    with reported(as_json):
        from trt_svc.dropin.script import Script, other_interpreter
        from trt_svc.dropin.settings import Settings
        from trt_svc.dropin.watching import Watch
        from trt_svc.files import replacing, writable_folder

        settings = Settings(backend, precision, min_snr_db=min_snr)
        target = report.expanduser().resolve() if report else None
        if target is not None:
            writable_folder(target.parent)
        if folder is not None:
            _enter(folder)
        asked = Script.from_words(script)
        other = other_interpreter(script)
        if other:
            err.print(
                f"[yellow]note:[/] this runs in {escape(sys.executable)}, not in {escape(other)}", highlight=False
            )
        watch = Watch(settings, _Lines())
    code = _run(asked, watch)
    with reported(as_json):
        told = watch.report(race and code == 0)
        if target is not None:
            with replacing(target) as part:
                part.write_text(json.dumps(told.as_dict(), ensure_ascii=False, indent=1), "utf-8")
        if as_json:
            print_json(told.as_dict())
        else:
            _show(told)
    raise typer.Exit(code)


def _enter(folder: Path) -> None:
    try:
        os.chdir(folder.expanduser())
    except (OSError, RuntimeError) as error:
        found = f"it cannot be entered ({error})."
        raise InputError(f"--cwd {shown(str(folder))}", found, "Give the project's folder.") from error


def _run(asked: Script, watch: Watch) -> int:
    """The script's exit code. What it raises is shown as the interpreter shows it."""
    from trt_svc.dropin.script import exit_code

    try:
        with watch:
            # Kept until the report is made: the last generators live in it.
            watch.kept = asked.run()
    except SystemExit as stop:
        watch.kept = stop
        return exit_code(stop)
    except KeyboardInterrupt:
        err.print("stopped")
        return INTERRUPTED
    except BaseException:  # the host's own: its users know its tracebacks
        sys.excepthook(*sys.exc_info())
        return CRASH
    return 0


class _Lines(Quiet):
    """One line per stage of a build, in between the host's own output."""

    def stage(self, name: str) -> None:
        err.print(f"[dim]trt-svc: {escape(name)}[/]", highlight=False)


def _show(told: Report) -> None:
    from trt_svc.dropin.report import LEFT

    if not told.places:
        err.print("trt-svc: no vocoder of a known host was called; nothing was changed.", highlight=False)
        return
    grid = Table("vocoder", "runs on", "calls", "from the host's own", "speed", title="trt-svc")
    for place in told.places:
        if place.state == LEFT:
            grid.add_row(escape(place.label), f"the host: {escape(place.reason)}", "", "", "")
            continue
        speed = place.speedup
        grid.add_row(
            escape(place.label),
            f"{place.backend} {place.precision}",
            f"{place.by_engine} of {place.by_engine + sum((place.by_host or {}).values())}",
            "not heard" if place.heard_db is None else f"{place.heard_db:.0f} dB",
            "not measured" if speed is None else f"{speed:.2f}x",
        )
    err.print(grid)
