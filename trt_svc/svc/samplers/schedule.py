"""How much of a mel is left after how many steps: the discrete schedule of training, and the continuous one between.

All of it is worked out in double precision; the model times alone are rounded as upstream rounds them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from trt_svc.types import Doubles

FIRST_BETA, LAST_BETA = 1e-4, 0.02
LOWEST_LAMBDA = -5.1
"""Below this log ratio of signal to noise a mel is noise; the exponential integrators leave such times out."""


def linear_betas(timesteps: int) -> Doubles:
    """The noise that every training step adds."""
    return np.linspace(FIRST_BETA, LAST_BETA, timesteps, dtype=np.float64)


@dataclass(frozen=True)
class Schedule:
    """The tables of a model trained with `timesteps` steps."""

    timesteps: int = 1000

    @cached_property
    def betas(self) -> Doubles:
        return linear_betas(self.timesteps)

    @cached_property
    def _kept_before(self) -> Doubles:
        """The share of the signal's power left before each step, and after the last."""
        return np.concatenate([[1.0], np.cumprod(1.0 - self.betas)])

    @property
    def kept(self) -> Doubles:
        """The share left after each step (alpha bar)."""
        return self._kept_before[1:]

    def signal(self, step: int) -> float:
        """The factor of the clean mel in the noisy one."""
        return math.sqrt(self.kept[step])

    def noise(self, step: int) -> float:
        """The factor of the noise."""
        return math.sqrt(1.0 - self.kept[step])

    def posterior(self, step: int) -> tuple[float, float, float]:
        """The mean of the step before as factors of (clean mel, noisy mel), and its standard deviation."""
        beta = float(self.betas[step])
        kept_before, kept = (float(share) for share in self._kept_before[step : step + 2])
        clean = beta * math.sqrt(kept_before) / (1.0 - kept)
        noisy = (1.0 - kept_before) * math.sqrt(1.0 - beta) / (1.0 - kept)
        return clean, noisy, math.sqrt(beta * (1.0 - kept_before) / (1.0 - kept))


@dataclass(frozen=True)
class Instant:
    """One time of the continuous schedule."""

    model_time: float
    """What the denoiser is told: 0 is the least noisy training step; fractions lie between steps."""
    log_signal: float

    @property
    def signal(self) -> float:
        """alpha"""
        return math.exp(self.log_signal)

    @property
    def noise(self) -> float:
        """sigma"""
        return math.sqrt(-math.expm1(2.0 * self.log_signal))

    @property
    def log_ratio(self) -> float:
        """lambda, the log of signal over noise: the variable in which the exponential integrators step."""
        return self.log_signal - math.log(self.noise)


def uniform_instants(schedule: Schedule, start: int, steps: int, clips: bool) -> list[Instant]:
    """`steps` + 1 instants, evenly spaced in time, from training step `start` - 1 to step 0.

    clips: leave out the times below LOWEST_LAMBDA (they exist in schedules longer than usual).
    """
    log_signal = 0.5 * np.cumsum(np.log1p(-schedule.betas[:start]))
    if clips:
        log_ratio = log_signal - 0.5 * np.log(-np.expm1(2.0 * log_signal))
        log_signal = log_signal[: max(1, int((log_ratio >= LOWEST_LAMBDA).sum()))]
    places = _model_times(len(log_signal), steps)
    levels = np.interp(places, np.arange(len(log_signal)), log_signal)
    return [Instant(float(place), float(level)) for place, level in zip(places, levels, strict=True)]


def _model_times(length: int, steps: int) -> Doubles:
    """length - 1 down to 0 in equal steps, rounded as upstream does: it spaces times from 1 to 1 / length in float32.

    torch counts each half from its own end, with one rounding per time.
    """
    first, last = np.float32(1.0), np.float32(1.0 / length)
    step = float((last - first) / np.float32(steps))
    number = np.arange(steps + 1)
    from_start, from_end = float(first) + step * number, float(last) - step * (steps - number)
    times = np.where(number < (steps + 1) // 2, from_start, from_end).astype(np.float32)
    return np.asarray((times - last) * np.float32(length), np.float64)
