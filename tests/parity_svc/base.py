"""What a comparison is: an array that upstream made, ours, and how far they may lie apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Tolerance:
    """How far a number may lie from upstream's: a share of that number plus a share of its array's largest one."""

    of_itself: float
    of_the_largest: float

    def allowed(self, expected: np.ndarray) -> np.ndarray:
        size = np.where(np.isfinite(expected), np.abs(expected), 0)
        return self.of_itself * size + self.of_the_largest * size.max(initial=0)

    def __str__(self) -> str:
        if self == EXACT:
            return "exact"
        shares = {"x": self.of_itself, "max": self.of_the_largest}
        return " + ".join(f"{share:.0e} {of}" for of, share in shares.items() if share)


EXACT = Tolerance(0, 0)
NETWORK = Tolerance(1e-4, 2e-5)


@dataclass(frozen=True)
class Comparison:
    """One array of a golden file and the same from our code."""

    case: str
    key: str
    """Its name in the file."""
    made: np.ndarray
    expected: np.ndarray
    tolerance: Tolerance = NETWORK

    @property
    def error(self) -> float:
        """The largest difference over the largest number of the array; infinite for another shape or a lost NaN."""
        size = np.where(np.isfinite(self.expected), np.abs(self.expected), 0)
        return float(self._gap().max(initial=0) / (size.max(initial=0) or 1.0))

    @property
    def of_the_bound(self) -> float:
        """How much of the tolerance is used, at the number where most of it is; above 1 the comparison fails."""
        gap, allowed = self._gap(), self.tolerance.allowed(np.asarray(self.expected))
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(np.where(gap == 0, 0, gap / allowed).max(initial=0))

    def _gap(self) -> np.ndarray:
        """What lies between each two numbers, shaped as expected; infinite where only one of them is finite."""
        made, expected = np.asarray(self.made), np.asarray(self.expected)
        if made.shape != expected.shape:
            return np.full(expected.shape, np.inf)
        with np.errstate(invalid="ignore"):
            gap = np.abs(made.astype(np.float64) - expected)
            alike = (made == expected) | (np.isnan(made) & np.isnan(expected))
        return np.where(alike, 0, np.where(np.isnan(gap), np.inf, gap))


@dataclass(frozen=True)
class Subject:
    """Some arrays of a golden file, by the code that makes them again."""

    name: str
    file: str
    """Without its ending."""
    run: Callable[[Path], Iterator[Comparison]]
    """Given an empty folder for checkpoint files."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Patterns of arrays that upstream was given -> what they are."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Patterns of arrays or cases that are not compared -> why."""
    note: Callable[[], str] | None = None
    """What the document says below the table."""


def as_numbers(value: Any) -> np.ndarray:
    """A tensor, list or array in NumPy."""
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
