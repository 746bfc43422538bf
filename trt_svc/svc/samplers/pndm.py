"""Pseudo linear multistep: Liu, Ren, Lin and Zhao, "Pseudo Numerical Methods for Diffusion Models on Manifolds".

The noise is extrapolated from up to four earlier calls by Adams-Bashforth, then carried over by the paper's transfer
(equation 11). The first step asks twice, as Heun's method does.
"""

from __future__ import annotations

from trt_svc.svc.samplers.base import Course, Denoise, Draws, Latent, samplers
from trt_svc.svc.samplers.schedule import Schedule

ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Weights of the latest noise, the one before ..., by how many there are."""


@samplers.register("pndm")
def pndm(denoise: Denoise, x: Latent, course: Course, draws: Draws) -> Latent:
    """The mel after steps of `speedup`, one call each and one more for the first."""
    noises: list[Latent] = []
    """The latest first."""
    for step in course.descending():
        after = max(0, step - course.speedup)
        noise = denoise(x, float(step))
        noises = [noise, *noises[:3]]
        if len(noises) == 1:
            there = denoise(transferred(x, noise, course.schedule, step, after), float(after))
            used = 0.5 * (noise + there)
        else:
            used = sum(weight * n for weight, n in zip(ADAMS_BASHFORTH[len(noises) - 1], noises, strict=True))
        x = transferred(x, used, course.schedule, step, after)
    return x


def transferred(x: Latent, noise: Latent, schedule: Schedule, step: int, after: int) -> Latent:
    """The mel of `step` at the step `after` it, if `noise` is what is in it."""
    signal, signal_after = schedule.signal(step), schedule.signal(after)
    gained = float(schedule.kept[after] - schedule.kept[step])
    of_x = gained / (signal * (signal + signal_after))
    of_noise = gained / (signal * (schedule.noise(after) * signal + schedule.noise(step) * signal_after))
    return (1 + of_x) * x - of_noise * noise
