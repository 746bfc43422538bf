"""The resampler whose numbers CREPE is used with: resampy's "kaiser_best", a windowed sinc read from a table.

The table is read in whole steps, which makes the filter a little too loud and too wide. That is kept: torchcrepe's
numbers are made with it (J. O. Smith's algorithm, https://ccrma.stanford.edu/~jos/resample/).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from trt_svc.types import Array, Doubles

ZERO_CROSSINGS = 64
TABLE_STEPS = 512
"""Entries per zero crossing."""
ROLLOFF = 0.9475937167399596
BETA = 14.769656459379492


@lru_cache(maxsize=1)
def _table() -> Doubles:
    """Half of the filter, its middle first."""
    entries = ZERO_CROSSINGS * TABLE_STEPS
    sinc = ROLLOFF * np.sinc(ROLLOFF * np.linspace(0, ZERO_CROSSINGS, entries + 1))
    return np.asarray(sinc * np.kaiser(2 * entries + 1, BETA)[entries:], np.float64)


def _wing(delay: float, scale: float, taps: int) -> Doubles:
    """Weights (taps,) of the samples on one side; the first of them is `delay` input samples away, times `scale`."""
    table = _table()
    place = delay * TABLE_STEPS
    first = int(place)
    reads = first + int(scale * TABLE_STEPS) * np.arange(taps)
    inside = reads < len(table)
    reads = np.where(inside, reads, 0)
    slope = np.append(np.diff(table), 0.0)
    return np.where(inside, table[reads] + (place - first) * slope[reads], 0.0)


def resample_kaiser(audio: Array, rate_in: int, rate_out: int) -> Array:
    """Audio (samples,) at another rate; the length is rounded down."""
    if rate_in == rate_out:
        return audio
    divisor = math.gcd(rate_in, rate_out)
    phases, step = rate_out // divisor, rate_in // divisor
    scale = min(1.0, rate_out / rate_in)
    taps = ZERO_CROSSINGS * TABLE_STEPS // max(1, int(scale * TABLE_STEPS)) + 1
    made = np.zeros(len(audio) * rate_out // rate_in, np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(np.asarray(audio, np.float64), taps), 2 * taps)
    for phase in range(min(phases, len(made))):
        # Every `phases`-th sample falls on the same place between two samples of the input.
        before, part = divmod(phase * step, phases)
        delay = scale * part / phases
        weights = np.concatenate([_wing(delay, scale, taps)[::-1], _wing(scale - delay, scale, taps)])
        count = len(range(phase, len(made), phases))
        made[phase::phases] = windows[before + 1 :: step][:count] @ weights * scale
    return made
