"""The rows of a table nearest to points, fast and exact.

Distances are compared in float32 by one matrix product. Wherever its rounding leaves more than one row possible,
which the bound of that rounding says, those rows are compared in float64.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from trt_svc.types import Array, Doubles

Integers = npt.NDArray[np.int64]
LARGEST = 1e9
"""Beyond it are no features, and squares would come near the end of float32."""
SCORES_AT_ONCE = 1 << 22
"""Distances held at a time: 16 MB."""
ROWS_AT_ONCE = 1 << 12


def is_plausible(values: npt.NDArray[np.floating]) -> bool:
    """No NaN, no infinity, nothing absurd; without a copy."""
    return values.size == 0 or bool(values.min() > -LARGEST and values.max() < LARGEST)


def squared_distances(point: Array, rows: Array) -> Doubles:
    """(rows,) squared L2 distance from one point, in float64."""
    target, found = point.astype(np.float64), np.empty(len(rows))
    for at in range(0, len(rows), ROWS_AT_ONCE):
        gaps = rows[at : at + ROWS_AT_ONCE] - target
        found[at : at + ROWS_AT_ONCE] = np.einsum("kc,kc->k", gaps, gaps)
    return found


class RowTable:
    """Rows (count, channels) prepared for being searched."""

    def __init__(self, rows: Array) -> None:
        self._rows = rows
        norms = np.einsum("kc,kc->k", rows, rows, dtype=np.float64)
        self._half_norms = (0.5 * norms).astype(np.float32)
        self._longest = math.sqrt(float(norms.max()))

    def nearest(self, points: Array) -> Integers:
        """(points,) the row with the smallest squared distance to each point, the first of equals."""
        at_once = max(1, SCORES_AT_ONCE // len(self._rows))
        blocks = [self._nearest(points[at : at + at_once]) for at in range(0, len(points), at_once)]
        return np.concatenate(blocks)

    def _nearest(self, points: Array) -> Integers:
        # |x - r|² / 2 without |x|² / 2, which is the same for all rows.
        scores = np.matmul(points, self._rows.T)
        np.subtract(self._half_norms, scores, out=scores)
        limit = scores.min(axis=1).astype(np.float64) + 2 * self._rounding(points)
        possible = scores <= limit[:, None]
        found: Integers = possible.argmax(axis=1).astype(np.int64)
        for i in np.flatnonzero(np.count_nonzero(possible, axis=1) > 1):
            rows = np.flatnonzero(possible[i])
            found[i] = rows[squared_distances(points[i], self._rows[rows]).argmin()]
        return found

    def _rounding(self, points: Array) -> Doubles:
        """(points,) how far a score can be off: the bound for a sum of products in any order."""
        lengths = np.sqrt(np.einsum("pc,pc->p", points, points, dtype=np.float64))
        unit = float(np.finfo(np.float32).eps) / 2
        bound: Doubles = (points.shape[1] + 4) * unit * self._longest * (lengths + self._longest)
        return bound
