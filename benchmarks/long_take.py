"""An hour through the demo voice, file to file: memory against a minute, and seams against other block sizes.

`make long-take` makes recordings out of the bundled clips, vocodes each in a process of its own, and compares. Takes as
long as the voice needs for two hours of audio.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from trt_svc.checkpoints.locate import DEMO_FOLDER
from trt_svc.files import replacing

RATE = 44100
BLOCK_S = 10
ALLOWED_MIB, ALLOWED_DIFFERENCE = 200, 5e-6


def write_take(path: Path, minutes: float) -> None:
    """The two demo clips over and over, each time a little louder or softer."""
    clips = [soundfile.read(DEMO_FOLDER / name, dtype="float32")[0] for name in ("sung.flac", "spoken.flac")]
    rng = np.random.default_rng(0)
    left = int(minutes * 60 * RATE)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        while left > 0:
            for clip in clips:
                part = clip[:left] * np.float32(rng.uniform(0.5, 1.0))
                file.write(part)
                left -= len(part)


def one_run(source: Path, output: Path, backend: str, block_s: int) -> None:
    """In a process of its own: prints the peak of its memory."""
    from trt_svc import copysynthesis
    from trt_svc.loading import load_vocoder

    copysynthesis.SECONDS_PER_BLOCK = block_s
    vocoder = load_vocoder("demo", backend=backend, device="cpu")
    made = copysynthesis.vocode_file(vocoder, source, output)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mib": peak_mib, "audio_s": made.audio_s, "rtf": made.rtf, "analysis_s": made.analysis_s}))


def measured(source: Path, output: Path, backend: str, block_s: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.long_take", "--run", str(source), str(output), backend, str(block_s)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def differences(first: Path, second: Path, seams_s: list[float]) -> tuple[float, float]:
    """Largest difference anywhere, and within 10 ms of a seam of either run."""
    anywhere = near = 0.0
    with soundfile.SoundFile(first) as a, soundfile.SoundFile(second) as b:
        assert len(a) == len(b)
        for start in range(0, len(a), BLOCK_S * RATE):
            gap = np.abs(a.read(BLOCK_S * RATE) - b.read(BLOCK_S * RATE))
            at = (start + np.arange(len(gap))) / RATE
            seam = np.min([np.abs((at + s / 2) % s - s / 2) for s in seams_s], axis=0) < 0.01
            anywhere, near = max(anywhere, float(gap.max())), max(near, float(gap[seam].max(initial=0)))
    return anywhere, near


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    options = parser.parse_args()
    if options.run:
        source, output, backend, block_s = options.run
        one_run(Path(source), Path(output), backend, int(block_s))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_take(folder / "minute.flac", 1)
        write_take(folder / "hour.flac", options.minutes)
        minute = measured(folder / "minute.flac", folder / "minute.wav", options.backend, 5)
        hour = measured(folder / "hour.flac", folder / "hour.wav", options.backend, 5)
        other = measured(folder / "hour.flac", folder / "other.wav", options.backend, 7)
        anywhere, near = differences(folder / "hour.wav", folder / "other.wav", [5, 7])
    growth = hour["peak_mib"] - minute["peak_mib"]
    figures = {"minute": minute, "hour": hour, "other_blocks": other, "growth_mib": growth,
               "max_difference": anywhere, "max_difference_at_seams": near}  # fmt: skip
    print(json.dumps(figures, indent=1))
    if options.out:
        with replacing(options.out) as part:
            part.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    raise SystemExit(growth >= ALLOWED_MIB or anywhere > ALLOWED_DIFFERENCE)


if __name__ == "__main__":
    main()
