"""UniPC of order 2 with B(h) = exp(h) - 1 (bh2): Zhao, Bai, Rao, Zhou and Lu, "UniPC: A Unified Predictor-Corrector".

Works on the clean mel. Every call does twice: it corrects the step that led there, then predicts the next one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from trt_svc.svc.samplers.base import Course, Denoise, Draws, Latent, samplers
from trt_svc.svc.samplers.dpm_solver import clean_mel
from trt_svc.svc.samplers.schedule import Instant, uniform_instants


@samplers.register("unipc")
def unipc(denoise: Denoise, x: Latent, course: Course, draws: Draws) -> Latent:
    """The mel after evenly spaced times, one call each."""
    times = uniform_instants(course.schedule, course.start, course.steps, clips=False)
    said = clean_mel(denoise, x, times[0])
    earlier: tuple[Latent, Instant] | None = None
    for number, (now, after) in enumerate(pairwise(times), start=1):
        last = number == course.steps
        step = _Step(now, after, None if earlier is None else earlier[1])
        # Nobody corrects the last step, so it is taken carefully.
        slope: Latent | None = None if earlier is None or last else (earlier[0] - said) * (1 / step.ratio)
        base = step.first_order(x, said)
        x = base if slope is None else base - (0.5 * step.scale) * slope
        if not last:
            found = clean_mel(denoise, x, after)
            x = step.corrected(base, slope, found - said)
            said, earlier = found, (said, now)
    return x


@dataclass(frozen=True)
class _Step:
    """One step in lambda, and where the one before it began."""

    now: Instant
    after: Instant
    before: Instant | None

    @property
    def h(self) -> float:
        """Minus the step: the data form of the method runs in -lambda."""
        return self.now.log_ratio - self.after.log_ratio

    @property
    def scale(self) -> float:
        """alpha * B(h)"""
        return self.after.signal * math.expm1(self.h)

    @property
    def ratio(self) -> float:
        """Where the earlier answer lies, in steps from now (negative)."""
        assert self.before is not None
        return (self.before.log_ratio - self.now.log_ratio) / -self.h

    def first_order(self, x: Latent, clean: Latent) -> Latent:
        return (self.after.noise / self.now.noise) * x - self.scale * clean

    def corrected(self, base: Latent, slope: Latent | None, change: Latent) -> Latent:
        """The end of the step, now that the clean mel there is known to differ by `change` from that at its start."""
        if slope is None:
            return base - (0.5 * self.scale) * change
        of_slope, of_change = self._corrector_weights()
        return base - (self.scale * of_slope) * slope - (self.scale * of_change) * change

    def _corrector_weights(self) -> tuple[float, float]:
        """Solves the two conditions of second and third order (equation 10 of the paper) for the two differences."""
        h, whole = self.h, math.expm1(self.h)
        second = whole / h - 1
        third = second / h - 0.5
        first_sum, weighted_sum = second / whole, 2 * third / whole
        of_slope = (first_sum - weighted_sum) / (1 - self.ratio)
        return of_slope, first_sum - of_slope
