"""The stage in front of the network: f0 and noise in, the network's extra inputs out.

It runs in NumPy on the host, never in half precision and never inside an engine, so every backend
gets the same bits and an engine can be used in a process without torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Protocol

import numpy as np

from trt_svc.noise import Noise, NoiseField
from trt_svc.phase import RampPhase, StepPhase
from trt_svc.types import Array

SineSource = Literal["sovits-interp", "openvpi", "openvpi-legacy", "sovits-dec"]

SINE_AMPLITUDE = 0.1
VOICED_NOISE = 0.003
UNVOICED_NOISE = SINE_AMPLITUDE / 3
# Frames rendered at once: bounds the working memory of long takes.
FRAMES_PER_BLOCK = 64


class ExcitationRun(Protocol):
    """One utterance in progress: frames go in in order, network inputs for whole frames come out."""

    def push(self, f0: Array | None, frames: int, last: bool = True) -> dict[str, Array]:
        """Inputs of the next frames; `f0` is (batch, frames) in Hz, 0 where unvoiced."""
        ...


class Excitation(Protocol):
    """What a vocoder needs beside its mel: the random fields it draws and a way to render them."""

    @property
    def fields(self) -> tuple[NoiseField, ...]: ...

    @property
    def lookahead_frames(self) -> int:
        """Frames of f0 beyond a frame that its input depends on."""
        ...

    def begin(self, noise: Noise) -> ExcitationRun: ...

    def as_dict(self) -> dict[str, Any]:
        """Everything needed to build it again, as JSON."""
        ...


@dataclass(frozen=True)
class PlainExcitation:
    """A deterministic vocoder: nothing but the mel."""

    fields: tuple[NoiseField, ...] = ()
    lookahead_frames: int = 0

    def begin(self, noise: Noise) -> _FieldsRun:
        return _FieldsRun(noise, {})

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "plain"}


@dataclass(frozen=True)
class LatentNoise:
    """A flow vocoder: normal noise of every field times sigma (WaveGlow)."""

    fields: tuple[NoiseField, ...]
    sigma: float = 1.0
    lookahead_frames: int = 0

    def begin(self, noise: Noise) -> _FieldsRun:
        return _FieldsRun(noise, {field.name: (field.name, self.sigma) for field in self.fields})

    def as_dict(self) -> dict[str, Any]:
        fields = [{"name": f.name, "channels": f.channels, "per_frame": str(f.per_frame)} for f in self.fields]
        return {"kind": "latent", "fields": fields, "sigma": self.sigma}


class _FieldsRun:
    """Hands out noise fields as network inputs: input name -> (field name, factor)."""

    def __init__(self, noise: Noise, inputs: dict[str, tuple[str, float]]) -> None:
        self._noise = noise
        self._inputs = inputs
        self._frame = 0

    def push(self, f0: Array | None, frames: int, last: bool = True) -> dict[str, Array]:
        start, self._frame = self._frame, self._frame + frames
        return {
            name: np.ascontiguousarray(self._noise.over(field, start, start + frames) * np.float32(factor))
            for name, (field, factor) in self._inputs.items()
        }


def pre_noise_field(channels: int) -> NoiseField:
    """Noise added behind conv_pre when the config has noise_sigma > 0 (also at inference)."""
    return NoiseField("conv_pre_noise", "normal", channels, per_frame=1)


def scaled_pre_noise(noise: Noise, start_frame: int, stop_frame: int, sigma: float) -> Array:
    return np.ascontiguousarray(noise.over("conv_pre_noise", start_frame, stop_frame) * np.float32(sigma))


@dataclass(frozen=True)
class HarmonicExcitation:
    """Nine harmonics of f0 plus noise, merged by a linear layer and tanh: the NSF source.

    In exact arithmetic the sources that share this weights format differ in one thing only: where the
    random initial phase of the harmonics enters. See `trt_svc.phase` for the arithmetic.
    """

    sample_rate: int
    samples_per_frame: int
    source: SineSource
    weight: Array
    bias: float
    pre_noise_channels: int = 0
    pre_noise_sigma: float = 0.0
    lookahead_frames: int = 0

    @property
    def harmonics(self) -> int:
        return self.weight.size

    @property
    def fields(self) -> tuple[NoiseField, ...]:
        phase = NoiseField(
            "initial_phase",
            "uniform",
            self.harmonics,
            per_frame=0,
            shared_by_batch=self.source.startswith("openvpi"),
            unit_axes=1 if self.source == "openvpi" else 0,
        )
        sines = NoiseField("sine_noise", "normal", self.harmonics, self.samples_per_frame, channels_last=True)
        extra = (pre_noise_field(self.pre_noise_channels),) if self.pre_noise_sigma > 0 else ()
        return (phase, sines, *extra)

    def begin(self, noise: Noise) -> HarmonicRun:
        return HarmonicRun(self, noise)

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "harmonic", **vars(self), "weight": [float(w) for w in self.weight]}


class HarmonicRun:
    """One utterance of a nine-harmonic source."""

    def __init__(self, excitation: HarmonicExcitation, noise: Noise) -> None:
        self.excitation = excitation
        self.noise = noise
        initial = noise.constant("initial_phase").copy()
        initial[:, 0] = 0.0  # drawn, then discarded: upstream starts the fundamental at zero
        rate, samples = excitation.sample_rate, excitation.samples_per_frame
        self._initial = initial
        self._ramp: RampPhase | None = None
        if excitation.source == "openvpi":
            self._ramp = RampPhase(len(initial), rate, samples, excitation.harmonics)
        else:
            in_decoder = excitation.source == "sovits-dec"
            self._steps = StepPhase(initial, rate, samples, smears=not in_decoder, rounds_wraps=in_decoder)
        self._frame = 0

    def push(self, f0: Array | None, frames: int, last: bool = True) -> dict[str, Array]:
        assert f0 is not None
        samples, start = self.excitation.samples_per_frame, self._frame
        source = np.empty((len(f0), 1, frames * samples), np.float32)
        for first in range(0, frames, FRAMES_PER_BLOCK):
            block = f0[:, first : first + FRAMES_PER_BLOCK]
            merged = self._merge(block)
            source[:, 0, first * samples : first * samples + merged.shape[1]] = merged
        inputs = {"source": source}
        if self.excitation.pre_noise_sigma > 0:
            inputs["pre_noise"] = scaled_pre_noise(self.noise, start, self._frame, self.excitation.pre_noise_sigma)
        return inputs

    def _sines(self, f0: Array) -> Iterator[Array]:
        if self._ramp is None:
            yield from self._steps.sines(f0)
            return
        cycles = self._ramp.cycles(f0)
        for h in range(self.excitation.harmonics):
            harmonic = cycles * np.float32(h + 1) + self._initial[:, h, None, None]
            yield np.sin(harmonic * np.float32(2 * np.pi))

    def _merge(self, f0: Array) -> Array:
        """tanh(linear(sines + noise)) of the next frames (B, samples)."""
        excitation = self.excitation
        first, self._frame = self._frame, self._frame + f0.shape[1]
        noise = self.noise.over("sine_noise", first, self._frame)
        noise = noise.reshape(*f0.shape, excitation.samples_per_frame, excitation.harmonics)
        tone, hiss = np.zeros((2, *noise.shape[:3]), np.float32)
        for h, (weight, sine) in enumerate(zip(excitation.weight, self._sines(f0), strict=True)):
            tone += sine * weight
            hiss += noise[..., h] * weight
        voiced = (f0 > 0)[..., None]
        tone *= voiced * np.float32(SINE_AMPLITUDE)
        hiss *= np.where(voiced, np.float32(VOICED_NOISE), np.float32(UNVOICED_NOISE))
        merged: Array = np.tanh(tone + hiss + np.float32(excitation.bias))
        return merged.reshape(len(f0), -1)


@dataclass(frozen=True)
class GlideExcitation:
    """One unit sine at an intermediate rate whose f0 glides to the next frame's: mini-NSF (PC-NSF)."""

    sample_rate: float
    samples_per_frame: int
    pre_noise_channels: int = 0
    pre_noise_sigma: float = 0.0
    lookahead_frames: int = 1

    @property
    def fields(self) -> tuple[NoiseField, ...]:
        return (pre_noise_field(self.pre_noise_channels),) if self.pre_noise_sigma > 0 else ()

    def begin(self, noise: Noise) -> GlideRun:
        return GlideRun(self, noise)

    def as_dict(self) -> dict[str, Any]:
        return {"kind": "glide", **vars(self)}


