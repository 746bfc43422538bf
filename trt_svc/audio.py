"""Whole recordings in and out: any rate, mono or stereo, WAV, FLAC, OGG, MP3; written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trt_svc.audio_blocks import Recording, Resampler, recording_written
from trt_svc.types import Array


def read_audio(path: str | Path) -> tuple[Array, int]:
    """(audio (channels, samples) float32, sample rate) of a recording; refuses what is not usable sound."""
    recording = Recording(path)
    return next(recording.blocks(max(1, recording.samples))), recording.sample_rate


def mono(audio: Array) -> Array:
    """The mean of the channels of (channels, samples)."""
    return np.asarray(audio.mean(axis=0), np.float32)


def resample(audio: Array, rate_in: int, rate_out: int) -> Array:
    """Audio (..., samples) at another rate (soxr, very high quality); the length is rounded up."""
    if rate_in == rate_out:
        return audio
    flat = audio.reshape(-1, audio.shape[-1])
    made = Resampler(rate_in, rate_out, len(flat)).push(flat, last=True)
    return np.ascontiguousarray(made).reshape(*audio.shape[:-1], made.shape[1])


def write_audio(path: str | Path, audio: Array, sample_rate: int) -> Path:
    """Writes (samples,) or (channels, samples); clips to full scale; the format follows the suffix."""
    path = Path(path)
    audio = np.atleast_2d(np.asarray(audio, np.float32))
    with recording_written(path, sample_rate, *audio.shape) as writer:
        writer.write(audio)
    return path
