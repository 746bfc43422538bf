"""The application: registers the commands. Heavy imports happen inside them, so `--help` is quick."""

from __future__ import annotations

from typing import Annotated

import typer

import trt_svc
from trt_svc.cli import (
    bench,
    build_engine,
    convert,
    convert_checkpoint,
    doctor,
    engines,
    inspect,
    lookahead_curve,
    precision_report,
    run,
    vocode,
)
from trt_svc.cli.convert_words import UpstreamWords

app = typer.Typer(
    name="trt-svc",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Neural vocoders and singing voice conversion, compiled: faster, and the same sound.",
)

app.command("doctor")(doctor.command)
app.command("inspect")(inspect.command)
app.command("convert-checkpoint")(convert_checkpoint.command)
app.command("vocode")(vocode.command)
app.command("convert", cls=UpstreamWords)(convert.command)
app.command("run", context_settings=run.SCRIPT_LAST)(run.command)
app.command("build-engine")(build_engine.command)
app.command("precision-report")(precision_report.command)
app.command("lookahead-curve")(lookahead_curve.command)
app.add_typer(bench.app, name="bench")
app.add_typer(engines.app, name="engines")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"trt-svc {trt_svc.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point of the `trt-svc` command."""
    app()
