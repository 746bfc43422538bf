"""Deterministic DDIM: Song, Meng and Ermon, "Denoising Diffusion Implicit Models", equation 12 with sigma 0."""

from __future__ import annotations

from trt_svc.svc.samplers.base import Course, Denoise, Draws, Latent, samplers


@samplers.register("ddim")
def ddim(denoise: Denoise, x: Latent, course: Course, draws: Draws) -> Latent:
    """The mel after steps of `speedup`; the noise found at each one is taken to hold until the next."""
    schedule = course.schedule
    for step in course.descending():
        after = max(0, step - course.speedup)
        shrink = schedule.signal(after) / schedule.signal(step)
        noise = denoise(x, float(step))
        x = shrink * x + (schedule.noise(after) - shrink * schedule.noise(step)) * noise
    return x