class GlideRun:
    """One utterance of a gliding sine; holds one frame back, whose glide needs its successor."""

    def __init__(self, excitation: GlideExcitation, noise: Noise) -> None:
        self.excitation = excitation
        self.noise = noise
        self._phase = RampPhase(
            len(noise.seeds), excitation.sample_rate, excitation.samples_per_frame, highest_harmonic=1
        )
        self._held: Array | None = None
        self._frame = 0

    def push(self, f0: Array | None, frames: int, last: bool = True) -> dict[str, Array]:
        assert f0 is not None
        known = f0 if self._held is None else np.concatenate([self._held, f0], axis=1)
        if last:
            known, self._held = np.concatenate([known, known[:, -1:]], axis=1), None
        else:
            self._held = known[:, -1:].copy()  # callers may fill their buffers anew
        if known.shape[1] == 0:
            return {"source": np.zeros((len(known), 1, 0), np.float32), **self._pre_noise(self._frame)}
        start, self._frame = self._frame, self._frame + known.shape[1] - 1
        cycles = self._phase.cycles(known[:, :-1], known[:, 1:])
        inputs = {"source": np.sin(cycles * np.float32(2 * np.pi)).reshape(len(known), 1, -1)}
        return {**inputs, **self._pre_noise(start)}

    def _pre_noise(self, start: int) -> dict[str, Array]:
        """Of the frames from `start` up to the present one."""
        sigma = self.excitation.pre_noise_sigma
        return {"pre_noise": scaled_pre_noise(self.noise, start, self._frame, sigma)} if sigma > 0 else {}


def excitation_from_dict(data: dict[str, Any]) -> Excitation:
    """The excitation that `as_dict` described."""
    values = {key: value for key, value in data.items() if key not in ("kind", "lookahead_frames")}
    if data["kind"] == "harmonic":
        return HarmonicExcitation(**{**values, "weight": np.asarray(values["weight"], np.float32)})
    if data["kind"] == "glide":
        return GlideExcitation(**values)
    if data["kind"] == "latent":
        fields = tuple(
            NoiseField(f["name"], "normal", f["channels"], Fraction(f["per_frame"])) for f in values["fields"]
        )
        return LatentNoise(fields, values["sigma"])
    return PlainExcitation()
