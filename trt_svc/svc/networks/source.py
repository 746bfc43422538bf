"""The harmonic source as upstream computes it, sample by sample in float32, with every wrap where upstream sees one.

`trt_svc.phase` keeps phases exact and follows upstream's rounding only as far as it can be trusted. Where a take must
equal upstream's to the last sample, the sums themselves have to be done its way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from trt_svc.excitation import HarmonicExcitation, HarmonicRun
from trt_svc.noise import Noise, NoiseField
from trt_svc.types import Array, Doubles


class SummedPhase:
    """Running sums over samples of each harmonic's step; takes the place of `trt_svc.phase.StepPhase`."""

    def __init__(self, initial_cycles: Array, rate: float, samples_per_frame: int) -> None:
        self.rate = np.float32(rate)
        self.samples = samples_per_frame
        self._initial = initial_cycles
        batch, harmonics = initial_cycles.shape
        self._plain: Doubles = np.zeros((harmonics, batch, 1))
        self._wrapped: Doubles = np.zeros((harmonics, batch, 1))
        self._last = np.zeros((harmonics, batch, 1), np.float32)
        self._begun = False

    def sines(self, f0: Array) -> Iterator[Array]:
        """Per harmonic the sine of the next frames (B, frames, samples)."""
        begun, self._begun = self._begun, self._begun or f0.shape[1] > 0
        for h in range(self._initial.shape[1]):
            steps = np.repeat((f0 * np.float32(h + 1) / self.rate) % np.float32(1), self.samples, axis=1)
            if not begun and steps.shape[1]:
                steps[:, 0] += self._initial[:, h]
            sine = np.sin(self._cycles(h, steps) * np.float32(2 * np.pi))
            yield sine.reshape(*f0.shape, self.samples)

    def _cycles(self, h: int, steps: Array) -> Array:
        """Upstream takes one cycle off the step at which the plain sum, modulo one, falls."""
        plain = _summed(self._plain[h], steps)
        position = plain.astype(np.float32) % np.float32(1)
        before = np.concatenate([self._last[h], position[:, :-1]], axis=1)
        cycles = _summed(self._wrapped[h], steps - (position < before).astype(np.float32))
        if steps.shape[1]:
            self._plain[h], self._wrapped[h] = plain[:, -1:], cycles[:, -1:]
            self._last[h] = position[:, -1:]
        return cycles.astype(np.float32)


def _summed(before: Doubles, steps: Array) -> Doubles:
    """Running sums behind each step; torch, too, adds float32 up in double and rounds what it puts out."""
    whole: Doubles = np.cumsum(np.concatenate([before, steps], axis=1), axis=1, dtype=np.float64)
    return whole[:, 1:]


class UpstreamRun(HarmonicRun):
    """One utterance whose every sample is upstream's."""

    def __init__(self, excitation: HarmonicExcitation, noise: Noise) -> None:
        super().__init__(excitation, noise)
        rate, samples = excitation.sample_rate, excitation.samples_per_frame
        self._steps: Any = SummedPhase(self._initial, rate, samples)


@dataclass(frozen=True)
class RenderedExcitation:
    """A source that is there already, from the first frame of the utterance on."""

    source: Array
    """(B, 1, frames * samples_per_frame)"""
    samples_per_frame: int
    fields: tuple[NoiseField, ...] = ()
    lookahead_frames: int = 0

    def begin(self, noise: Noise) -> RenderedRun:
        return RenderedRun(self)

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "rendered"}


class RenderedRun:
    """Hands the source out in pieces."""

    def __init__(self, excitation: RenderedExcitation) -> None:
        self._rest, self._samples = excitation.source, excitation.samples_per_frame

    def push(self, f0: Array | None, frames: int, last: bool = True) -> dict[str, Array]:
        made, self._rest = np.split(self._rest, [frames * self._samples], axis=2)
        return {"source": made}
