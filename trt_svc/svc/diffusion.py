"""Mels made or repaired by diffusion: from noise alone, or from a mel with noise on it (shallow diffusion)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from trt_svc.arrays import on_host
from trt_svc.errors import InputError
from trt_svc.inputs import as_array
from trt_svc.noise import normals, uniforms
from trt_svc.svc.networks.denoiser import SliceDenoiser
from trt_svc.svc.networks.unit2mel import DiffusionConfig, Unit2Mel, open_unit2mel
from trt_svc.svc.samplers.base import ANCESTRAL, Course, Denoise, Draws, Law, Sampler, drawn, samplers
from trt_svc.svc.samplers.schedule import Schedule
from trt_svc.types import Array

MEL_LOWEST, MEL_HIGHEST = -12.0, 2.0
"""The natural-log mels that the networks know as -1 and 1."""
DenoiserFor = Callable[[Array], Denoise]
"""A slice's condition (B, H, T) to the denoiser of that slice, which takes and gives NumPy arrays."""


@dataclass(frozen=True)
class Sampling:
    """How a mel is sampled."""

    method: str | None = "dpm-solver++"
    """One of `samplers`; None takes every training step."""
    speedup: int = 10
    """Training steps taken at once; 1 takes every one, whatever the method."""

    def __post_init__(self) -> None:
        if self.method is not None:
            samplers.get(self.method)

    @classmethod
    def from_config(cls, config: DiffusionConfig) -> Self:
        """What the model's config.yaml asks for."""
        return cls(config.infer.method, config.infer.speedup or 1)

    @property
    def takes_every_step(self) -> bool:
        return self.method is None or self.speedup <= 1

    @property
    def sampler(self) -> Sampler:
        return samplers.get(ANCESTRAL if self.method is None or self.takes_every_step else self.method)


