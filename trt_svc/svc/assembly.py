"""One recording from what the network made of its pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from trt_svc.errors import InputError
from trt_svc.svc.piece_rules import Joint, PieceRules, piece_rules
from trt_svc.svc.pieces import Piece, PieceSettings, pieces_of
from trt_svc.svc.slicer import SlicerSettings, cut_at_silences
from trt_svc.svc.sound import as_mono, as_sound
from trt_svc.types import Array

Infer = Callable[[Array, int], Array]
"""What the networks make of a padded piece (samples,) at its sample rate: (samples,) at the output's rate."""
Reader = Callable[[int, int], Array]
"""Samples `start` to `stop` of the source, mono."""
_NO_OVERLAP = Joint()


def converted_recording(
    audio: Array,
    sample_rate: int,
    rate_out: int,
    infer: Infer,
    settings: PieceSettings | None = None,
    slicing: SlicerSettings | None = None,
) -> Array:
    """A recording (samples,) or (channels, samples) sliced, sent through `infer` piece by piece and put together."""
    rules = piece_rules(settings or PieceSettings(), sample_rate, rate_out)
    source = as_mono(audio, "converting a recording")
    slices = cut_at_silences(source, sample_rate, slicing)
    pieces = pieces_of(slices, sample_rate, rules.settings)
    blocks = list(converted_blocks(lambda start, stop: source[start:stop], pieces, infer, rules))
    return np.concatenate(blocks)


def converted_blocks(read: Reader, pieces: Iterator[Piece], infer: Infer, rules: PieceRules) -> Iterator[Array]:
    """The same as blocks (samples,) that are done, one per piece and the rest; holds one piece at a time."""
    joiner = Joiner(rules.overlap_samples)
    for piece in pieces:
        yield joiner.add(_converted(read, piece, infer, rules), rules.joint(piece))
    yield joiner.rest()


def _converted(read: Reader, piece: Piece, infer: Infer, rules: PieceRules) -> Array:
    if piece.silent:
        return np.zeros(rules.length(piece), np.float32)
    made = as_sound(infer(rules.fed(read(piece.start, piece.stop)), rules.rate_in), "joining converted pieces")
    if made.ndim != 1:
        found = f"the network's audio has shape {made.shape}."
        raise InputError("joining converted pieces", found, "Return (samples,).")
    return rules.fitted(made, piece)


class Joiner:
    """Joins pieces one after the other and hands out what no later piece can change."""

    def __init__(self, overlap_samples: int) -> None:
        self._kept = overlap_samples
        self._held = np.zeros(0, np.float32)

    def add(self, audio: Array, joint: Joint = _NO_OVERLAP) -> Array:
        """The output that is done now; the end is held back for the next cross-fade."""
        joined = cross_faded(self._held, audio, joint)
        done = max(0, len(joined) - self._kept)
        self._held = joined[done:].copy()
        return joined[:done]

    def rest(self) -> Array:
        """What was held back."""
        rest, self._held = self._held, np.zeros(0, np.float32)
        return rest


def cross_faded(before: Array, after: Array, joint: Joint) -> Array:
    """Two stretches of audio as one: straight ramps over the faded samples, the outer ones dropped."""
    stop = len(before) - joint.dropped_before
    start = stop - joint.faded
    resumed = joint.dropped_after + joint.faded
    if start < 0 or resumed > len(after):
        found = f"pieces of {len(before)} and {len(after)} samples are too short for it."
        advice = "Use a shorter overlap or longer clips, or leave compat off: so-vits-svc cannot do this either."
        raise InputError(f"a cross-fade of {joint}", found, advice)
    ramp = np.linspace(0, 1, joint.faded)
    mixed = before[start:stop] * (1 - ramp) + after[joint.dropped_after : resumed] * ramp
    return np.concatenate([before[:start], mixed.astype(np.float32), after[resumed:]])
