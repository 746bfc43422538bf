"""The main job in one go: a clip through the demo voice on the CPU, with figures, a WAV and a picture.

python -m demo.run [--clip sung|spoken] [--out demo/out]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from trt_svc.audio import read_audio
from trt_svc.checkpoints.locate import DEMO_FOLDER
from trt_svc.copysynthesis import vocode_file
from trt_svc.loading import load_vocoder
from trt_svc.types import Array


def spectrogram_png(path: Path, pictures: dict[str, Array], sample_rate: int) -> None:
    """Spectrograms one above the other, on one scale."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(pictures), 1, figsize=(11, 3.2 * len(pictures)), sharex=True, layout="constrained")
    for axis, (title, audio) in zip(axes, pictures.items(), strict=True):
        faint = np.random.default_rng(0).normal(0, 1e-6, audio.shape)  # keeps digital silence off log(0)
        axis.specgram(audio + faint, NFFT=2048, Fs=sample_rate, noverlap=1536, vmin=-140, vmax=-30, cmap="magma")
        axis.set(title=title, ylabel="Hz", ylim=(0, 16000))
    axes[-1].set_xlabel("seconds")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", choices=("sung", "spoken"), default="sung")
    parser.add_argument("--out", type=Path, default=Path("demo/out"))
    options = parser.parse_args()
    console = Console()
    clip = DEMO_FOLDER / f"{options.clip}.flac"
    console.print("choosing the fastest backend of this machine (measured once, then remembered) ...", style="dim")
    vocoder = load_vocoder("demo", backend="auto", device="cpu")
    vocode_file(
        vocoder, clip, options.out / f"{options.clip}.wav"
    )  # warms up: the first call pays for memory and threads
    made = vocode_file(vocoder, clip, options.out / f"{options.clip}.wav")

    real, rate = read_audio(clip)
    copy, _ = read_audio(made.output)
    distance = float(np.abs(vocoder.mel(real[0], rate) - vocoder.mel(copy[0], rate)).mean())
    picture = options.out / f"{options.clip}.png"
    spectrogram_png(picture, {f"recording ({clip.name})": real[0], f"demo voice ({made.output.name})": copy[0]}, rate)

    table = Table("", "", title="Copy synthesis with the demo voice", show_header=False)
    table.add_row("recording", f"{clip.name}, {made.audio_s:.2f} s at {rate} Hz")
    table.add_row("vocoder", f"{vocoder!r}".strip("<>").replace("Vocoder ", ""))
    table.add_row("parameters", f"{vocoder.checkpoint.parameters / 1e6:.2f} M")
    table.add_row("analysis (mel, f0, files)", f"{made.analysis_s:.2f} s")
    table.add_row("vocoder", f"{made.vocoder_s:.2f} s, real-time factor {made.rtf:.3f}")
    table.add_row("log-mel L1 to the recording", f"{distance:.3f}")
    table.add_row("written", f"{made.output}\n{picture}")
    console.print(table)


if __name__ == "__main__":
    main()
