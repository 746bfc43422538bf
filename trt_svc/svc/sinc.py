"""The windowed-sinc resampler in front of so-vits-svc's networks (torchaudio's `sinc_interp_hann`), in NumPy.

Its transition band is wide enough to hear and its first and last samples see silence, so recordings resampled with
anything else (`trt_svc.audio.resample` is the better one) do not give the network what it knows.

Output sample `m` of a conversion from `old` to `new` (rates without their common divisor) looks at input samples
around `m * old / new`. The weights repeat every `new` outputs, one set per phase. Phases that lie close together share
one matrix of moderate size: a conversion is a matrix product per group, and odd ratios need no huge kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from trt_svc.errors import InputError, shown
from trt_svc.svc.sound import as_sound
from trt_svc.types import Array

ROLLOFF = 0.99
DEFAULT_WIDTH = 6
"""Zero crossings on each side for recordings and encoders."""
WIDE_WIDTH = 128
"""The same for mels, the enhancer, rmvpe and fcpe."""
SAMPLES_PER_BLOCK = 1 << 15
_GROUP_INPUTS = 256
"""Input samples that the phases of a group may lie apart."""
_MAX_RATE = 1_000_000


@dataclass(frozen=True)
class _Group:
    """The weights of neighbouring phases."""

    first_phase: int
    first_tap: int
    """Where its window begins, in input samples after the start of the frame; may be negative."""
    weights: Array
    """(phases, taps)"""


@dataclass(frozen=True)
class SincKernel:
    """All weights of one conversion."""

    old: int
    new: int
    """A frame is `old` samples in and `new` out: the rates over their greatest common divisor, or a multiple."""
    reach: int
    """Input samples that an output sample sees before and after itself."""
    groups: tuple[_Group, ...]

    def frames(self, held: Array, count: int) -> Array:
        """(channels, count * new) from (channels, >= reach + count * old + reach); `reach` samples lead the first."""
        made = np.empty((held.shape[0], count, self.new), np.float32)
        for group in self.groups:
            phases, taps = group.weights.shape
            start = self.reach + group.first_tap
            windows = sliding_window_view(held[:, start:], taps, axis=1)[:, :: self.old][:, :count]
            into = made[:, :, group.first_phase : group.first_phase + phases]
            np.matmul(np.ascontiguousarray(windows), group.weights.T, out=into)
        return made.reshape(len(held), -1)


@lru_cache(maxsize=8)
def sinc_kernel(rate_in: int, rate_out: int, lowpass_filter_width: int = DEFAULT_WIDTH) -> SincKernel:
    """The weights from one rate to another."""
    _checked(rate_in, rate_out, lowpass_filter_width)
    divisor = math.gcd(rate_in, rate_out)
    old, new = rate_in // divisor, rate_out // divisor
    cutoff = min(old, new) * ROLLOFF
    reach = math.ceil(lowpass_filter_width * old / cutoff)
    repeats = max(1, _GROUP_INPUTS // old)
    phases, size = new * repeats, max(1, _GROUP_INPUTS * new // old)
    groups = (
        _group(np.arange(first, min(first + size, phases)), old, new, cutoff, lowpass_filter_width)
        for first in range(0, phases, size)
    )
    return SincKernel(old * repeats, phases, reach, tuple(groups))


def _group(phases: np.ndarray, old: int, new: int, cutoff: float, width: int) -> _Group:
    half = width * old / cutoff
    first_tap = math.ceil(phases[0] * old / new - half)
    last_tap = math.floor(phases[-1] * old / new + half)
    taps = np.arange(first_tap, last_tap + 1) - (phases // new * old)[:, None]
    # The phase is in single precision, as in torchaudio: at steep ratios that is most of what tells the two apart.
    phase = (-(phases % new).astype(np.float32) / np.float32(new)).astype(np.float64)
    times = np.clip((phase[:, None] + taps / old) * cutoff, -width, width)
    window = np.cos(times * math.pi / width / 2) ** 2
    weights = np.sinc(times) * window * (cutoff / old)
    return _Group(int(phases[0]), first_tap, weights.astype(np.float32))


def resampled_length(samples: int, rate_in: int, rate_out: int, single_precision: bool = False) -> int:
    """Samples that come out: the exact length rounded up.

    With `single_precision` the length is rounded to float32 first, as torchaudio does, which loses the last
    sample of some recordings longer than a few seconds.
    """
    divisor = math.gcd(rate_in, rate_out)
    old, new = rate_in // divisor, rate_out // divisor
    if single_precision:
        return min(int(np.ceil(np.float32(new * samples / old))), (samples // old + 1) * new)
    return -(-new * samples // old)


def sinc_resample(
    audio: Array,
    rate_in: int,
    rate_out: int,
    lowpass_filter_width: int = DEFAULT_WIDTH,
    single_precision: bool = False,
) -> Array:
    """Audio (..., samples) at another rate; the audio itself where the rates are the same.

    `single_precision` is about the length alone, see `resampled_length`.
    """
    audio = as_sound(audio, "resampling")
    _checked(rate_in, rate_out, lowpass_filter_width)
    if rate_in == rate_out:
        return audio
    length = resampled_length(audio.shape[-1], rate_in, rate_out, single_precision)
    made = np.empty((math.prod(audio.shape[:-1]), length), np.float32)
    flat = audio.reshape(len(made), audio.shape[-1])
    at = 0
    for block in sinc_resampled_blocks(_cut(flat), rate_in, rate_out, lowpass_filter_width, single_precision):
        made[:, at : at + block.shape[1]] = block
        at += block.shape[1]
    return made.reshape(*audio.shape[:-1], length)


def sinc_resampled_blocks(
    blocks: Iterable[Array],
    rate_in: int,
    rate_out: int,
    lowpass_filter_width: int = DEFAULT_WIDTH,
    single_precision: bool = False,
) -> Iterator[Array]:
    """Blocks (channels, any number of samples) at another rate; how they were cut changes not one sample."""
    _checked(rate_in, rate_out, lowpass_filter_width)
    if rate_in == rate_out:
        yield from blocks
        return
    kernel = sinc_kernel(rate_in, rate_out, lowpass_filter_width)
    count = max(1, SAMPLES_PER_BLOCK // max(kernel.old, kernel.new))
    step, lead, needed = count * kernel.old, kernel.reach, count * kernel.old + 2 * kernel.reach
    held = np.zeros((0, lead), np.float32)
    taken = given = 0
    for block in blocks:
        held = np.zeros((len(block), lead), np.float32) if taken == 0 else held
        held = np.concatenate([held, block], axis=1)
        taken += block.shape[1]
        while held.shape[1] >= needed:
            yield kernel.frames(held[:, :needed], count)
            given += count * kernel.new
            held = held[:, step:]
    left = resampled_length(taken, rate_in, rate_out, single_precision) - given
    while left > 0:
        window = held[:, :needed]
        yield kernel.frames(np.pad(window, ((0, 0), (0, needed - window.shape[1]))), count)[:, :left]
        left -= count * kernel.new
        held = held[:, step:]


def _cut(flat: Array) -> Iterator[Array]:
    for start in range(0, flat.shape[1], SAMPLES_PER_BLOCK):
        yield flat[:, start : start + SAMPLES_PER_BLOCK]


def _checked(rate_in: int, rate_out: int, lowpass_filter_width: int) -> None:
    for name, value in (("sample rate", rate_in), ("sample rate", rate_out), ("filter width", lowpass_filter_width)):
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not whole or not 1 <= value <= _MAX_RATE:
            advice = f"Use whole numbers from 1 to {_MAX_RATE}."
            raise InputError("resampling", f"{shown(value)} is no {name}.", advice)
