"""What a piece sounds like, frame by frame: its content, its pitch, how loud it is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeAlias

import numpy as np

from trt_svc.errors import InputError, WeightsMismatch
from trt_svc.features.f0.base import F0Estimator
from trt_svc.features.f0.upstream import f0_like_upstream
from trt_svc.inputs import as_array
from trt_svc.svc.conversion import Conversion
from trt_svc.svc.encoders.base import RATE_HZ as ENCODER_RATE_HZ
from trt_svc.svc.sinc import sinc_resample
from trt_svc.svc.stopwatch import Stopwatch
from trt_svc.svc.units import LEFT, repeated_units
from trt_svc.svc.volume import frame_volume
from trt_svc.types import Array

Encoder: TypeAlias = Callable[[Array], Any]
"""Audio (samples,) at 16 kHz -> units (1, channels, frames)."""
Mixing: TypeAlias = Callable[[Array], Array]
"""Units (channels, frames) -> units nearer to those of the speaker."""
COPYING = (LEFT, "nearest", "nearest-exact")
"""Modes in which every frame shows one unit as it is: mixing may go first, on half as many."""


class Ears(Protocol):
    """What a voice or a diffusion model was trained to hear with."""

    @property
    def sample_rate_hz(self) -> int: ...
    @property
    def hop_samples(self) -> int: ...
    @property
    def unit_interpolate_mode(self) -> str: ...
    @property
    def unit_channels(self) -> int: ...
    @property
    def takes_volume(self) -> bool:
        """Is the volume of the source heard?"""
        ...


@dataclass(frozen=True)
class Heard:
    """Pieces of one length as the singer is told them, usually one; every curve is (pieces, frames)."""

    audio: Array
    """(pieces, samples) at the model's rate."""
    units: Array
    """(pieces, channels, frames)"""
    f0_hz: Array
    uv: Array
    volume: Array

    @classmethod
    def together(cls, heard: Sequence[Heard]) -> Heard:
        """Pieces of one length as a batch."""
        if len(heard) == 1:
            return heard[0]
        return cls(*(np.concatenate([getattr(one, spec.name) for one in heard]) for spec in fields(cls)))

    @property
    def pieces(self) -> int:
        return int(self.units.shape[0])

    @property
    def frames(self) -> int:
        return int(self.units.shape[2])


class Listener:
    """Hears pieces with a model's encoder and one pitch estimator."""

    def __init__(
        self, ears: Ears, encoder: Encoder, pitch: F0Estimator, watch: Stopwatch, *, f0_name: str, compat: bool
    ) -> None:
        self.ears, self._pitch, self._watch, self._compat = ears, pitch, watch, compat
        self._encoder, self._one_at_a_time = encoder, threading.Lock()
        self._f0_stage = f0_stage_name(f0_name)

    def heard(self, fed: Array, rate: int, options: Conversion, mixing: Mixing | None = None) -> Heard:
        """A padded piece (samples,) at its own rate."""
        with self._watch.running("resampling"):
            audio = sinc_resample(fed, rate, self.ears.sample_rate_hz, single_precision=self._compat)
        hop = self.ears.hop_samples
        frames = len(audio) // hop
        if frames == 0:
            found = f"it is shorter than one frame of {hop} samples, padding included."
            raise InputError("converting a piece", found, "Use more padding (-p 0.5).")
        with self._watch.running(self._f0_stage):
            track, uv = f0_like_upstream(self._pitch, audio, self.ears.sample_rate_hz, hop, options.f0_threshold)
        # In single precision, as upstream's tensors are.
        f0: Array = track.astype(np.float32) * np.float32(2 ** (options.transpose / 12))
        return Heard(
            audio=audio[None],
            units=self.units(audio, frames, mixing),
            f0_hz=f0[None],
            uv=uv[None],
            volume=frame_volume(audio, hop)[None],
        )

    def units(self, audio: Array, frames: int, mixing: Mixing | None = None) -> Array:
        """Content (1, channels, frames) of audio (samples,) at the model's rate."""
        with self._watch.running("resampling"):
            wave = sinc_resample(audio, self.ears.sample_rate_hz, ENCODER_RATE_HZ, single_precision=self._compat)
        with self._watch.running("content encoder"), self._one_at_a_time:
            units = self._checked(self._encoder(wave))
        mode = self.ears.unit_interpolate_mode
        if mixing is not None and mode in COPYING:
            return repeated_units(mixing(units), frames, mode)[None]
        stretched = repeated_units(units, frames, mode)
        return (stretched if mixing is None else mixing(stretched))[None]

    def _checked(self, made: Any) -> Array:
        units = as_array("units of the content encoder", made)
        units = units[0] if units.ndim == 3 and units.shape[0] == 1 else units
        if units.ndim != 2 or units.shape[0] != self.ears.unit_channels or units.shape[1] == 0:
            found = f"the model takes (1, {self.ears.unit_channels}, frames)."
            raise WeightsMismatch(f"units shaped {units.shape}", found, "Use the encoder that it was trained with.")
        return units


def f0_stage_name(method: str) -> str:
    """How reports name the pitch."""
    return f"f0 ({method})"
