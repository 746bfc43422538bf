from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trt_svc.cli.console import ConfigOption, FamilyOption, JsonFlag, SourceOption, escape, out, print_json, reported


def command(
    checkpoint: Annotated[str, typer.Argument(help="Weights file, folder, or alias.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for model.safetensors and config.json.", show_default=False)
    ],
    config: ConfigOption = None,
    family: FamilyOption = None,
    source: SourceOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Write a checkpoint as safetensors and config.json, with weight norm folded; nothing in it can run code."""
    with reported(as_json):
        from trt_svc.checkpoints.convert import convert_checkpoint

        weights, settings = convert_checkpoint(checkpoint, output, config, family, source, overwrite=force)
        if as_json:
            print_json({"weights": str(weights), "config": str(settings), "bytes": weights.stat().st_size})
        else:
            out.print(
                f"wrote {escape(weights)} ({weights.stat().st_size / 1e6:.1f} MB) and {escape(settings)}",
                highlight=False,
            )
