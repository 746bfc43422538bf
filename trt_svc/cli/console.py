"""Printing, JSON and exit codes, the same for every command."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape as _escape

from trt_svc.errors import TrtSvcError


def escape(text: object) -> str:
    """Text for rich without its square-bracket markup."""
    return _escape(str(text))


out = Console()
err = Console(stderr=True)

USER_ERROR, CRASH, INTERRUPTED = 2, 1, 130
DEBUG_VARIABLE = "TRT_SVC_DEBUG"

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        "-c",
        help="config.json of the checkpoint, or the name of a preset. \\[default: beside the weights]",
        show_default=False,
    ),
]
FamilyOption = Annotated[
    str | None, typer.Option(help="Vocoder family, where it is not recognised.", show_default=False)
]
SourceOption = Annotated[
    str | None,
    typer.Option(
        help="Source maths of an NSF-HiFiGAN: openvpi (the default), openvpi-legacy, sovits-interp, mini.",
        show_default=False,
    ),
]


def print_json(data: Any) -> None:
    """One JSON object on standard output, readable by programs and people."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False, indent=2, default=str) + "\n")


@contextmanager
def reported(as_json: bool) -> Iterator[None]:
    """Runs a command: our errors become one paragraph (or one JSON object) and exit code 2, never a traceback."""
    with warnings.catch_warnings(record=False):
        warnings.showwarning = lambda message, *rest: err.print(f"[yellow]note:[/] {escape(message)}", highlight=False)
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        except TrtSvcError as error:
            if as_json:
                print_json(error.as_dict())
            else:
                err.print(f"[red]{type(error).__name__}[/]: {escape(error)}", highlight=False, soft_wrap=True)
            raise typer.Exit(USER_ERROR) from None
        except KeyboardInterrupt:
            err.print("stopped")
            raise typer.Exit(INTERRUPTED) from None
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if os.environ.get(DEBUG_VARIABLE):
                raise
            fault = {
                "error": "InternalError",
                "found": f"{type(error).__name__}: {error}",
                "advice": f"Run it again with {DEBUG_VARIABLE}=1 and report what it prints.",
            }
            if as_json:
                print_json(fault)
            else:
                err.print(
                    f"[red]internal error[/]: {escape(fault['found'])}. This is a bug of trt-svc. {fault['advice']}",
                    highlight=False,
                )
            raise typer.Exit(CRASH) from None
