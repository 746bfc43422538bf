"""Recordings read, resampled and written one block after the other, so that hours need no more memory than seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from trt_svc.errors import AudioFileError, InputError, TrtSvcError, shown
from trt_svc.files import replacing
from trt_svc.types import Array

MAX_AMPLITUDE = 100.0
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
SUBTYPES = {"wav": "PCM_24", "flac": "PCM_24", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}
BYTES_PER_WAV_SAMPLE = 3
WAV_BYTES = 2**32 - 2**16
"""What a WAV's 32-bit sizes can count, less room for its headers; longer ones are written as RF64."""
_FAULTS = (soundfile.SoundFileError, OSError, MemoryError, ValueError, TypeError)


class Recording:
    """A recording on disk; refuses what is not usable sound."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._what = f"reading {shown(self.path.name)}"
        with self._opened() as file:
            self.sample_rate, self.channels = int(file.samplerate), int(file.channels)
            self.samples = int(file.frames)
            """What the header promises; a damaged file may hold less."""

    def blocks(self, samples: int) -> Iterator[Array]:
        """All of it as (channels, at most `samples`) float32."""
        with self._opened() as file:
            if (int(file.samplerate), int(file.channels)) != (self.sample_rate, self.channels):
                raise self.changed()
            block = self._next(file, samples)
            if block.shape[1] == 0:
                raise AudioFileError(self._what, "it holds no samples.", "Record or export it again.")
            while block.shape[1]:
                yield block
                block = self._next(file, samples)

    def changed(self) -> AudioFileError:
        """What to raise when two readings differ."""
        advice = "Run it again when nothing writes to it."
        return AudioFileError(self._what, "it changed while it was being read.", advice)

    def _next(self, file: Any, samples: int) -> Array:
        with self._decoding():
            block = file.read(samples, dtype="float32", always_2d=True)
            if not np.isfinite(block).all() or np.abs(block).max(initial=0.0) > MAX_AMPLITUDE:
                peak = np.abs(block).max()
                found = f"it contains NaN, infinite or absurdly large samples (full scale is 1, here {peak:g})."
                raise AudioFileError(self._what, found, "Export it again as PCM.")
            return np.ascontiguousarray(block.T)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        with ExitStack() as stack:
            with self._decoding():
                if not self.path.exists():
                    found = f"there is no file {shown(str(self.path))}."
                    raise AudioFileError(self._what, found, "Check the name.")
                if not self.path.is_file():
                    raise AudioFileError(self._what, "it is a folder or a device, not a file.", "Give one recording.")
                raw = stack.enter_context(self.path.open("rb"))
                file = stack.enter_context(soundfile.SoundFile(raw))
            yield file

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        try:
            yield
        except TrtSvcError:
            raise
        except _FAULTS as err:
            advice = "Give a WAV, FLAC, OGG or MP3 file; convert others first (ffmpeg)."
            raise AudioFileError(self._what, f"it cannot be decoded ({err}).", advice) from err


class Resampler:
    """Audio in blocks (channels, samples) at another rate (soxr, very high quality); the sum is rounded up.

    The samples do not depend on how the audio was cut into blocks.
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int) -> None:
        self._rates = rate_in, rate_out
        same = rate_in == rate_out
        self._stream = None if same else soxr.ResampleStream(rate_in, rate_out, channels, "float32", "VHQ")
        self._taken = self._given = 0

    def push(self, audio: Array, last: bool = False) -> Array:
        """What can be said after this block; the rest comes with the last one."""
        if self._stream is None:
            return audio
        frames = np.ascontiguousarray(audio.T, np.float32)
        made: Array = self._stream.resample_chunk(frames, last=last).T
        self._taken += audio.shape[1]
        if last:
            rate_in, rate_out = self._rates
            wanted = -(-self._taken * rate_out // rate_in) - self._given
            made = np.pad(made[:, :wanted], ((0, 0), (0, max(0, wanted - made.shape[1]))))
        self._given += made.shape[1]
        return made


class RecordingWriter:
    """A file that grows block by block; `recording_written` makes and ends it."""

    def __init__(
        self,
        name: str,
        kind: str,
        part: Path,
        sample_rate: int,
        channels: int,
        samples: int,
        subtype: str | None = None,
    ) -> None:
        self._name = name
        self._rate = _allowed_rate(kind, sample_rate)
        long = kind == "wav" and samples * channels * BYTES_PER_WAV_SAMPLE > WAV_BYTES
        with self._failing():
            self._resampler = Resampler(sample_rate, self._rate, channels)
            container = "RF64" if long else kind.upper()
            self._file = soundfile.SoundFile(
                part, "w", self._rate, channels, subtype=subtype or SUBTYPES[kind], format=container
            )
        self._held = np.zeros((channels, 0), np.float32)

    def write(self, audio: Array) -> None:
        """Appends (channels, samples), clipped to full scale."""
        if not np.isfinite(audio).all():
            raise InputError(
                f"writing {self._name}",
                "the audio contains NaN or Inf.",
                "This is a fault of what made it; the file was not written.",
            )
        self._append(self._resampler.push(audio))

    def end(self) -> None:
        """Writes what is left and closes the file."""
        self._append(self._resampler.push(np.zeros((len(self._held), 0), np.float32), last=True))
        with self._failing():
            self._put(self._held)
            self._file.close()

    def abandon(self) -> None:
        """Closes the file whatever state it is in."""
        with suppress(*_FAULTS):
            self._file.close()

    def _append(self, audio: Array) -> None:
        """Whole seconds at a time: libsndfile's Vorbis encoder overruns its stack on minutes in one piece,
        and what it makes of the beginning depends on the length of the first piece."""
        ready = np.concatenate([self._held, audio], axis=1) if self._held.shape[1] else audio
        stop = ready.shape[1] // self._rate * self._rate
        with self._failing():
            for start in range(0, stop, self._rate):
                self._put(ready[:, start : start + self._rate])
        self._held = ready[:, stop:].copy()

    def _put(self, audio: Array) -> None:
        self._file.write(audio.T.clip(-1.0, 1.0))

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except _FAULTS as err:
            found = f"it failed ({shown(str(err))})."
            advice = "Check the folder's rights, the free space and the rate."
            raise AudioFileError(f"writing {shown(self._name)}", found, advice) from err


@contextmanager
def recording_written(
    path: Path, sample_rate: int, channels: int, samples: int, pcm: str | None = None
) -> Iterator[RecordingWriter]:
    """A recording that takes its name only when the block ends well; the format follows the suffix.

    `samples` is its length, or the most that it can become: it tells in advance whether a WAV needs 64-bit sizes.
    pcm: how WAV and FLAC store samples, by libsndfile's word; 24 bits unless said.
    """
    kind = _kind(path)
    subtype = pcm if SUBTYPES[kind].startswith("PCM") else None
    with replacing(path) as part:
        writer = RecordingWriter(path.name, kind, part, sample_rate, channels, samples, subtype)
        try:
            yield writer
            writer.end()
        finally:
            writer.abandon()


def _kind(path: Path) -> str:
    kind = path.suffix.lower().lstrip(".")
    if kind not in SUBTYPES:
        raise AudioFileError(
            f"writing {path.name}",
            f"the suffix {path.suffix or '(none)'!r} names no known format.",
            f"Use one of: {', '.join(f'.{k}' for k in SUBTYPES)}.",
        )
    return kind


def _allowed_rate(kind: str, sample_rate: int) -> int:
    """MP3 knows nine rates; the next higher one, where there is one, loses nothing."""
    if kind != "mp3":
        return sample_rate
    return next((rate for rate in MP3_RATES if rate >= sample_rate), MP3_RATES[-1])
