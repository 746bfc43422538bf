"""Phase of the harmonic sources: exact over hours, and rounded like upstream over seconds.

Exact phase is kept in fixed point: an unsigned 64-bit number counts 2**-64 of a cycle and wraps at a whole
cycle by itself. Integer addition is associative, so chunks give the same bits as the whole, and an hour of
audio accumulates less than 1e-7 cycle of error (the rounding of f0 / sample_rate to 2**-52).

Upstream computes in float32 and drifts. To match it sample for sample on ordinary clips its rounding is
followed, but only as far as the drift stays within MAX_DRIFT_CYCLES; from there on the phase runs parallel
to the exact one. Both sums are carried, so this too is the same in chunks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from trt_svc.types import Array, Doubles

Phase = npt.NDArray[np.uint64]

MAX_DRIFT_CYCLES = 4e-5
"""Of the highest harmonic."""


def phase_from_cycles(cycles: Doubles) -> Phase:
    """Cycles, any sign, as fixed-point phase mod 1, in steps of 2**-52 (a double's own resolution)."""
    fraction = cycles - np.floor(cycles)
    return np.asarray(np.round(fraction * 2.0**52).astype(np.uint64) << np.uint64(12), dtype=np.uint64)


def cycles_from_phase(phase: Phase) -> Doubles:
    """Signed cycles in [-0.5, 0.5)."""
    return np.asarray(phase.view(np.int64) * 2.0**-64, dtype=np.float64)


def sine_of(phase: Phase) -> Array:
    """sin(2 pi phase): the top 32 bits read as a signed number are the angle in half turns."""
    half_turns = (phase >> np.uint64(32)).astype(np.uint32).view(np.int32).astype(np.float32)
    return np.asarray(np.sin(half_turns * np.float32(np.pi * 2.0**-31)))


def running_starts(before: Phase, steps: Phase) -> tuple[Phase, Phase]:
    """Running sums along axis 1 as they stand before each step, and behind the last one."""
    ends = before[:, None] + np.cumsum(steps, axis=1, dtype=np.uint64)
    return np.concatenate([before[:, None], ends[:, :-1]], axis=1), ends[:, -1] if steps.shape[1] else before


class RampPhase:
    """A ramp inside each frame on top of a wrapped sum over frames (openvpi, mini).

    Upstream: r = f0 / rate * j (plus a glide), in float32; the sum takes each frame's last r, wrapped.
    """

    def __init__(self, batch: int, rate: float, samples_per_frame: int, highest_harmonic: int) -> None:
        self.rate = rate
        self.samples = samples_per_frame
        self.max_drift = MAX_DRIFT_CYCLES / highest_harmonic
        self._exact = np.zeros(batch, np.uint64)
        self._upstream = np.zeros(batch, np.float64)
        self._n = np.arange(1, samples_per_frame + 1)

    def cycles(self, f0: Array, next_f0: Array | None = None) -> Array:
        """Cycles of the fundamental (B, frames, samples), float32; with `next_f0` each frame glides there."""
        ramp = self._ramp(f0, next_f0)
        return ramp + self.starts(ramp[..., -1], f0, next_f0)[..., None]

    def starts(self, ends: Array, f0: Array, next_f0: Array | None = None) -> Array:
        """Where the ramps of the next frames begin, in cycles (B, frames); `ends` is what each one ends on."""
        exact, self._exact = running_starts(self._exact, self._exact_ends(f0, next_f0))
        wrapped = (np.fmod(ends + np.float32(0.5), np.float32(1)) - np.float32(0.5)).astype(np.float64)
        sums = np.cumsum(np.concatenate([self._upstream[:, None], wrapped], axis=1), axis=1)
        self._upstream = sums[:, -1]
        upstream = np.fmod(sums[:, :-1].astype(np.float32), np.float32(1))
        return self._near_exact(upstream, exact)

    def _ramp(self, f0: Array, next_f0: Array | None) -> Array:
        n, rate = self._n.astype(np.float32), np.float32(self.rate)
        step = f0 / rate
        ramp = step[..., None] * n
        if next_f0 is not None:
            glide = (next_f0 / rate - step) * np.float32(0.5)
            ramp += glide[..., None] * n * (n - np.float32(1)) / np.float32(self.samples)
        return ramp

    def _exact_ends(self, f0: Array, next_f0: Array | None) -> Phase:
        """Advance of the phase over each whole frame."""
        cycles = f0.astype(np.float64) / self.rate
        ends = phase_from_cycles(cycles) * np.uint64(self.samples)
        if next_f0 is not None:
            half_glide = (next_f0.astype(np.float64) / self.rate - cycles) * 0.5
            ends += phase_from_cycles(half_glide) * np.uint64(self.samples - 1)
        return ends

    def _near_exact(self, upstream: Array, exact: Phase) -> Array:
        """Upstream's sum while it is close to the exact one, else the exact one moved by the allowed drift."""
        at = cycles_from_phase(exact)
        drift = upstream - at
        drift -= np.round(drift)
        bounded = at + drift.clip(-self.max_drift, self.max_drift)
        return np.where(np.abs(drift) <= self.max_drift, upstream, bounded.astype(np.float32))


class StepPhase:
    """A running sum over samples of each harmonic's own step (so-vits-svc and its descendants).

    Upstream: step = (f0 * h / rate) mod 1 in float32, summed in double. Per frame and harmonic this is a
    start and a step, both fixed point.
    """

    def __init__(
        self, initial_cycles: Array, rate: float, samples_per_frame: int, smears: bool, rounds_wraps: bool
    ) -> None:
        self.rate = rate
        self.rounds_wraps = rounds_wraps
        self.samples = np.uint64(samples_per_frame)
        self._harmonic = np.arange(1, initial_cycles.shape[1] + 1)
        # Where upstream adds the initial phase before upsampling to samples, every sample of frame 0 gets it.
        initial = phase_from_cycles(initial_cycles.astype(np.float64))
        self._first_cycles = initial_cycles if smears else np.zeros_like(initial_cycles)
        self._exact = np.zeros_like(initial) if smears else initial
        self._upstream = self._exact
        self._n = np.arange(1, samples_per_frame + 1, dtype=np.uint64)

    def sines(self, f0: Array) -> Iterator[Array]:
        """Per harmonic the sine of the next frames (B, frames, samples)."""
        starts, steps = self.tables(f0)
        for h in range(len(self._harmonic)):
            yield sine_of(starts[..., h, None] + steps[..., h, None] * self._n)

    def tables(self, f0: Array) -> tuple[Phase, Phase]:
        """(start, step) of the next frames and every harmonic (B, frames, harmonics)."""
        rounded = f0[..., None] * self._harmonic.astype(np.float32) / np.float32(self.rate)
        if f0.shape[1]:
            rounded[:, 0] += self._first_cycles
        exact_steps = phase_from_cycles(f0.astype(np.float64) / self.rate)[..., None] * self._harmonic.astype(np.uint64)
        if f0.shape[1]:
            exact_steps[:, 0] += phase_from_cycles(self._first_cycles.astype(np.float64))
            self._first_cycles = np.zeros_like(self._first_cycles)
        upstream_steps = phase_from_cycles(rounded.astype(np.float64))
        if self.rounds_wraps:
            upstream_steps += self._wrap_rounding(rounded, upstream_steps)
        upstream, self._upstream = running_starts(self._upstream, upstream_steps * self.samples)
        exact, self._exact = running_starts(self._exact, exact_steps * self.samples)
        last = self._bounded(self._upstream, self._exact)
        drift = np.concatenate([self._bounded(upstream, exact), last[:, None]], axis=1)
        slope = np.diff(drift, axis=1) // int(self.samples)
        return exact + drift[:, :-1].view(np.uint64), exact_steps + slope.view(np.uint64)

    def _wrap_rounding(self, rounded: Array, steps: Phase) -> Phase:
        """The decoder takes 1 off a float32 step at every wrap, which rounds it: spread over the frame's samples."""
        start, _ = running_starts(self._upstream, steps * self.samples)
        advance = (rounded % np.float32(1)).astype(np.float64)
        wraps = np.floor((cycles_from_phase(start) % 1.0) + advance * int(self.samples))
        error = (rounded % np.float32(1) - np.float32(1)).astype(np.float64) - (advance - 1.0)
        return phase_from_cycles(wraps * error / int(self.samples))

    @staticmethod
    def _bounded(upstream: Phase, exact: Phase) -> npt.NDArray[np.int64]:
        limit = int(MAX_DRIFT_CYCLES * 2.0**64)
        return np.asarray((upstream - exact).view(np.int64).clip(-limit, limit))
