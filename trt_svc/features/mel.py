"""Log-mel spectrograms as each vocoder family was trained on them, in NumPy.

All families take a magnitude STFT with a periodic Hann window, Slaney's mel scale with area
normalisation and a natural logarithm; they differ in padding, in the epsilon under the root and in the floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from trt_svc.config import MelSpec
from trt_svc.errors import InputError
from trt_svc.types import Array

LN_FROM_LOG10 = 2.30259
LOG10_FROM_LN = 0.434294
"""Truncated exactly as the hosts do (DiffSinger; so-vits' and DDSP-SVC's `nsf-hifigan-log10`)."""
GPT_SOVITS_MIN, GPT_SOVITS_MAX = -12.0, 2.0
FRAMES_PER_BLOCK = 512
MAX_KEY_SHIFT = 36


def ln_from_log10(mel: Array) -> Array:
    """log10 mel (DiffSinger acoustic models) for a natural-log vocoder."""
    return np.asarray(mel * np.float32(LN_FROM_LOG10), np.float32)


def log10_from_ln(mel: Array) -> Array:
    """Natural-log mel for a vocoder trained on log10 (`nsf-hifigan-log10`)."""
    return np.asarray(mel * np.float32(LOG10_FROM_LN), np.float32)


def gpt_sovits_normalised(mel: Array) -> Array:
    """Natural-log mel on the [-1, 1] scale of GPT-SoVITS' acoustic model."""
    return np.asarray((mel - GPT_SOVITS_MIN) / (GPT_SOVITS_MAX - GPT_SOVITS_MIN) * 2 - 1, np.float32)


def gpt_sovits_denormalised(mel: Array) -> Array:
    """GPT-SoVITS' [-1, 1] scale back to the natural-log mel that its vocoder takes."""
    return np.asarray((mel + 1) / 2 * (GPT_SOVITS_MAX - GPT_SOVITS_MIN) + GPT_SOVITS_MIN, np.float32)


def _mel_from_hz(hz: npt.ArrayLike) -> npt.NDArray[np.float64]:
    hz = np.asarray(hz, np.float64)
    linear = hz / (200.0 / 3)
    return np.where(hz >= 1000.0, 15.0 + np.log(np.maximum(hz, 1e-9) / 1000.0) / (np.log(6.4) / 27.0), linear)


def _hz_from_mel(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.where(mel >= 15.0, 1000.0 * np.exp((np.log(6.4) / 27.0) * (mel - 15.0)), mel * (200.0 / 3))


@lru_cache(maxsize=16)
def mel_filters(spec: MelSpec) -> Array:
    """Slaney's triangles (n_mels, n_fft // 2 + 1), each with unit area in Hz."""
    bins = np.linspace(0.0, spec.sample_rate / 2, spec.n_fft // 2 + 1)
    low, high = _mel_from_hz(spec.fmin), _mel_from_hz(spec.fmax)
    corners = _hz_from_mel(np.linspace(low, high, spec.n_mels + 2))
    slopes = corners[:, None] - bins
    widths = np.diff(corners)
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    triangles *= (2.0 / (corners[2:] - corners[:-2])).astype(np.float64)[:, None]
    return triangles


@lru_cache(maxsize=16)
def _hann(length: int, n_fft: int) -> Array:
    """A periodic Hann window in the middle of the transform."""
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)
    before = (n_fft - length) // 2
    return np.pad(window, (before, n_fft - length - before))


@dataclass(frozen=True)
class _Frames:
    """Lengths of one analysis, scaled by key shift and speed."""

    n_fft: int
    win: int
    hop: int


def _padded(audio: Array, spec: MelSpec, sizes: _Frames) -> Array:
    length = audio.shape[-1]
    if spec.padding == "nvstft":
        left = (sizes.win - sizes.hop) // 2
        right = max((sizes.win - sizes.hop + 1) // 2, sizes.win - length - left)
    elif spec.padding == "centered":
        left = right = sizes.n_fft // 2
    else:
        left = right = (sizes.n_fft - sizes.hop) // 2
    left, right = max(left, 0), max(right, 0)
    # Too short to mirror: zeros, as nvSTFT does.
    mirror = max(left, right) < length
    padded = np.pad(audio, ((0, 0), (left, right)), mode="reflect" if mirror else "constant")
    return np.pad(padded, ((0, 0), (0, max(0, sizes.n_fft - padded.shape[-1]))))


def _magnitudes(frames: Array, spec: MelSpec, sizes: _Frames, shifted: bool) -> Array:
    spectrum = np.fft.rfft(frames * _hann(sizes.win, sizes.n_fft), axis=-1)
    magnitude = np.sqrt(spectrum.real**2 + spectrum.imag**2 + np.float32(spec.epsilon)).astype(np.float32)
    if not shifted:
        return magnitude
    bins = spec.n_fft // 2 + 1
    magnitude = np.pad(magnitude[..., :bins], ((0, 0), (0, 0), (0, max(0, bins - magnitude.shape[-1]))))
    return magnitude * np.float32(spec.win / sizes.win)


def log_mel(audio: Array, spec: MelSpec, key_shift: float = 0.0, speed: float = 1.0) -> Array:
    """Natural-log mel (B, n_mels, T) of audio (N,) or (B, N) at the spec's sample rate.

    `key_shift` (semitones) reads the spectrum as if sung higher; `speed` takes frames further apart.
    """
    audio = np.atleast_2d(np.asarray(audio, np.float32))
    if audio.ndim != 2 or audio.shape[-1] == 0:
        raise InputError(
            "mel of audio",
            f"its shape is {audio.shape}.",
            "Give (samples,) or (batch, samples) with at least one sample.",
        )
    if not (abs(key_shift) <= MAX_KEY_SHIFT and 0.05 <= speed <= 20):
        raise InputError(
            "mel of audio",
            f"key shift {key_shift} and speed {speed} leave no usable frame.",
            f"Use -{MAX_KEY_SHIFT}..{MAX_KEY_SHIFT} semitones and 0.05..20.",
        )
    factor = 2.0 ** (key_shift / 12)
    sizes = _Frames(round(spec.n_fft * factor), round(spec.win * factor), max(1, round(spec.hop * speed)))
    padded = _padded(audio, spec, sizes)
    frames = np.lib.stride_tricks.sliding_window_view(padded, sizes.n_fft, axis=-1)[:, :: sizes.hop]
    filters = mel_filters(spec)
    out = np.empty((len(audio), spec.n_mels, frames.shape[1]), np.float32)
    for start in range(0, frames.shape[1], FRAMES_PER_BLOCK):
        block = _magnitudes(frames[:, start : start + FRAMES_PER_BLOCK], spec, sizes, shifted=key_shift != 0)
        mel = filters @ block.transpose(0, 2, 1)
        out[:, :, start : start + block.shape[1]] = np.log(np.maximum(mel, np.float32(spec.clip)))
    return out
