"""What goes into the network for a piece, and what is taken of what comes back: two sets of rules.

`UpstreamRules` are so-vits-svc's to the sample, with what goes wrong there:

- a piece is quantised to 16 bits on its way into the network;
- of what comes back the padding is cut off both ends, and the rest is centred between zeros: networks work in whole
  frames, so the sound moves by up to half a frame; without padding (`-p 0`) nothing of it is left;
- lengths are computed in floating point, one by one, and rounded up: a recording may come out some samples longer;
- the overlap is counted in source samples and used on output samples, so that at different rates too much or too
  little is cross-faded and what is sung there comes twice or gets lost.

`AlignedRules`, the default, feed the samples as they are, take the sound from where it belongs, count the overlap at
the rate where it is used, and round positions in the recording instead of lengths: an hour keeps its length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from trt_svc.errors import InputError
from trt_svc.svc.pieces import Piece, PieceSettings
from trt_svc.types import Array

LENGTHS_PER_S = 4
"""Into how many different lengths the networks' pieces fall per second."""


@dataclass(frozen=True)
class Joint:
    """What becomes of the end of one piece and the start of the next, in output samples."""

    dropped_before: int = 0
    faded: int = 0
    dropped_after: int = 0

    @classmethod
    def of(cls, overlap: int, fade_share: float) -> Joint:
        """A cross-fade in the middle of an overlap."""
        faded = int(overlap * fade_share)
        dropped_after = (overlap - faded) // 2
        return cls(overlap - faded - dropped_after, faded, dropped_after)


class PieceRules(Protocol):
    """Between a recording at `rate_in` and the network, and between the network and an output at `rate_out`."""

    @property
    def settings(self) -> PieceSettings:
        """What they follow."""

    @property
    def rate_in(self) -> int:
        """Sample rate of the source."""

    @property
    def rate_out(self) -> int:
        """Sample rate of the output."""

    @property
    def overlap_samples(self) -> int:
        """The longest overlap of two pieces in the output."""

    def length(self, piece: Piece) -> int:
        """Output samples of a piece, its lead included."""

    def joint(self, piece: Piece) -> Joint:
        """How the piece is joined to the one before."""

    def fed(self, audio: Array) -> Array:
        """The samples of a piece as the network gets them, padding included."""

    def fitted(self, made: Array, piece: Piece) -> Array:
        """The output of a piece, its lead included, from what the network made of `fed`."""


@dataclass(frozen=True)
class AlignedRules:
    """The default: every sample stays where it belongs."""

    settings: PieceSettings
    rate_in: int
    rate_out: int

    @property
    def overlap_samples(self) -> int:
        return math.ceil(self.settings.overlap_s * self.rate_out) + 1

    def length(self, piece: Piece) -> int:
        return self._place(piece.stop) - self._place(piece.start)

    def joint(self, piece: Piece) -> Joint:
        overlap = self._place(piece.start + piece.lead) - self._place(piece.start)
        return Joint.of(overlap, self.settings.fade_share)

    def fed(self, audio: Array) -> Array:
        padding, step = int(self.settings.padding_s * self.rate_in), max(1, self.rate_in // LENGTHS_PER_S)
        # More silence behind it: few lengths mean fewer kernels to prepare, and pieces that fit into one batch.
        return np.pad(audio, (padding, padding + -(len(audio) + 2 * padding) % step))

    def fitted(self, made: Array, piece: Piece) -> Array:
        # What the network returns begins between two samples of the output: the nearer one is taken.
        fed_from = piece.start - int(self.settings.padding_s * self.rate_in)
        start = self._place(piece.start) - round(fed_from * self.rate_out / self.rate_in)
        length = self.length(piece)
        sound = made[start : start + length]
        return np.pad(sound, (0, length - len(sound)))

    def _place(self, sample: int) -> int:
        """Where a sample of the source lies in the output; the end of a recording is rounded up."""
        return -(-sample * self.rate_out // self.rate_in)


@dataclass(frozen=True)
class UpstreamRules:
    """so-vits-svc's."""

    settings: PieceSettings
    rate_in: int
    rate_out: int

    @property
    def overlap_samples(self) -> int:
        return int(self.settings.overlap_s * self.rate_in)

    def length(self, piece: Piece) -> int:
        return math.ceil(piece.samples / self.rate_in * self.rate_out)

    def joint(self, piece: Piece) -> Joint:
        return Joint.of(piece.lead, self.settings.fade_share)

    def fed(self, audio: Array) -> Array:
        return through_16_bits(np.pad(audio, int(self.settings.padding_s * self.rate_in)))

    def fitted(self, made: Array, piece: Piece) -> Array:
        padding = int(self.settings.padding_s * self.rate_out)
        sound = made[padding:-padding]  # nothing where the padding is 0
        missing = max(0, self.length(piece) - len(sound))
        return np.pad(sound, (missing // 2, missing - missing // 2))


def piece_rules(settings: PieceSettings, rate_in: int, rate_out: int) -> PieceRules:
    """The rules that the settings ask for."""
    if min(rate_in, rate_out) < 1:
        found = f"the sample rates are {rate_in} and {rate_out} Hz."
        raise InputError("cutting a recording into pieces", found, "Give the rates of the source and of the model.")
    kind = UpstreamRules if settings.compat else AlignedRules
    return kind(settings, rate_in, rate_out)


def through_16_bits(audio: Array) -> Array:
    """The audio after a way through a 16-bit WAV: clipped, and rounded as libsndfile does it.

    That scales to 32 bits, rounds, and drops the lower 16: in effect always downwards.
    """
    wide = np.clip(np.rint(audio.astype(np.float64) * 2.0**31), -(2.0**31), 2.0**31 - 1)
    return ((wide.astype(np.int64) >> 16) / 2.0**15).astype(np.float32)
