from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trt_svc.cli.console import (
    ConfigOption,
    FamilyOption,
    JsonFlag,
    SourceOption,
    escape,
    out,
    print_json,
    reported,
)
from trt_svc.cli.stages import shown_stages


def command(
    recording: Annotated[
        Path, typer.Argument(help="WAV, FLAC, OGG or MP3, any rate, mono or stereo.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write; the suffix chooses the format.", show_default=False)
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="Checkpoint: file, folder, or alias.")] = "demo",
    key: Annotated[float, typer.Option(help="Semitones up or down.")] = 0.0,
    keep_formants: Annotated[
        bool, typer.Option("--keep-formants", help="Move the pitch only (for pitch-controllable vocoders).")
    ] = False,
    f0: Annotated[
        str,
        typer.Option(
            help="Pitch: swift-f0, harvest, dio, pm, crepe, rmvpe, fcpe, a constant in Hz, or a file: .npy, .txt, .csv."
        ),
    ] = "swift-f0",
    seed: Annotated[int, typer.Option(help="Seed of the noise: the same seed gives the same sound.")] = 0,
    config: ConfigOption = None,
    family: FamilyOption = None,
    source: SourceOption = None,
    backend: Annotated[str, typer.Option(help="What runs the network.")] = "torch",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Send a recording through a vocoder and back (copy synthesis), with a change of key where asked."""
    with reported(as_json):
        from trt_svc.copysynthesis import vocode_file
        from trt_svc.loading import load_vocoder
        from trt_svc.milestones import milestones, reached

        reached("imports")
        with shown_stages(quiet=as_json) as progress:
            progress.stage("loading the vocoder")
            vocoder = load_vocoder(model, config, family, source, backend, device)
            reached("vocoder open")
            made = vocode_file(vocoder, recording, output, key, f0, keep_formants, seed, progress)
        if as_json:
            print_json(
                {
                    **made.__dict__,
                    "output": str(made.output),
                    "rtf": made.rtf,
                    "reached_s": milestones(),
                    "backend": vocoder.backend,
                    "device": vocoder.device,
                }
            )
            return
        from rich.table import Table

        grid = Table("written", "audio", "analysis", "vocoder", "real-time factor", "backend")
        grid.add_row(
            escape(made.output),
            f"{made.audio_s:.2f} s, {made.sample_rate} Hz, {made.channels} ch",
            f"{made.analysis_s:.2f} s",
            f"{made.vocoder_s:.2f} s",
            f"{made.rtf:.3f}",
            f"{vocoder.backend}, {vocoder.device}",
        )
        out.print(grid)