class Diffusion:
    """A diffusion model with its schedule. Mels are (B, T, n_mels), natural log, as its vocoder takes them."""

    def __init__(
        self,
        net: Unit2Mel,
        timesteps: int = 1000,
        k_step_max: int | None = None,
        denoiser_for: DenoiserFor | None = None,
    ) -> None:
        self.net = net
        self.schedule = Schedule(timesteps)
        self.k_step_max = min(k_step_max or timesteps, timesteps)
        self._denoiser_for = denoiser_for

    @classmethod
    def open(cls, where: str | Path, config: str | Path | Mapping[str, Any] | None = None, device: str = "cpu") -> Self:
        """The model of a weights file or folder, with the config.yaml beside it unless one is given."""
        opened = open_unit2mel(where, config)
        return cls(opened.net.to(device), opened.config.timesteps, opened.config.k_step_max)

    @property
    def shallow_only(self) -> bool:
        """Was it trained on the least noisy steps only?"""
        return self.k_step_max < self.schedule.timesteps

    @torch.inference_mode()
    def condition(
        self, units: Any, f0_hz: Any, volume: Any, speaker: Any = 0, shift_semitones: float | None = None
    ) -> Array:
        """The condition (B, H, T) of units (B, T, D), f0 (B, T) in Hz and volume (B, T).

        speaker: a number, counted from 0, or weights of the speakers (T, speakers) or (B, T, speakers).
        """
        content = as_array("units", units)
        if content.ndim != 3 or content.shape[2] != self.net.unit_channels or 0 in content.shape:
            asked = f"units of the diffusion, shaped {content.shape}"
            raise InputError(asked, f"the model takes (B, frames, {self.net.unit_channels}).", "Use its own encoder.")
        f0, loudness = (_curve(name, value, content.shape[:2]) for name, value in (("f0", f0_hz), ("volume", volume)))
        if (f0 < 0).any():
            raise InputError("f0 of the diffusion", "it holds negative values.", "Give Hz, 0 where unvoiced.")
        shift = None if shift_semitones is None else as_array("pitch shift", shift_semitones).reshape(1)
        voice = self._voice(speaker, content)
        made = self.net.condition(
            self._at_net(content),
            self._at_net(f0),
            self._at_net(loudness),
            self._at_net(voice),
            None if shift is None else self._at_net(shift),
        )
        return on_host(made).copy()

    def refined(self, mel: Any, cond: Array, k_step: int, sampling: Sampling, draws: Draws) -> Array:
        """The mel with its finest `k_step` steps made anew: noise goes on, and comes off along the condition."""
        course = self._course(k_step, sampling)
        if course.start > self.k_step_max:
            found = f"the model was trained on the {self.k_step_max} least noisy steps."
            raise InputError(f"k_step {k_step}", found, f"Use 1 to {self.k_step_max}.")
        given = as_array("mel", mel)
        shape = (cond.shape[0], cond.shape[2], self.net.n_mels)
        if given.shape != shape:
            found = f"the model and its condition ask for {shape}."
            raise InputError(f"mel of shape {given.shape}", found, "Give (B, frames, n_mels), as long as the units.")
        clean, noise = normalised(given.transpose(0, 2, 1)), self._start_noise(cond, draws)
        start = self.schedule.signal(k_step - 1) * clean + self.schedule.noise(k_step - 1) * noise
        return self._sampled(start, cond, course, sampling, draws)

    def generated(self, cond: Array, sampling: Sampling, draws: Draws) -> Array:
        """A mel made from noise alone."""
        if self.shallow_only:
            found = f"it was trained on the {self.k_step_max} least noisy of {self.schedule.timesteps} steps."
            raise InputError("diffusion from noise with this model", found, "Use shallow diffusion, or a full model.")
        course = self._course(self.schedule.timesteps, sampling)
        return self._sampled(self._start_noise(cond, draws), cond, course, sampling, draws)

    def _course(self, steps: int, sampling: Sampling) -> Course:
        return Course(self.schedule, steps, 1 if sampling.takes_every_step else sampling.speedup)

    def _start_noise(self, cond: Array, draws: Draws) -> Array:
        return drawn(draws, "diffusion_start", cond.shape[0], self.net.n_mels, cond.shape[2])

    def _sampled(self, start: Array, cond: Array, course: Course, sampling: Sampling, draws: Draws) -> Array:
        if self._denoiser_for is not None:
            made = sampling.sampler(self._denoiser_for(cond), start, course, draws)
        else:
            with torch.inference_mode():
                denoise = SliceDenoiser(self.net.denoiser, self._at_net(cond))
                made = sampling.sampler(denoise, self._at_net(start), course, draws)
        return np.ascontiguousarray(denormalised(on_host(made)).transpose(0, 2, 1))

    def _voice(self, speaker: Any, content: Array) -> Array:
        """Weights (B or 1, T or 1, speakers) of every speaker."""
        speakers = self.net.speakers
        if isinstance(speaker, (int, np.integer)) and not isinstance(speaker, bool):
            if speakers > 1 and not 0 <= speaker < speakers:
                asked = f"speaker {speaker} of the diffusion model"
                raise InputError(asked, f"it has {speakers}.", f"Use 0 to {speakers - 1}.")
            chosen = int(speaker) if speakers > 1 else 0
            return np.eye(speakers, dtype=np.float32)[None, chosen : chosen + 1]
        weights = as_array("speaker weights", speaker)
        weights = weights[None] if weights.ndim == 2 else weights
        fits = (1, content.shape[0]), (1, content.shape[1]), (speakers,)
        if weights.ndim != 3 or any(n not in allowed for n, allowed in zip(weights.shape, fits, strict=True)):
            found = f"the model has {speakers} speakers and the slice {content.shape[1]} frames."
            raise InputError(f"speaker weights of shape {weights.shape}", found, "Give (frames, speakers).")
        return weights

    def _at_net(self, array: Array) -> torch.Tensor:
        """A copy where the network is."""
        return torch.tensor(array, device=next(self.net.parameters()).device)


def normalised(mel: Array) -> Array:
    """A natural-log mel on the scale of the networks."""
    return np.asarray((mel - MEL_LOWEST) / (MEL_HIGHEST - MEL_LOWEST) * 2 - 1, np.float32)


def denormalised(mel: Array) -> Array:
    """Back from the scale of the networks."""
    return np.asarray((mel + 1) / 2 * (MEL_HIGHEST - MEL_LOWEST) + MEL_LOWEST, np.float32)


def seeded_draws(seed: int, *first_frames: int) -> Draws:
    """Numbers by position: those of a frame depend on the seed, the stream and the frame's place in the song.

    first_frames: where every item of a batch begins there.
    """

    def draw(name: str, law: Law, shape: tuple[int, ...]) -> Array:
        frames, rows = shape[-1], math.prod(shape[1:-1])
        numbers = normals if law == "normal" else uniforms
        made = []
        for first in first_frames or (0,) * shape[0]:
            flat = numbers(seed, name, first * rows, (first + frames) * rows)
            made.append(flat.reshape(frames, rows).T.reshape(shape[1:]))
        return np.stack(made)

    return draw


def _curve(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    """(B, T), from (B, T) or (B, T, 1)."""
    curve = as_array(name, value)
    curve = curve[..., 0] if curve.ndim == 3 and curve.shape[2] == 1 else curve
    if curve.shape != shape:
        found = f"the units have {shape[1]} frames and a batch of {shape[0]}."
        raise InputError(f"{name} of the diffusion, shaped {curve.shape}", found, "Give (B, frames).")
    return curve
