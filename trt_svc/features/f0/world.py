"""WORLD's estimators, dio and harvest, refined by stonemask."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np

from trt_svc.features.f0.base import PitchTrack, f0_estimators
from trt_svc.optional import require
from trt_svc.types import Array

FLOOR_HZ, CEILING_HZ = 50.0, 1100.0
PERIOD_MS = 5.0


class _World:
    module: ClassVar[str] = "pyworld"
    method: ClassVar[str]

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it reads its own version through a deprecated package
            self._world: Any = require("pyworld", f"f0 method {self.method}")

    def __call__(self, audio: Array, sample_rate: int) -> PitchTrack:
        wave = np.ascontiguousarray(audio, np.float64)
        estimate = getattr(self._world, self.method)
        f0, times = estimate(wave, sample_rate, f0_floor=FLOOR_HZ, f0_ceil=CEILING_HZ, frame_period=PERIOD_MS)
        return PitchTrack(times, self._world.stonemask(wave, f0, times, sample_rate))


@f0_estimators.register("harvest")
class Harvest(_World):
    method = "harvest"


@f0_estimators.register("dio")
class Dio(_World):
    method = "dio"
