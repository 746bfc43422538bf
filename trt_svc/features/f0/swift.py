"""swift-f0: a small neural estimator whose weights come inside its wheel; the default."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from trt_svc.audio import resample
from trt_svc.features.f0.base import PitchTrack, f0_estimators
from trt_svc.optional import require
from trt_svc.types import Array

RATE = 16000
VOICED_FROM = 0.5


@f0_estimators.register("swift-f0")
class SwiftF0Estimator:
    module: ClassVar[str] = "swift_f0"

    def __init__(self) -> None:
        self._detector = require("swift_f0", "f0 method swift-f0").SwiftF0()

    def __call__(self, audio: Array, sample_rate: int) -> PitchTrack:
        found = self._detector.detect(resample(audio, sample_rate, RATE), RATE)
        return PitchTrack(found.timestamps, np.where(found.confidence >= VOICED_FROM, found.pitch_hz, 0.0))
