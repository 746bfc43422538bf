"""Ancestral sampling, the training process backwards: Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models".

One call per training step; the clean mel that each step believes in is kept inside the normalised range.
"""

from __future__ import annotations

from trt_svc.arrays import like
from trt_svc.svc.samplers.base import ANCESTRAL, Course, Denoise, Draws, Latent, drawn, samplers


@samplers.register(ANCESTRAL)
def ancestral(denoise: Denoise, x: Latent, course: Course, draws: Draws) -> Latent:
    """The mel after every training step in turn; a speedup is not used."""
    for step in range(course.start - 1, -1, -1):
        signal, noise = course.schedule.signal(step), course.schedule.noise(step)
        clean = ((1 / signal) * x - (noise / signal) * denoise(x, float(step))).clip(-1.0, 1.0)
        of_clean, of_noisy, deviation = course.schedule.posterior(step)
        # The last step adds none, but upstream draws for it too.
        fresh = like(x, drawn(draws, f"diffusion_step_{step}", *x.shape))
        x = of_clean * clean + of_noisy * x + deviation * fresh
    return x
