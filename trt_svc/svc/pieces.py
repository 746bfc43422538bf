"""From slices to pieces that a network takes in one go.

A slice is one piece, or with `clip_s` several, each of which begins `overlap_s` before the last one ended.
`piece_rules` says what goes into the network for a piece and what is taken of what comes back; `assembly` joins them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from trt_svc.errors import InputError
from trt_svc.svc.slicer import Slice


@dataclass(frozen=True)
class PieceSettings:
    """How slices become pieces; the letters are so-vits-svc's flags."""

    clip_s: float = 0.0
    """-cl: the longest piece, 0 for as long as the slice."""
    overlap_s: float = 0.0
    """-lg: what neighbouring pieces of a slice share."""
    fade_share: float = 0.75
    """-lgr: how much of the overlap is cross-faded; the outer rest of it is dropped."""
    padding_s: float = 0.5
    """-p: silence in front of and behind every piece."""
    compat: bool = False
    """The rules of so-vits-svc to the sample."""

    def __post_init__(self) -> None:
        lengths = {"clip": self.clip_s, "overlap": self.overlap_s, "padding": self.padding_s}
        for name, seconds in lengths.items():
            if not 0 <= seconds < math.inf:
                raise InputError(f"a {name} of {seconds} s", "that is no length.", "Use 0 or more seconds.")
        if not 0 < self.fade_share <= 1:
            found = f"{self.fade_share} is not above 0 and at most 1."
            raise InputError("the cross-faded share of the overlap", found, "Use 0.75.")
        if self.clip_s and self.overlap_s >= self.clip_s:
            found = f"the pieces themselves are {self.clip_s:g} s long."
            raise InputError(f"an overlap of {self.overlap_s:g} s", found, "Use a shorter overlap or longer clips.")


@dataclass(frozen=True)
class Piece:
    """A stretch of the source that goes through the networks in one go, or a silence that does not."""

    start: int
    stop: int
    lead: int = 0
    """Samples at its start that belong to the piece before as well."""
    silent: bool = False

    @property
    def samples(self) -> int:
        return self.stop - self.start


def pieces_of(slices: Iterable[Slice], sample_rate: int, settings: PieceSettings) -> Iterator[Piece]:
    """The pieces of a recording in their order; silent slices stay whole, empty ones are left out."""
    step, overlap = int(settings.clip_s * sample_rate), int(settings.overlap_s * sample_rate)
    if settings.clip_s and step <= overlap:
        found = f"at {sample_rate} Hz that is {step} samples, and the overlap {overlap}."
        raise InputError(f"clips of {settings.clip_s:g} s", found, "Use longer clips.")
    for cut in slices:
        whole = cut.silent or not step
        for start in range(cut.start, cut.stop, max(1, cut.samples) if whole else step):
            lead = overlap if start > cut.start else 0
            stop = cut.stop if whole else min(start + step, cut.stop)
            yield Piece(start - lead, stop, lead, cut.silent)
