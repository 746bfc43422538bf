"""What a sampler is given and gives back, and the register of samplers.

A sampler loops outside the denoiser: it asks for the noise in a mel at a time, works with plain factors in between and
never looks inside, so NumPy arrays (engines) and torch tensors serve alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from trt_svc.errors import InputError, shown
from trt_svc.registry import Registry
from trt_svc.svc.samplers.schedule import Schedule
from trt_svc.types import Array

Latent: TypeAlias = Any
"""A normalised mel (B, n_mels, T), a NumPy array or a torch tensor of float32."""
Denoise: TypeAlias = Callable[[Latent, float], Latent]
"""The noise in a mel at a model time, which may be a fraction."""
Law: TypeAlias = Literal["normal", "uniform"]
Draws: TypeAlias = Callable[[str, Law, tuple[int, ...]], Array]
"""Random numbers by stream name, law and shape (upstream's own); called in the order in which upstream draws."""
Sampler: TypeAlias = Callable[[Denoise, Latent, "Course", Draws], Latent]
"""From the noisy mel at the start of a course to the clean one."""

samplers: Registry[Sampler] = Registry("sampler", "trt_svc.svc.samplers")
ANCESTRAL = "naive"
"""One step per training step, with new noise in each; what upstream does without a method or a speedup."""


@dataclass(frozen=True)
class Course:
    """From which training step a sampler goes down, and how many it takes at once."""

    schedule: Schedule
    start: int
    """Training steps to undo; the noisiest is `start` - 1."""
    speedup: int = 1

    def __post_init__(self) -> None:
        asked = f"sampling {shown(self.start)} steps with speedup {shown(self.speedup)}"
        if not _between(1, self.start, self.schedule.timesteps):
            found = f"the model has {self.schedule.timesteps} steps."
            raise InputError(asked, found, f"Use a whole number from 1 to {self.schedule.timesteps}.")
        if not _between(1, self.speedup, self.start):
            raise InputError(asked, "that leaves no step to take.", f"Use a whole speedup from 1 to {self.start}.")

    @property
    def steps(self) -> int:
        """Steps of the samplers that space them evenly in time."""
        return self.start // self.speedup

    def descending(self) -> list[int]:
        """The training steps of the samplers that stay on them: multiples of the speedup, down to 0."""
        return list(range(0, self.start, self.speedup))[::-1]


def drawn(draws: Draws, name: str, batch: int, n_mels: int, frames: int) -> Array:
    """Normal numbers (B, n_mels, T), asked for in upstream's shape, which has an axis for a picture's only channel."""
    shape = (batch, 1, n_mels, frames)
    made = np.array(draws(name, "normal", shape), np.float32)
    if made.size != np.prod(shape):
        raise InputError(f"noise {name!r}", f"its shape is {made.shape}.", f"It must be {shape}.")
    return made.reshape(batch, n_mels, frames)


def _between(lowest: int, value: Any, highest: int) -> bool:
    """Is it a whole number in this range?"""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return whole and lowest <= int(value) <= highest
