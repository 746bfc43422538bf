from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from trt_svc.cli.console import ConfigOption, FamilyOption, JsonFlag, SourceOption, escape, out, print_json, reported


def command(
    checkpoint: Annotated[str, typer.Argument(help="Weights file, folder, or alias (demo).", show_default=False)],
    config: ConfigOption = None,
    family: FamilyOption = None,
    source: SourceOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what a checkpoint is: family, sizes, receptive field, cost, and whether its weights are complete."""
    with reported(as_json):
        from trt_svc.checkpoints.describe import describe

        found = describe(checkpoint, config, family, source)
        if as_json:
            print_json(found.as_dict())
        else:
            left, right = found.receptive_field
            needs = (", f0" if found.needs_f0 else "") + (
                f", speaker of {found.speaker_channels}" if found.needs_speaker else ""
            )
            left_ms, right_ms = found.receptive_field_ms
            rows = {
                "file": found.path,
                "family": f"{found.family} ({found.variant})",
                "layout": f"{found.layout}, {found.stored_dtype}, weight norm: {found.weight_norm}",
                "config": found.config,
                "parameters": f"{found.parameters / 1e6:.2f} M",
                "audio": f"{found.sample_rate} Hz, {found.hop} samples per frame",
                "input": f"{found.input_kind} of {found.input_channels} channels{needs}",
                "receptive field": f"{left} frames left, {right} right ({left_ms:g} / {right_ms:g} ms)",
                "cost": f"{found.gflop_per_second:.1f} GFLOP per second of audio",
                "noise (1 s)": ", ".join(f"{k} {tuple(v)}" for k, v in found.noise.items()) or "none",
                "weights": "complete" if found.usable else _faults(found.missing, found.extra, found.misshapen),
            }
            if found.beside:
                rows["beside it"] = f"{found.beside} tensors of other networks in the same file"
            grid = Table(show_header=False)
            for name, value in rows.items():
                grid.add_row(name, escape(value))
            out.print(grid)
        if not found.usable:
            raise typer.Exit(2)


def _faults(missing: list[str], extra: list[str], misshapen: list[str]) -> str:
    kinds = (("missing", missing), ("extra", extra), ("misshapen", misshapen))
    return "NOT USABLE: " + "; ".join(f"{len(names)} {kind}: {', '.join(names[:5])}" for kind, names in kinds if names)
