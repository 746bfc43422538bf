"""From the salience of pitch bins, which neural estimators answer with, to Hz."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from trt_svc.types import Array, Doubles

BINS = 360
CENTS_PER_BIN = 20.0
FIRST_CENT = 1997.3794084376191
"""The lowest bin, in cents above 10 Hz: 31.7 Hz."""
REACH_BINS = 4
LOWEST_HZ = 10.0

CREPE_CENTS: Doubles = FIRST_CENT + CENTS_PER_BIN * np.arange(BINS, dtype=np.float64)
"""The bins of CREPE and RMVPE."""


def hz_from_cents(cents: Doubles) -> Doubles:
    return np.asarray(LOWEST_HZ * 2.0 ** (cents / 1200), np.float64)


def cents_from_hz(hz: float) -> float:
    return float(1200 * np.log2(hz / LOWEST_HZ))


def local_cents(
    salience: Array, centres: npt.NDArray[np.int64], cents: Doubles, edge: Literal["drop", "repeat"]
) -> Doubles:
    """Mean pitch (frames,) of the bins around the centres, weighted by salience (frames, bins).

    Beyond the first and last bin, RMVPE sees nothing ("drop") and FCPE the last bin again ("repeat").
    """
    reach = centres[:, None] + np.arange(-REACH_BINS, REACH_BINS + 1)
    bins = np.clip(reach, 0, len(cents) - 1)
    weights = np.take_along_axis(salience, bins, axis=1).astype(np.float64)
    if edge == "drop":
        weights[bins != reach] = 0.0
    total = weights.sum(axis=1)
    # Where nothing at all is salient, the threshold decides anyway.
    return np.asarray((weights * cents[bins]).sum(axis=1) / np.where(total == 0, 1.0, total), np.float64)


def voiced_hz(salience: Array, threshold: float, cents: Doubles, edge: Literal["drop", "repeat"]) -> Doubles:
    """f0 (frames,) around the most salient bin of (frames, bins); 0 where that reaches no more than the threshold."""
    found = hz_from_cents(local_cents(salience, salience.argmax(axis=1), cents, edge))
    return np.where(salience.max(axis=1) > threshold, found, 0.0)
