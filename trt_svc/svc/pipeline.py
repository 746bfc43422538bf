"""From song to song: a so-vits-svc model as it lies on disk, and a recording, to the recording in another voice.

pipe = SVCPipeline.from_pretrained("so-vits-svc")
audio = pipe("song.wav", speaker="nen", f0="rmvpe", cluster_ratio=0.5, diffusion="shallow")
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any, Self

import numpy as np

from trt_svc.audio_blocks import recording_written
from trt_svc.errors import InputError, shown
from trt_svc.progress import Progress, Quiet
from trt_svc.rungs import REFERENCE
from trt_svc.svc.conversion import COMPAT, Conversion, Converted, StageTime
from trt_svc.svc.draws import GivenDraws
from trt_svc.svc.listening import Encoder
from trt_svc.svc.model import Model
from trt_svc.svc.model_folder import find_model
from trt_svc.svc.running import Running
from trt_svc.svc.source_reader import Source, SourceAudio, SourceFile
from trt_svc.svc.stopwatch import Stopwatch
from trt_svc.svc.take import Take
from trt_svc.types import Array

GPU_BATCH = 4
MAX_BATCH = 64
Recorded = str | Path | tuple[Any, int]
"""A file, or (audio, sample rate)."""


class SVCPipeline:
    """A model that sings recordings; one song at a time."""

    def __init__(self, model: Model, draws: GivenDraws | None = None) -> None:
        self.model = model
        """Every part by itself: `model.voice`, `model.encoder(...)`, `model.pitch(...)`, `model.singer` ..."""
        self._draws = draws
        self._one_song = threading.Lock()
        self.last: Converted | None = None
        """What the last song took."""

    @classmethod
    def from_pretrained(
        cls,
        where: str | Path,
        config: str | Path | None = None,
        *,
        clusters: str | Path | None = None,
        diffusion: str | Path | None = None,
        diffusion_config: str | Path | None = None,
        encoder: Encoder | None = None,
        draws: GivenDraws | None = None,
        compat: str | None = None,
        backend: str = REFERENCE,
        device: str = "auto",
        precision: str = "fp32",
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """The model of a so-vits-svc folder, of its logs/44k, of any folder with G_*.pth in it, or of that file.

        config, clusters (k-means or feature index), diffusion, diffusion_config: files in place of those that are
        found. encoder: audio (samples,) at 16 kHz -> units (1, channels, frames), in place of the model's own.
        draws: (number, "randn" | "randn_like" | "rand", shape) -> array: the random numbers of every piece, in
        upstream's order. compat: "so-vits-svc-4.1" for upstream's every sample, its faults included.
        backend: what runs the networks: torch, auto, or one that `trt-svc doctor` lists. batch: most pieces of one
        length that are sung together; by default 4 on GPUs and 1 on the CPU, where it gains nothing.
        """
        if compat not in (None, COMPAT):
            raise InputError(f"compat {shown(compat)}", "there is no such upstream here.", f"Use {COMPAT!r} or None.")
        files = find_model(
            where,
            config_path=config,
            cluster_model_path=clusters,
            diffusion_model_path=diffusion,
            diffusion_config_path=diffusion_config,
        )
        running = Running.on(backend, device, precision, progress)
        # Upstream knows no batches, and draws are numbered within one piece.
        alone = compat is not None or draws is not None
        together = 1 if alone else _checked_batch(batch) or (GPU_BATCH if running.on_gpu else 1)
        return cls(Model(files, running, Stopwatch(), compat is not None, together, encoder), draws)

    def __call__(self, recording: Recorded, *, progress: Progress | None = None, **options: Any) -> Array:
        """The converted recording (samples,), at `sample_rate(...)`; the options are those of `Conversion`."""
        asked = Conversion.of(**options)
        started = time.perf_counter()
        with self._one_song:
            take = self._take(_source(recording), asked)
            audio = np.concatenate([np.zeros(0, np.float32), *take.blocks(progress or Quiet())])
            self.last = self._told(take, None, len(audio), started)
        return audio

    def sample_rate(self, diffusion: str | None = None) -> int:
        """Hz of what comes out: the voice's, or with `diffusion="only"` the diffusion model's."""
        return self.model.ears(diffusion == "only").sample_rate_hz

    def convert_file(
        self,
        recording: str | Path,
        output: str | Path,
        options: Conversion | None = None,
        progress: Progress | None = None,
    ) -> Converted:
        """Converts a file into another, which appears when it is whole; its suffix says the format."""
        source, target = Path(recording), Path(output)
        if _same_file(source, target):
            asked = f"writing to {shown(str(target))}"
            raise InputError(asked, "that is the recording itself.", "Choose another name for the output.")
        started = time.perf_counter()
        with self._one_song:
            take = self._take(SourceFile(source), options or Conversion())
            written = 0
            subtype = "PCM_16" if self.model.compat else None
            with recording_written(target, take.sample_rate, 1, take.samples, subtype) as writer:
                for block in take.blocks(progress or Quiet()):
                    writer.write(block[None])
                    written += len(block)
            self.last = self._told(take, target, written, started)
        return self.last

    def _take(self, source: Source, options: Conversion) -> Take:
        self.model.watch.begin()
        return Take.of(self.model, source, options, self._draws)

    def _told(self, take: Take, output: Path | None, samples: int, started: float) -> Converted:
        notes = self.model.notes()
        stages = tuple(
            StageTime(name, seconds, calls, **notes.get(name, {}))
            for name, (seconds, calls) in self.model.watch.taken().items()
        )
        seconds = time.perf_counter() - started
        return Converted(output, samples / take.sample_rate, take.sample_rate, seconds, take.sung, stages)


def _checked_batch(batch: int | None) -> int | None:
    whole = isinstance(batch, (int, np.integer)) and not isinstance(batch, bool)
    if batch is not None and not (whole and 1 <= batch <= MAX_BATCH):
        raise InputError(f"batch {shown(batch)}", "it is not usable.", f"Use 1 to {MAX_BATCH}.")
    return batch


def _source(recording: Recorded) -> Source:
    if isinstance(recording, tuple) and len(recording) == 2:
        return SourceAudio(*recording)
    if isinstance(recording, (str, Path)):
        return SourceFile(recording)
    found = f"a {type(recording).__name__} came."
    raise InputError("converting a recording", found, "Give a file, or (audio, sample rate).")


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.exists() and other.exists() and one.samefile(other)
    except OSError:
        return False
