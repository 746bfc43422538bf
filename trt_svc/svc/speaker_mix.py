"""Speakers mixed over time: how much of each is heard in every frame.

A map gives every speaker segments `[start, stop, from, to]`: start and stop as shares of the recording, the weight
going straight from one value to the other. A speaker's segments follow each other without a gap from 0 to 1.
The weights of a frame are divided by their sum; where all are 0, every speaker of the map has the same.

so-vits-svc counts out frames before it knows them, with the padding of each piece at the source's rate: on sources
below the model's rate it runs out of weights and fails, and it fails on maps of one speaker. Here a frame asks for
the weights at its own place in the recording, so any rate and any number of speakers works.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from trt_svc.errors import InputError, shown
from trt_svc.registry import did_you_mean
from trt_svc.svc.piece_rules import PieceRules
from trt_svc.svc.pieces import Piece
from trt_svc.types import Array, Doubles

_TOUCHING = 1e-6
"""How far the end of a segment may be from the start of the next."""
_EXAMPLE = "Write [[start, stop, from, to], ...], for example [[0, 0.5, 1, 0], [0.5, 1, 0, 1]]."


@dataclass(frozen=True)
class Segment:
    """The weight of one speaker over one stretch of the recording."""

    start: float
    stop: float
    first: float
    last: float


@dataclass(frozen=True)
class SpeakerMix:
    """The weights of all speakers over a recording; `speaker_mix` makes and checks one."""

    segments: Mapping[int, tuple[Segment, ...]]
    """By speaker id."""
    speakers: int
    """Speakers of the model."""

    def weights(self, places: Doubles) -> Array:
        """(speakers, len(places)): the weights at `places` (0 to 1) of the recording; every column sums to 1."""
        made = np.zeros((self.speakers, len(places)))
        for speaker, segments in self.segments.items():
            starts = np.array([segment.start for segment in segments])
            found = np.clip(np.searchsorted(starts, places, side="right") - 1, 0, len(segments) - 1)
            start, stop, first, last = np.array([_numbers(segment) for segment in segments])[found].T
            made[speaker] = first + (last - first) * np.clip((places - start) / (stop - start), 0, 1)
        return self._shared_out(made)

    def frame_weights(self, frames: int) -> Array:
        """(speakers, frames) as so-vits-svc tabulates them: segments begin and end at whole frames, rounded down."""
        made = np.zeros((self.speakers, frames))
        for speaker, segments in self.segments.items():
            for segment in segments:
                start, stop = int(frames * segment.start), int(frames * segment.stop)
                share = np.arange(stop - start) / max(1, stop - start)
                made[speaker, start:stop] = segment.first + (segment.last - segment.first) * share
        return self._shared_out(made)

    def _shared_out(self, weights: Doubles) -> Array:
        total = weights.sum(axis=0)
        listed = np.zeros((self.speakers, 1))
        listed[list(self.segments)] = 1 / len(self.segments)
        return np.where(total > 0, weights / np.where(total > 0, total, 1), listed).astype(np.float32)


def frame_places(piece: Piece, frames: int, hop_samples: int, rules: PieceRules, source_samples: int) -> Doubles:
    """(frames,): where in the recording (0 to 1) the frames of a piece lie, those of its padding included."""
    padding_s = int(rules.settings.padding_s * rules.rate_in) / rules.rate_in
    seconds = np.arange(frames) * hop_samples / rules.rate_out - padding_s + piece.start / rules.rate_in
    return np.clip(seconds * rules.rate_in / max(1, source_samples), 0, 1)


def upstream_frames(pieces: Iterable[Piece], slices: int, hop_samples: int, rules: PieceRules) -> int:
    """How many frames so-vits-svc tabulates for a recording of so many slices, which its pieces use up in order.

    It takes the padding at the source's rate, so that below the model's rate these are too few.
    """
    padding = 2 * int(rules.settings.padding_s * rules.rate_in)
    lengths = (rules.length(piece) + (0 if piece.silent else padding) for piece in pieces)
    return slices + sum(length // hop_samples for length in lengths)


def speaker_mix(
    given: Mapping[int | str, Sequence[Sequence[float]]], speakers: int, ids: Mapping[str, int] | None = None
) -> SpeakerMix:
    """The mix that a map describes, for a model of so many speakers; `ids` are their names.

    Speakers that the map leaves out are silent.
    """
    if not isinstance(given, Mapping) or not given:
        raise InputError("mixing speakers", f"the map is {shown(given)}.", "Give segments for at least one speaker.")
    found: dict[int, tuple[Segment, ...]] = {}
    for key, segments in given.items():
        speaker = _speaker(key, speakers, ids or {})
        if speaker in found:
            raise InputError("mixing speakers", f"speaker {speaker} is in the map twice.", "Join the entries.")
        found[speaker] = _segments(segments, f"mixing speaker {shown(key)}")
    return SpeakerMix(found, speakers)


def _speaker(key: int | str, speakers: int, ids: Mapping[str, int]) -> int:
    asked = f"mixing speaker {shown(key)}"
    if isinstance(key, str) and key in ids:
        speaker = ids[key]
    elif isinstance(key, str) and not (key.isascii() and key.isdigit()):
        raise InputError(asked, "the model has none of that name.", did_you_mean(key, list(ids) or ["0"]))
    elif isinstance(key, (int, str)) and not isinstance(key, bool):
        speaker = int(key)
    else:
        raise InputError(asked, "that is neither a name nor a number.", "Use the names of config.json.")
    if not 0 <= speaker < speakers:
        raise InputError(asked, f"the model has {speakers} speakers.", f"Use ids from 0 to {speakers - 1}.")
    return speaker


def _segments(given: Sequence[Sequence[float]], asked: str) -> tuple[Segment, ...]:
    try:
        segments = tuple(Segment(*(float(number) for number in row)) for row in given)
    except (TypeError, ValueError, OverflowError) as err:
        raise InputError(asked, f"{shown(given)} is no list of segments.", _EXAMPLE) from err
    if not segments:
        raise InputError(asked, "there are no segments.", _EXAMPLE)
    for segment in segments:
        _check(segment, asked)
    edges = [(0.0, segments[0].start)]
    edges += [(one.stop, other.start) for one, other in pairwise(segments)]
    for expected, start in [*edges, (1.0, segments[-1].stop)]:
        if abs(expected - start) > _TOUCHING:
            found = f"the segments do not cover the recording: {expected:g} and {start:g} should be the same."
            raise InputError(asked, found, "Let them follow each other from 0 to 1 without gaps.")
    return segments


def _check(segment: Segment, asked: str) -> None:
    numbers = _numbers(segment)
    if not all(math.isfinite(number) for number in numbers) or min(segment.first, segment.last) < 0:
        raise InputError(asked, f"{list(numbers)} has a weight or time that is negative or no number.", _EXAMPLE)
    if not 0 <= segment.start < segment.stop <= 1:
        raise InputError(asked, f"{list(numbers)} does not run forwards within 0 to 1.", _EXAMPLE)


def _numbers(segment: Segment) -> tuple[float, float, float, float]:
    return segment.start, segment.stop, segment.first, segment.last
