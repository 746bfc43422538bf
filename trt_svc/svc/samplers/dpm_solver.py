"""DPM-Solver-2 and DPM-Solver++(2M), multistep: Lu, Zhou, Bao, Chen, Li and Zhu, 2022.

Both step in lambda, the log ratio of signal to noise, in which the linear part of the equation is solved exactly.
The first extrapolates the noise, the second (more stable with few steps) the clean mel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from trt_svc.svc.samplers.base import Course, Denoise, Draws, Latent, samplers
from trt_svc.svc.samplers.schedule import Instant, uniform_instants

FEW_STEPS = 10
"""With fewer the last step is of first order, for stability."""
Step = Callable[[Latent, Latent, Instant, Instant], Latent]
"""From x and what the model says at one instant to x at the next."""


@samplers.register("dpm-solver")
def dpm_solver(denoise: Denoise, x: Latent, course: Course, draws: Draws) -> Latent:
    """The mel after evenly spaced times, one call each; works on the noise."""

    def step(x: Latent, noise: Latent, now: Instant, after: Instant) -> Latent:
        h = after.log_ratio - now.log_ratio
        return (after.signal / now.signal) * x - (after.noise * math.expm1(h)) * noise

    return multistep(lambda x, now: denoise(x, now.model_time), step, x, course)


@samplers.register("dpm-solver++")
def dpm_solver_plus_plus(denoise: Denoise, x: Latent, course: Course, draws: Draws) -> Latent:
    """The mel after evenly spaced times, one call each; works on the clean mel."""

    def step(x: Latent, clean: Latent, now: Instant, after: Instant) -> Latent:
        h = after.log_ratio - now.log_ratio
        return (after.noise / now.noise) * x - (after.signal * math.expm1(-h)) * clean

    return multistep(lambda x, now: clean_mel(denoise, x, now), step, x, course)


def clean_mel(denoise: Denoise, x: Latent, now: Instant) -> Latent:
    """What is left of x without the noise found in it."""
    return (1 / now.signal) * x - (now.noise / now.signal) * denoise(x, now.model_time)


def multistep(predict: Callable[[Latent, Instant], Latent], step: Step, x: Latent, course: Course) -> Latent:
    """Second-order steps: what the model says is carried on half a step along the line through its last two answers."""
    times = uniform_instants(course.schedule, course.start, course.steps, clips=True)
    before: tuple[Latent, Instant] | None = None
    for number, (now, after) in enumerate(pairwise(times), start=1):
        said = predict(x, now)
        used = said
        lowers_order = number == course.steps < FEW_STEPS
        if before is not None and not lowers_order:
            said_before, at = before
            ahead = 0.5 * (after.log_ratio - now.log_ratio) / (now.log_ratio - at.log_ratio)
            used = (1 + ahead) * said - ahead * said_before
        x, before = step(x, used, now, after), (said, now)
    return x
