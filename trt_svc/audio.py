"""Recordings in and out: any rate, mono or stereo, WAV, FLAC, OGG, MP3; written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import soxr

from trt_svc.errors import AudioFileError, InputError, OutputError, shown
from trt_svc.files import replacing
from trt_svc.types import Array

MAX_AMPLITUDE = 100.0
MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
SUBTYPES = {"wav": "PCM_24", "flac": "PCM_24", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}


def read_audio(path: str | Path) -> tuple[Array, int]:
    """(audio (channels, samples) float32, sample rate) of a recording; refuses what is not usable sound."""
    path = Path(path)
    what = f"reading {shown(path.name)}"
    try:
        if not path.exists():
            raise AudioFileError(what, f"there is no file {shown(str(path))}.", "Check the name.")
        if not path.is_file():
            raise AudioFileError(what, "it is a folder or a device, not a file.", "Give one recording.")
        with path.open("rb") as file:
            audio, rate = soundfile.read(file, dtype="float32", always_2d=True)
    except AudioFileError:
        raise
    except (soundfile.SoundFileError, OSError, MemoryError, ValueError, TypeError) as err:
        raise AudioFileError(
            what, f"it cannot be decoded ({err}).", "Give a WAV, FLAC, OGG or MP3 file; convert others first (ffmpeg)."
        ) from err
    if audio.shape[0] == 0:
        raise AudioFileError(what, "it holds no samples.", "Record or export it again.")
    if not np.isfinite(audio).all() or np.abs(audio).max() > MAX_AMPLITUDE:
        found = f"it contains NaN, infinite or absurdly large samples (full scale is 1, here {np.abs(audio).max():g})."
        raise AudioFileError(what, found, "Export it again as PCM.")
    return np.ascontiguousarray(audio.T), int(rate)


def mono(audio: Array) -> Array:
    """The mean of the channels of (channels, samples)."""
    return np.asarray(audio.mean(axis=0), np.float32)


def resample(audio: Array, rate_in: int, rate_out: int) -> Array:
    """Audio (..., samples) at another rate (soxr, very high quality); the length is rounded up."""
    if rate_in == rate_out:
        return audio
    samples = -(-audio.shape[-1] * rate_out // rate_in)
    flat = audio.reshape(-1, audio.shape[-1])
    rows = [soxr.resample(row, rate_in, rate_out, quality="VHQ")[:samples] for row in flat]
    padded = [np.pad(row, (0, samples - len(row))) for row in rows]
    return np.stack(padded).reshape(*audio.shape[:-1], samples).astype(np.float32)


def write_audio(path: str | Path, audio: Array, sample_rate: int) -> Path:
    """Writes (samples,) or (channels, samples); clips to full scale; the format follows the suffix."""
    path = Path(path)
    audio = np.atleast_2d(np.asarray(audio, np.float32))
    kind = path.suffix.lower().lstrip(".")
    if kind not in SUBTYPES:
        raise AudioFileError(
            f"writing {path.name}",
            f"the suffix {path.suffix or '(none)'!r} names no known format.",
            f"Use one of: {', '.join(f'.{k}' for k in SUBTYPES)}.",
        )
    if not np.isfinite(audio).all():
        raise InputError(
            f"writing {path.name}",
            "the audio contains NaN or Inf.",
            "This is a fault of what made it; the file was not written.",
        )
    if kind == "mp3" and sample_rate not in MP3_RATES:
        allowed = next((rate for rate in MP3_RATES if rate >= sample_rate), MP3_RATES[-1])
        audio, sample_rate = resample(audio, sample_rate, allowed), allowed
    try:
        with replacing(path) as part:
            _write_in_blocks(part, audio.T.clip(-1.0, 1.0), sample_rate, kind)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as err:
        if isinstance(err, OutputError):
            raise
        found = f"it failed ({shown(str(err))})."
        raise AudioFileError(
            f"writing {shown(path.name)}", found, "Check the folder's rights, the free space and the rate."
        ) from err
    return path


def _write_in_blocks(path: Path, frames: Array, sample_rate: int, kind: str) -> None:
    """One second at a time: libsndfile's Vorbis encoder overruns its stack on minutes in one piece."""
    with soundfile.SoundFile(
        path, "w", sample_rate, frames.shape[1], subtype=SUBTYPES[kind], format=kind.upper()
    ) as file:
        for start in range(0, len(frames), max(1, sample_rate)):
            file.write(frames[start : start + sample_rate])
