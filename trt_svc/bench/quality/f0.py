"""Pitch, voicing and periodicity, all from one pass of swift-f0 over each signal.

The tracker is asked itself and not through `f0_estimators`, whose tracks carry no confidence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trt_svc.bench.quality.base import Pair, Role, SaysNothing, metric
from trt_svc.features.f0.swift import RATE, VOICED_FROM
from trt_svc.types import Doubles

NEEDS = ("swift_f0",)


@dataclass(frozen=True)
class Track:
    """(T,) each, a frame every 16 ms."""

    f0_hz: Doubles
    confidence: Doubles

    @property
    def voiced(self) -> npt.NDArray[np.bool_]:
        return self.confidence >= VOICED_FROM


def _tracked(pair: Pair, role: Role) -> Track:
    import swift_f0

    # Threads that spin after the call would slow down what is timed next.
    found = swift_f0.SwiftF0(spin=False).detect(pair.sound_at(role, RATE), RATE)
    return Track(found.pitch_hz, found.confidence)


def tracks(pair: Pair) -> tuple[Track, Track]:
    """(contender, reference)"""
    made = pair.once("swift-f0", ("made",), lambda: _tracked(pair, "made"))
    return made, pair.once("swift-f0", ("reference",), lambda: _tracked(pair, "reference"))


@metric("f0_rmse_cents", "f0 error", unit="cents", better="lower", needs=NEEDS, for_trained_only=True)
def f0_rmse_cents(pair: Pair) -> float:
    """Root mean square over frames that are voiced in both."""
    made, reference = tracks(pair)
    both = made.voiced & reference.voiced
    if not both.any():
        raise SaysNothing("no frame is voiced in both")
    return float(1200 * np.sqrt(np.mean(np.log2(made.f0_hz[both] / reference.f0_hz[both]) ** 2)))


@metric("vuv_f1", "voiced/unvoiced F1", unit="", better="higher", needs=NEEDS, for_trained_only=True)
def vuv_f1(pair: Pair) -> float:
    """Harmonic mean of precision and recall of voiced frames, the reference being the truth."""
    made, reference = tracks(pair)
    voiced = np.count_nonzero(made.voiced) + np.count_nonzero(reference.voiced)
    if not voiced:
        raise SaysNothing("no frame of either is voiced")
    return float(2 * np.count_nonzero(made.voiced & reference.voiced) / voiced)


@metric("periodicity_rmse", "periodicity error", unit="", better="lower", needs=NEEDS, for_trained_only=True)
def periodicity_rmse(pair: Pair) -> float:
    """Root mean square difference of the tracker's confidence (0 to 1) that a frame is voiced."""
    made, reference = tracks(pair)
    return float(np.sqrt(np.mean((made.confidence - reference.confidence) ** 2)))
