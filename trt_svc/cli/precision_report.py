from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from trt_svc.cli.console import ConfigOption, FamilyOption, JsonFlag, SourceOption, escape, out, print_json, reported


def command(
    checkpoint: Annotated[str, typer.Argument(help="Weights file, folder, or alias (demo).", show_default=False)],
    config: ConfigOption = None,
    family: FamilyOption = None,
    source: SourceOption = None,
    recording: Annotated[
        list[Path] | None,
        typer.Option("--recording", "-r", help="Audio whose mel is used (repeatable). \\[default: the demo clips]"),
    ] = None,
    frames: Annotated[int, typer.Option(min=8, max=2000, help="Mel frames of each recording, its loudest part.")] = 64,
    target: Annotated[float, typer.Option(min=10, max=140, help="SNR in dB that the fp16 engine should have.")] = 60.0,
    top: Annotated[int, typer.Option(min=1, help="How many layers to print.")] = 15,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the protected list as a recipe (YAML).", show_default=False),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure layer by layer what fp16 costs on real mels, and which layers have to stay float32."""
    with reported(as_json):
        import yaml

        from trt_svc.checkpoints.load import open_checkpoint
        from trt_svc.cli.stages import shown_stages
        from trt_svc.files import replacing
        from trt_svc.sensitivity import RECORDINGS, precision_report

        with shown_stages(as_json) as progress:
            progress.stage("reading the checkpoint")
            net = open_checkpoint(checkpoint, config, family, source).net
            report = precision_report(net, target, frames, recording or RECORDINGS, progress)
        if output is not None:
            with replacing(output) as part:
                part.write_text(yaml.safe_dump(report.recipe(), allow_unicode=True), "utf-8")
        if as_json:
            print_json({**report.as_dict(), "output": None if output is None else str(output)})
            return
        grid = Table("layer alone in fp16", "parameters", "SNR dB", "MSE", title=f"{net.family}, {frames} frames")
        for cost in report.layers[:top]:
            grid.add_row(escape(cost.layer), f"{cost.parameters:,}", f"{cost.snr_db:.1f}", f"{cost.mse:.2e}")
        out.print(grid)
        plain, shielded = report.plain, report.shielded
        out.print(f"fp16 graph: SNR {plain.snr_db:.1f} dB, MAE {plain.mae:.2e} (target {target:g} dB)", highlight=False)
        if report.protected:
            out.print(
                f"float32 for {len(report.protected)} of {len(report.layers)} layers gives {shielded.snr_db:.1f} dB:",
                highlight=False,
            )
            out.print("  " + escape(", ".join(report.protected)), highlight=False, soft_wrap=True)
            if shielded.snr_db < target:
                out.print("[yellow]the target is not reached: what is left comes from values between layers[/]")
        else:
            out.print("no further layer has to stay float32", highlight=False)
        if output is not None:
            out.print(f"wrote {escape(output)}: trt-svc build-engine … --recipe {escape(output)}", highlight=False)
