from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from trt_svc.cli.console import ConfigOption, FamilyOption, JsonFlag, SourceOption, escape, out, print_json, reported
from trt_svc.cli.stages import shown_stages

if TYPE_CHECKING:
    from trt_svc.lookahead import LookaheadCurve


def command(
    checkpoint: Annotated[str, typer.Argument(help="Weights file, folder, or alias (demo).", show_default=False)],
    config: ConfigOption = None,
    family: FamilyOption = None,
    source: SourceOption = None,
    recording: Annotated[
        list[Path] | None,
        typer.Option("--recording", "-r", help="What is streamed (repeatable). \\[default: the demo clips]"),
    ] = None,
    block: Annotated[float, typer.Option(min=1, max=10000, help="Milliseconds that are pushed at once.")] = 100.0,
    frames: Annotated[
        int | None,
        typer.Option(min=1, max=20000, help="Frames of each recording, its loudest part. \\[default: about 2 s]"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Draw the curve: .png or .svg.", show_default=False),
    ] = None,
    backend: Annotated[str, typer.Option(help="What runs the network.")] = "torch",
    as_json: JsonFlag = False,
) -> None:
    """Measure what a stream loses when it waits for fewer frames than exactness needs."""
    with reported(as_json):
        from trt_svc.loading import load_vocoder
        from trt_svc.lookahead import block_length, check_picture, draw, lookahead_curve

        if output is not None:
            check_picture(output)
        with shown_stages(quiet=as_json) as progress:
            progress.stage("loading the vocoder")
            vocoder = load_vocoder(checkpoint, config, family, source, backend)
            found = lookahead_curve(vocoder, recording, frames, block_length(vocoder, block), progress=progress)
        if output is not None:
            draw(found, output)
        if as_json:
            print_json({**found.as_dict(), "output": None if output is None else str(output)})
            return
        _print(found)
        if output is not None:
            out.print(f"wrote {escape(output)}", highlight=False)


def _print(found: LookaheadCurve) -> None:
    from trt_svc.lookahead import decibels

    title = f"{found.family} on {found.backend}, blocks of {found.block_frames} frames ({found.block_ms:.0f} ms)"
    grid = Table("look-ahead, frames", "added latency", "SNR", "SNR near seams", "largest difference", title=title)
    for point in found.worst:
        grid.add_row(
            f"{point.lookahead_frames}{' (exact)' if point.lookahead_frames == found.exact_frames else ''}",
            f"{point.latency_ms:.0f} ms",
            decibels(point.whole.snr_db),
            decibels(point.seams.snr_db),
            f"{point.whole.max:.1e}",
        )
    out.print(grid)
    names = ", ".join(clip.name for clip in found.clips)
    out.print(f"the worst of {len(found.clips)}, against one call on everything: {escape(names)}", highlight=False)
