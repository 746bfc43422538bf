"""WaveGlow's denoiser: takes the spectrum of what the network says to silence off the sound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trt_svc.types import Array

N_FFT, HOP = 1024, 256
BIAS_FRAMES = 88
"""Length of the all-zero mel (magnitude 1, not silence) whose audio, made without noise, is the bias."""


def _window() -> Array:
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32)


def _spectrum(audio: Array) -> np.ndarray[tuple[int, ...], np.dtype[np.complex64]]:
    """(B, frames, bins) of (B, samples), centred frames on mirrored audio."""
    mirror = "reflect" if audio.shape[1] > N_FFT // 2 else "constant"
    padded = np.pad(audio, ((0, 0), (N_FFT // 2, N_FFT // 2)), mode=mirror)  # type: ignore[call-overload]
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT, axis=1)[:, ::HOP]
    return np.asarray(np.fft.rfft(frames * _window(), axis=-1), np.complex64)


@dataclass(frozen=True)
class Denoiser:
    """Spectral subtraction with a fixed bias spectrum (bins,)."""

    bias: Array

    @classmethod
    def from_bias_audio(cls, audio: Array) -> Denoiser:
        """The bias is the magnitude of the first frame of (1, samples)."""
        return cls(np.abs(_spectrum(audio)[0, 0]))

    def __call__(self, audio: Array, strength: float) -> Array:
        """(B, samples) with `strength` times the bias off each frame's magnitude; the length is cut to whole hops."""
        spectrum = _spectrum(audio)
        magnitude = np.abs(spectrum)
        kept = np.maximum(magnitude - np.float32(strength) * self.bias, 0)
        spectrum = spectrum * (kept / np.maximum(magnitude, np.float32(1e-12)))
        frames = np.fft.irfft(spectrum, N_FFT, axis=-1).astype(np.float32) * _window()
        return _overlap_add(frames)


def _overlap_add(frames: Array) -> Array:
    """Frames summed at HOP and divided by the summed squared window, without the half window at each end."""
    batch, count, _ = frames.shape
    parts = N_FFT // HOP
    total = np.zeros((batch, count + parts - 1, HOP), np.float32)
    weight = np.zeros((count + parts - 1, HOP), np.float32)
    squared = (_window() ** 2).reshape(parts, HOP)
    for part in range(parts):
        total[:, part : part + count] += frames[:, :, part * HOP : (part + 1) * HOP]
        weight[part : part + count] += squared[part]
    out = (total / np.maximum(weight, np.float32(1e-8))).reshape(batch, -1)
    return np.ascontiguousarray(out[:, N_FFT // 2 : out.shape[1] - N_FFT // 2])
