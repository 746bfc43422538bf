"""Praat's autocorrelation method through parselmouth: so-vits-svc's "pm"."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from trt_svc.features.f0.base import PitchTrack, f0_estimators
from trt_svc.features.f0.upstream import UpstreamPitch, interpolate_f0
from trt_svc.optional import require
from trt_svc.types import Array

FLOOR_HZ, CEILING_HZ = 50.0, 1100.0
VOICED_FROM = 0.6
STEP_S = 0.005
SHORTEST_S = 3 / FLOOR_HZ
"""Praat looks at three periods of the lowest pitch and refuses anything shorter."""


@f0_estimators.register("pm")
class Praat:
    module: ClassVar[str] = "parselmouth"

    def __init__(self) -> None:
        self._parselmouth: Any = require("parselmouth", "f0 method pm")

    def __call__(self, audio: Array, sample_rate: int) -> PitchTrack:
        return self._track(audio, sample_rate, STEP_S)

    def like_upstream(self, wav: Array, sample_rate: int, hop_samples: int, threshold: float) -> UpstreamPitch:
        """Praat's frames lie in the middle of the recording; the odd missing one is added in front."""
        f0 = self._track(wav, sample_rate, hop_samples / sample_rate).f0_hz
        missing = len(wav) // hop_samples - len(f0)
        front = max(0, missing + 1) // 2
        framed = np.pad(f0, (front, max(0, missing - front)))[: len(wav) // hop_samples]
        return interpolate_f0(framed, hop_samples, sample_rate)

    def _track(self, audio: Array, sample_rate: int, step_s: float) -> PitchTrack:
        if len(audio) / sample_rate <= SHORTEST_S:
            return PitchTrack(np.zeros(1), np.zeros(1))
        sound = self._parselmouth.Sound(np.asarray(audio, np.float64), sample_rate)
        found = sound.to_pitch_ac(
            time_step=step_s, voicing_threshold=VOICED_FROM, pitch_floor=FLOOR_HZ, pitch_ceiling=CEILING_HZ
        )
        return PitchTrack(found.xs(), found.selected_array["frequency"])
