"""WORLD's estimators, dio and harvest, refined by stonemask."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np

from trt_svc.features.f0.base import PitchTrack, f0_estimators
from trt_svc.features.f0.upstream import UpstreamPitch, interpolate_f0, resize_f0
from trt_svc.optional import require
from trt_svc.types import Array

FLOOR_HZ, CEILING_HZ = 50.0, 1100.0
PERIOD_MS = 5.0
FRAMES_PER_WINDOW = 10_000
"""WORLD takes over 200 MB per minute, so minutes of unbroken singing go through in windows."""
FRAMES_OF_CONTEXT = 400
"""So many periods are a whole number of samples at any rate."""


class _World:
    module: ClassVar[str] = "pyworld"
    method: ClassVar[str]
    upstream_decimals: ClassVar[int | None] = None
    """Digits that so-vits-svc keeps of a value in Hz."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it reads its own version through a deprecated package
            self._world: Any = require("pyworld", f"f0 method {self.method}")

    def __call__(self, audio: Array, sample_rate: int) -> PitchTrack:
        return self._track(audio, sample_rate, PERIOD_MS)

    def like_upstream(self, wav: Array, sample_rate: int, hop_samples: int, threshold: float) -> UpstreamPitch:
        """WORLD's frames at the hop's spacing, resized: it finds one more at the end."""
        f0 = self._track(wav, sample_rate, 1000 * hop_samples / sample_rate).f0_hz
        if self.upstream_decimals is not None:
            f0 = np.round(f0, self.upstream_decimals)
        return interpolate_f0(resize_f0(f0, len(wav) // hop_samples), hop_samples, sample_rate)

    def _track(self, audio: Array, sample_rate: int, period_ms: float) -> PitchTrack:
        period = sample_rate * period_ms / 1000
        frames = int(len(audio) / period) + 1
        if frames <= FRAMES_PER_WINDOW + 2 * FRAMES_OF_CONTEXT:
            return self._window(audio, sample_rate, period_ms)
        found = []
        for first in range(0, frames, FRAMES_PER_WINDOW):
            heard = max(0, first - FRAMES_OF_CONTEXT)
            stop = first + FRAMES_PER_WINDOW
            part = audio[round(heard * period) : round((stop + FRAMES_OF_CONTEXT) * period)]
            found.append(self._window(part, sample_rate, period_ms).f0_hz[first - heard : stop - heard])
        f0 = np.concatenate(found)
        return PitchTrack(np.arange(len(f0), dtype=np.float64) * (period_ms / 1000), f0)

    def _window(self, audio: Array, sample_rate: int, period_ms: float) -> PitchTrack:
        wave = np.ascontiguousarray(audio, np.float64)
        estimate = getattr(self._world, self.method)
        f0, times = estimate(wave, sample_rate, f0_floor=FLOOR_HZ, f0_ceil=CEILING_HZ, frame_period=period_ms)
        return PitchTrack(times, self._world.stonemask(wave, f0, times, sample_rate))


@f0_estimators.register("harvest")
class Harvest(_World):
    method = "harvest"


@f0_estimators.register("dio")
class Dio(_World):
    method = "dio"
    upstream_decimals = 1
