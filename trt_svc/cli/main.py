"""The application: its commands by name. Each is imported when it is called, so none waits for the others."""

from __future__ import annotations

import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import trt_svc
from trt_svc.milestones import reached

COMMANDS = (
    "doctor",
    "inspect",
    "convert-checkpoint",
    "vocode",
    "convert",
    "run",
    "build-engine",
    "precision-report",
    "lookahead-curve",
    "bench",
    "engines",
)
"""In the order of the help; each is the module of its name."""
_LOOK: dict[str, Any] = {"rich_markup_mode": "rich", "pretty_exceptions_enable": False}


class _OnDemand(TyperGroup):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            self.commands[cmd_name] = _command(cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in COMMANDS:  # the advice names what is known
            self.commands.update({name: self.get_command(ctx, name) for name in COMMANDS})
        return super().resolve_command(ctx, args)


def _command(name: str) -> Any:
    """One command, or one group of them, as typer makes it of its function."""
    module = importlib.import_module(f"trt_svc.cli.{name.replace('-', '_')}")
    alone = typer.Typer(**_LOOK)
    alone.callback()(_nothing)  # one command alone would be no group
    if hasattr(module, "app"):
        alone.add_typer(module.app, name=name)
    else:
        alone.command(name, **getattr(module, "SETTINGS", {}))(module.command)
    group: Any = typer.main.get_command(alone)
    return group.commands[name]


def _nothing() -> None:
    pass


app = typer.Typer(
    name="trt-svc",
    cls=_OnDemand,
    no_args_is_help=True,
    add_completion=True,
    help="Neural vocoders and singing voice conversion, compiled: faster, and the same sound.",
    **_LOOK,
)


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
    reached("command line")
    app()
