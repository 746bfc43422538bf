"""What a pitch estimator returns, and its way onto the frames of a mel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from trt_svc.errors import InputError
from trt_svc.registry import Registry
from trt_svc.types import Array, Doubles


@dataclass(frozen=True)
class PitchTrack:
    """Pitch over time at the estimator's own spacing."""

    times_s: Doubles
    f0_hz: Doubles
    """0 where unvoiced."""

    def at_frames(self, frames: int, hop_samples: float, sample_rate: int, fill_unvoiced: bool = False) -> Array:
        """f0 (frames,) at the middle of every frame.

        Pitch is interpolated on a log scale inside voiced stretches; `fill_unvoiced` bridges the gaps,
        which gliding sources (mini-NSF) were trained with.
        """
        voiced = self.f0_hz > 0
        if not voiced.any():
            return np.zeros(frames, np.float32)
        times = (np.arange(frames) + 0.5) * hop_samples / sample_rate
        pitch = np.exp(np.interp(times, self.times_s[voiced], np.log(self.f0_hz[voiced])))
        if not fill_unvoiced:
            spacing = np.median(np.diff(self.times_s)) if len(self.times_s) > 1 else 1.0
            nearest = np.clip(np.round((times - self.times_s[0]) / spacing).astype(int), 0, len(voiced) - 1)
            pitch = np.where(voiced[nearest], pitch, 0.0)
        return pitch.astype(np.float32)


class F0Estimator(Protocol):
    """Finds the pitch of a mono recording."""

    module: ClassVar[str]
    """The package it needs."""

    def __call__(self, audio: Array, sample_rate: int) -> PitchTrack: ...


f0_estimators: Registry[type[F0Estimator]] = Registry("f0 method", "trt_svc.features.f0")
DEFAULT_F0 = "swift-f0"


def constant_track(f0_hz: float, seconds: float) -> PitchTrack:
    """The same pitch throughout."""
    if not 10 <= f0_hz <= 5000:
        raise InputError(
            f"f0 {f0_hz:g} Hz", "that is no sung or spoken pitch.", "Use 10 to 5000 Hz, or the name of a method."
        )
    return PitchTrack(np.array([0.0, max(seconds, 0.1)]), np.array([f0_hz, f0_hz]))
