"""The reference case: a whole song through a so-vits-svc model of full size, by torch and by engines.

make bench-song, or:
python -m benchmarks.song --against openvino:fp32 --against openvino:mixed -o benchmarks/reports/song
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from torch import nn

from benchmarks.song_audio import RATE_HZ, song
from benchmarks.song_models import FULL, SMALL, SPEAKER, write_models
from benchmarks.song_report import Run, SongReport, Stage, write_song_report
from trt_svc.bench.provenance import provenance
from trt_svc.difference import difference
from trt_svc.features.mel import log_mel
from trt_svc.files import DIRECTORY_VARIABLE
from trt_svc.rungs import REFERENCE
from trt_svc.svc.conversion import Converted
from trt_svc.svc.model import Model
from trt_svc.svc.nsf import MelVocoder
from trt_svc.svc.pipeline import SVCPipeline
from trt_svc.types import Array

OPTIONS: dict[str, str | int | float] = {
    "speaker": SPEAKER,
    "f0": "crepe",
    "cluster_ratio": 0.1,
    "diffusion": "shallow",
    "k_step": 100,
    "sampler": "dpm-solver++",
    "speedup": 10,
}
LEAD_IN_S = 3.0
"""Of the song, before the clock runs: engines are built and everything is loaded."""
DECIBELS_PER_NEPER = 20 / np.log(10)


@dataclass
class Contender:
    """A backend with its pipeline, and what it did."""

    backend: str
    precision: str
    pipeline: SVCPipeline
    opening_s: float = 0.0
    songs: list[Array] = field(default_factory=list)
    told: list[Converted] = field(default_factory=list)

    @classmethod
    def opened(cls, models: Path, backend: str, precision: str, lead_in: Array) -> Contender:
        """Opened and warmed up."""
        started = time.perf_counter()
        made = cls(backend, precision, SVCPipeline.from_pretrained(models, backend=backend, precision=precision))
        made.pipeline((lead_in, RATE_HZ), **OPTIONS)
        made.opening_s = time.perf_counter() - started
        return made

    @property
    def label(self) -> str:
        return f"{self.backend} {self.precision}"

    def sing(self, audio: Array) -> None:
        """One round."""
        self.songs.append(self.pipeline((audio, RATE_HZ), **OPTIONS))
        assert self.pipeline.last is not None
        self.told.append(self.pipeline.last)

    def run(self, reference: Array, vocoder: MelVocoder) -> Run:
        """What is told of it; the audio is compared with torch's."""
        return Run(
            label=self.label,
            backend=self.backend,
            precision=self.precision,
            opening_s=self.opening_s,
            seconds=tuple(told.seconds for told in self.told),
            snr_db=min(difference(made, reference).snr_db for made in self.songs),
            mel_db=max(mel_distance_db(made, reference, vocoder) for made in self.songs),
            peak=max(float(np.abs(made).max()) for made in self.songs),
            stages=tuple(self._stages()),
        )

    def _stages(self) -> list[Stage]:
        taken = [{stage.name: stage for stage in told.stages} for told in self.told]
        return [
            Stage(
                name=name,
                seconds=tuple(stages[name].seconds for stages in taken if name in stages),
                calls=last.calls,
                backend=last.backend,
                quality_db=last.quality_db,
                note=last.note,
            )
            for name, last in taken[-1].items()
        ]


def mel_distance_db(made: Array, reference: Array, vocoder: MelVocoder) -> float:
    """Mean distance of two songs' log mels."""
    spec = vocoder.vocoder.spec.mel
    assert spec is not None
    return float(DECIBELS_PER_NEPER * np.abs(log_mel(made, spec) - log_mel(reference, spec)).mean())


def parameters_of(model: Model) -> dict[str, int]:
    """Of the networks that a song goes through."""
    voice = model.voice.net
    networks: dict[str, nn.Module] = {
        "content encoder": model.encoder(model.voice.speech_encoder, model.voice.unit_channels).module(),
        "crepe": model.pitch("crepe").network,
        "voice encoder": voice.enc_p,
        "flow": voice.flow,
        "decoder": voice.dec,
        "denoiser": model.unit2mel.net,
        "vocoder": model.diffusion.repair.vocoder.vocoder.checkpoint.net,
    }
    return {name: sum(p.numel() for p in net.parameters()) for name, net in networks.items()}


def race(
    models: Path, about: str, seconds: float, against: Sequence[tuple[str, str]], rounds: int, command: str
) -> SongReport:
    """Every contender sings the song `rounds` times, in turns; torch float32 comes first."""
    begun, source, progress = time.perf_counter(), provenance(command), Console(stderr=True)
    audio = song(seconds)
    lead_in = audio[: round(min(LEAD_IN_S, seconds) * RATE_HZ)]
    contenders = []
    for backend, precision in ((REFERENCE, "fp32"), *against):
        progress.print(f"opening {backend} {precision} ...")
        contenders.append(Contender.opened(models, backend, precision, lead_in))
    for number in range(rounds):
        for contender in contenders[number % len(contenders) :] + contenders[: number % len(contenders)]:
            contender.sing(audio)
            progress.print(f"round {number + 1}: {contender.label} {contender.told[-1].seconds:.2f} s")
    eager = contenders[0]
    vocoder = eager.pipeline.model.diffusion.repair.vocoder
    return SongReport(
        provenance=source,
        about=about,
        song_s=len(audio) / RATE_HZ,
        pieces=eager.told[0].slices,
        options=OPTIONS,
        parameters=parameters_of(eager.pipeline.model),
        runs=tuple(contender.run(eager.songs[0], vocoder) for contender in contenders),
        took_s=time.perf_counter() - begun,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/reports/song"))
    parser.add_argument("--seconds", type=float, default=40.0, help="of the song")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--against",
        action="append",
        metavar="BACKEND:PRECISION",
        help="beside torch (openvino:fp32 and openvino:mixed)",
    )
    parser.add_argument("--models", type=Path, help="where the model's files are kept; written if there are none")
    parser.add_argument("--small", action="store_true", help="small networks: to try it out")
    asked = parser.parse_args(arguments)
    named = [entry.partition(":") for entry in asked.against or ["openvino:fp32", "openvino:mixed"]]
    against = [(backend, precision or "fp32") for backend, _, precision in named]
    command = shlex.join(["python", "-m", "benchmarks.song", *(sys.argv[1:] if arguments is None else arguments)])
    with tempfile.TemporaryDirectory() as kept:
        # What "auto" chose before may have been chosen on a busy machine.
        os.environ.setdefault(DIRECTORY_VARIABLE, str(Path(kept) / "engines"))
        models = asked.models or Path(kept) / "so-vits-svc"
        if not models.exists():
            write_models(models, SMALL if asked.small else FULL)
        about = "small networks, a trial" if asked.small else "full size"
        report = race(models, about, asked.seconds, against, asked.rounds, command)
    write_song_report(report, asked.output)


if __name__ == "__main__":
    main()
