"""Where a recording is cut: at silences, so that no phrase is torn and none is too long for a network.

The rules are so-vits-svc's. They count in hops of 20 ms: a silence is a run of hops below the threshold. One of at
least 300 ms cuts if 5 seconds have gone by since the last cut; of one longer than 5 seconds the middle is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from trt_svc.errors import InputError, shown
from trt_svc.svc.loudness import windowed_rms_of_blocks
from trt_svc.svc.sound import as_mono
from trt_svc.types import Array


@dataclass(frozen=True)
class SlicerSettings:
    """When a silence is one, and which silences cut."""

    threshold_db: float = -40.0
    """Quieter hops are silent; -30 for noisy recordings, -50 to keep breaths."""
    shortest_slice_ms: int = 5000
    shortest_silence_ms: int = 300
    hop_ms: int = 20
    kept_silence_ms: int = 5000
    """How much of a silence stays with its neighbours at most."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold_db):
            advice = "Use -40, or a little more for noisy recordings."
            raise InputError("the silence threshold", f"{self.threshold_db} is no level in dB.", advice)
        ordered = self.shortest_slice_ms >= self.shortest_silence_ms >= self.hop_ms >= 1
        if not ordered or self.kept_silence_ms < self.hop_ms:
            found = "a slice must be at least as long as a silence, a silence and what is kept of it as long as a hop."
            raise InputError(f"slicing with {shown(self)}", found, "Leave the lengths out to use the usual ones.")


@dataclass(frozen=True)
class Slice:
    """A stretch of a recording, from sample `start` up to `stop`."""

    start: int
    stop: int
    silent: bool

    @property
    def samples(self) -> int:
        return self.stop - self.start


class UpstreamChunk(TypedDict):
    """How so-vits-svc writes a slice down."""

    slice: bool
    """Is it silent?"""
    split_time: str
    """ "start,stop" in samples"""


def cut_at_silences(audio: Array, sample_rate: int, settings: SlicerSettings | None = None) -> list[Slice]:
    """The slices of a recording (samples,) or (channels, samples), end to end, none of them empty."""
    return cut_blocks_at_silences([audio], sample_rate, settings)


def cut_blocks_at_silences(
    blocks: Iterable[Array], sample_rate: int, settings: SlicerSettings | None = None
) -> list[Slice]:
    """The same of a recording that comes in blocks of any length, which is too long to be held as a whole."""
    return [found for found in all_slices(blocks, sample_rate, settings) if found.samples]


def all_slices(blocks: Iterable[Array], sample_rate: int, settings: SlicerSettings | None = None) -> list[Slice]:
    """The same with the empty silences that stand for a cut without a gap."""
    grid = _Grid.at(sample_rate, settings or SlicerSettings())
    counted = _Counted(blocks)
    levels = windowed_rms_of_blocks(counted, grid.window_samples, grid.hop_samples)
    if counted.samples <= grid.shortest_slice:  # samples against hops, so hardly ever; upstream's, and harmless
        return [Slice(0, counted.samples, silent=False)]
    silences = list(_silences(levels, grid))
    return list(_slices(silences, counted.samples, grid.hop_samples))


def upstream_chunks(slices: list[Slice]) -> dict[str, UpstreamChunk]:
    """The slices as so-vits-svc's dict."""
    return {
        str(number): {"slice": found.silent, "split_time": f"{found.start},{found.stop}"}
        for number, found in enumerate(slices)
    }


class _Counted:
    """Blocks, and how many samples they held together."""

    def __init__(self, blocks: Iterable[Array]) -> None:
        self._blocks = blocks
        self.samples = 0

    def __iter__(self) -> Iterator[Array]:
        for block in self._blocks:
            heard = as_mono(block, "slicing")
            self.samples += len(heard)
            yield heard


@dataclass(frozen=True)
class _Grid:
    """The settings in samples and hops of one recording."""

    threshold: float
    hop_samples: int
    window_samples: int
    shortest_slice: int
    shortest_silence: int
    kept_silence: int

    @classmethod
    def at(cls, sample_rate: int, settings: SlicerSettings) -> _Grid:
        hop_samples = round(sample_rate * settings.hop_ms / 1000)
        if hop_samples < 1:
            raise InputError("slicing", f"the sample rate is {sample_rate} Hz.", "Give the rate of the recording.")
        silence_samples = sample_rate * settings.shortest_silence_ms / 1000

        def hops(milliseconds: float) -> int:
            return round(sample_rate * milliseconds / 1000 / hop_samples)

        return cls(
            threshold=10 ** (settings.threshold_db / 20),
            hop_samples=hop_samples,
            window_samples=max(hop_samples, min(round(silence_samples), 4 * hop_samples)),
            shortest_slice=hops(settings.shortest_slice_ms),
            shortest_silence=hops(settings.shortest_silence_ms),
            kept_silence=hops(settings.kept_silence_ms),
        )


def _silent_runs(levels: Array, threshold: float) -> Iterator[tuple[int, int]]:
    """(first hop, first hop that is not) of every stretch below the threshold."""
    edges = np.diff(np.concatenate([[False], levels < threshold, [False]]).astype(np.int8))
    yield from zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True)


def _silences(levels: Array, grid: _Grid) -> Iterator[tuple[int, int]]:
    """(first, last) hop of every silence that cuts; both the same where nothing is left out."""
    last_cut = 0
    for start, stop in _silent_runs(levels, grid.threshold):
        if stop == len(levels):
            if stop - start >= grid.shortest_silence:
                yield _quietest(levels, start, min(stop, start + grid.kept_silence)), stop + 1
        elif _cuts(start, stop, last_cut, grid):
            first, last_cut = _inner_silence(levels, start, stop, grid.kept_silence)
            yield (0 if start == 0 else first), last_cut


def _cuts(start: int, stop: int, last_cut: int, grid: _Grid) -> bool:
    long_lead = start == 0 and stop > grid.kept_silence
    return long_lead or (stop - start >= grid.shortest_silence and stop - last_cut >= grid.shortest_slice)


def _inner_silence(levels: Array, start: int, stop: int, kept: int) -> tuple[int, int]:
    """(first, last) hop of what is left out of a silence: from its quietest hop near one end to that near the other.

    Where the two searches overlap, both find the same hop or the first one finds an earlier one: no third is needed.
    """
    if stop - start <= kept:
        quietest = _quietest(levels, start, stop)
        return quietest, quietest
    return _quietest(levels, start, start + kept), _quietest(levels, stop - kept, stop)


def _quietest(levels: Array, first: int, last: int) -> int:
    """The quietest hop of these, `last` included."""
    return first + int(levels[first : last + 1].argmin())


def _slices(silences: list[tuple[int, int]], samples: int, hop_samples: int) -> Iterator[Slice]:
    at = 0
    for first, last in silences:
        start, stop = min(first * hop_samples, samples), min(last * hop_samples, samples)
        if start > at:
            yield Slice(at, start, silent=False)
        yield Slice(start, stop, silent=True)
        at = stop
    if at < samples or not silences:
        yield Slice(at, samples, silent=False)
