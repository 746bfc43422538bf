"""The source of NSF vocoders made on the GPU: phase, harmonics, noise, merging layer and tanh in one kernel.

What is exact stays on the host: where the phase of every frame begins (`trt_svc.phase`; a few numbers per frame).
The noise is that of `trt_svc.noise`, number by number, so audio does not depend on who made the source.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trt_svc.errors import InputError
from trt_svc.excitation import (
    SINE_AMPLITUDE,
    UNVOICED_NOISE,
    VOICED_NOISE,
    Excitation,
    GlideExcitation,
    HarmonicExcitation,
    HarmonicRun,
)
from trt_svc.kernels import launch
from trt_svc.kernels.variants import LANES, Variant
from trt_svc.noise import Noise, stream_key
from trt_svc.phase import RampPhase
from trt_svc.types import Array

SAMPLES = 8
"""That a lane makes: their noise is a whole number of blocks of the generator."""
SHIPPED_HARMONICS = (9, 1)
"""NSF-HiFiGAN and so-vits-svc; RVC."""

Numbers = npt.NDArray[np.generic]


def supports(excitation: Excitation, noise: Noise) -> bool:
    """Can the kernel make this source? Not from noise that the caller brought, nor with frames of odd lengths."""
    if isinstance(excitation, GlideExcitation):
        return True
    if type(excitation) is not HarmonicExcitation or "sine_noise" in noise.given:
        return False
    return excitation.samples_per_frame % SAMPLES == 0 and excitation.harmonics in SHIPPED_HARMONICS


def run(excitation: Excitation, f0: Array, noise: Noise, device: torch.device | str) -> Tensor:
    """The source of a whole utterance, (B, 1, samples) float32; `f0` is (B, frames) in Hz, on the host."""
    if not supports(excitation, noise):
        found = "the fused kernel cannot make this one."
        raise InputError("a source on the GPU", found, "Ask nsf_source.supports() first; the host makes every source.")
    if isinstance(excitation, GlideExcitation):
        return _glide(excitation, f0, torch.device(device))
    assert isinstance(excitation, HarmonicExcitation)
    return HarmonicSource(excitation, noise, device).next(f0)


def reference(excitation: Excitation, f0: Array, noise: Noise) -> Tensor:
    return torch.from_numpy(excitation.begin(noise).push(f0, f0.shape[1])["source"])


class HarmonicSource(HarmonicRun):
    """One utterance of a nine-harmonic source in progress: frames go in in order."""

    def __init__(self, excitation: HarmonicExcitation, noise: Noise, device: torch.device | str) -> None:
        super().__init__(excitation, noise)
        self._device = torch.device(device)

    def next(self, f0: Array) -> Tensor:
        """The source of the next frames."""
        excitation = self.excitation
        batch, frames = f0.shape
        segments_per_frame = excitation.samples_per_frame // SAMPLES
        segments = frames * segments_per_frame
        first, self._frame = self._frame, self._frame + frames
        weight = excitation.weight.astype(np.float32)
        arrays = [*self._phases(f0), f0, weight, self._keys(), self._begins(first) * segments_per_frame]
        tensors = [_moved(array, self._device) for array in arrays]
        lanes = batch * segments
        amplitudes = (excitation.bias, SINE_AMPLITUDE, VOICED_NOISE, UNVOICED_NOISE)
        out = torch.empty((batch, 1, segments * SAMPLES), dtype=torch.float32, device=self._device)
        chosen = _harmonic(self._ramp is not None, excitation.harmonics)
        launch.start(chosen, lanes, *tensors, lanes, segments, segments_per_frame, *amplitudes, out)
        return out

    def _phases(self, f0: Array) -> list[Numbers]:
        """Where each frame begins, its step, and the harmonics' offsets where the two do not hold them."""
        if self._ramp is None:
            starts, steps = self._steps.tables(f0)
            return [starts.view(np.int64), steps.view(np.int64)]
        advance = f0 / np.float32(self.excitation.sample_rate)
        ends = advance * np.float32(self.excitation.samples_per_frame)
        return [self._ramp.starts(ends, f0), advance, self._initial]

    def _keys(self) -> Numbers:
        """Of the generator, one per row."""
        keys = [(seed, stream_key("sine_noise")) for seed, _ in self.noise.places]
        return np.array(keys, np.uint64).view(np.int64)

    def _begins(self, first: int) -> npt.NDArray[np.int64]:
        """The frame of the whole recording at which these frames begin, one per row."""
        return np.array([place + first for _, place in self.noise.places], np.int64)


def _glide(excitation: GlideExcitation, f0: Array, device: torch.device) -> Tensor:
    batch, frames = f0.shape
    samples = excitation.samples_per_frame
    following = np.concatenate([f0[:, 1:], f0[:, -1:]], axis=1)
    rate = np.float32(excitation.sample_rate)
    step = f0 / rate
    glide = (following / rate - step) * np.float32(0.5)
    n = np.float32(samples)
    ends = step * n + glide * n * (n - np.float32(1)) / n
    starts = RampPhase(batch, excitation.sample_rate, samples, highest_harmonic=1).starts(ends, f0, following)
    out = torch.empty((batch, 1, frames * samples), dtype=torch.float32, device=device)
    tensors = [_moved(array, device) for array in (starts, step, glide)]
    lanes = batch * frames * samples
    launch.start(_gliding(), lanes, *tensors, lanes, samples, out)
    return out


def _moved(array: Numbers, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


@cache
def _harmonic(ramps: bool, harmonics: int) -> Variant:
    phases = ("*fp32", "*fp32", "*fp32") if ramps else ("*i64", "*i64")
    types = [
        *zip(("starts", "steps", "initial"), phases, strict=False),
        *(("f0", "*fp32"), ("weight", "*fp32"), ("keys", "*i64"), ("begins", "*i64")),
        *((name, "i32") for name in ("lanes", "segments", "segments_per_frame")),
        *((name, "fp32") for name in ("bias", "tone", "hiss", "unvoiced")),
        ("out", "*fp32"),
    ]
    constants = {"HARMONICS": harmonics, "SAMPLES": SAMPLES, "LANES": LANES}
    program = "ramp_source" if ramps else "step_source"
    # The ramp's rounding is upstream's, product by product.
    return Variant("nsf_source", program, tuple(types), tuple(constants.items()), "fp32", fuses=not ramps)


def _gliding() -> Variant:
    pointers = [(name, "*fp32") for name in ("starts", "steps", "glides")]
    types = [*pointers, ("lanes", "i32"), ("samples_per_frame", "i32"), ("out", "*fp32")]
    return Variant("nsf_source", "glide_source", tuple(types), (("LANES", LANES),), "fp32", fuses=False)


def variants() -> list[Variant]:
    return [_gliding(), *(_harmonic(ramps, n) for ramps in (False, True) for n in SHIPPED_HARMONICS)]
