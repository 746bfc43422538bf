"""The pitch of recordings of any length: one piece after the other, joined where both neighbours know the context."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trt_svc.features.f0.base import PitchTrack
from trt_svc.types import Array, Doubles

# Multiples of 80 ms, on which frames of 5, 10 and 16 ms start together.
WHOLE_S = 90.0
BLOCK_S = 60.0
OVERLAP_S = 3.2
"""Context on each side of a block, analysed and not used."""


class PitchBlocks:
    """The tracks of all channels of audio that arrives in blocks; how it was cut makes no difference.

    Up to `WHOLE_S` seconds are estimated in one go. Of longer recordings, every `BLOCK_S` seconds are estimated
    with context; the piece that ends the recording is never shorter than `WHOLE_S - BLOCK_S`.
    """

    def __init__(self, estimate: Callable[[Array, int], PitchTrack], sample_rate: int) -> None:
        self._estimate = estimate
        self._rate = sample_rate
        self._held: list[Array] = []
        self._taken = self._forgotten = 0
        """Samples that came in, and how many of them are not held any more."""
        self._block = 0
        self._joined: list[_JoinedTrack] = []

    def push(self, audio: Array) -> None:
        """The next samples (channels, any number)."""
        self._held.append(audio)
        self._taken += audio.shape[1]
        while self._taken > self._sample(self._block * BLOCK_S + WHOLE_S):
            self._add_block(self._sample((self._block + 1) * BLOCK_S + OVERLAP_S))
            self._block += 1
            self._forget()

    def finish(self) -> list[PitchTrack]:
        """The tracks, one per channel."""
        self._add_block(self._taken)
        return [joined.track() for joined in self._joined]

    def _sample(self, seconds: float) -> int:
        return round(seconds * self._rate)

    @property
    def _start(self) -> int:
        return self._sample(max(0.0, self._block * BLOCK_S - OVERLAP_S))

    def _add_block(self, stop: int) -> None:
        if not self._joined:
            self._joined = [_JoinedTrack() for _ in self._held[0]]
        for channel, joined in enumerate(self._joined):
            held = np.concatenate([part[channel] for part in self._held])
            track = self._estimate(held[self._start - self._forgotten : stop - self._forgotten], self._rate)
            joined.add(track, self._start / self._rate, self._block * BLOCK_S)

    def _forget(self) -> None:
        while self._forgotten < self._start:
            part = self._held.pop(0)
            rest = part[:, self._start - self._forgotten :]
            self._forgotten += part.shape[1] - rest.shape[1]
            if rest.shape[1]:
                self._held.insert(0, rest.copy())


class _JoinedTrack:
    """Tracks of one channel on the grid of the first of them, which keeps its spacing even."""

    def __init__(self) -> None:
        self._only: PitchTrack | None = None
        self._parts: list[Doubles] = []
        self._origin_s, self._spacing_s = 0.0, 1.0

    def add(self, track: PitchTrack, start_s: float, from_s: float) -> None:
        """A track that begins at `start_s` takes over at `from_s`."""
        if not self._parts:
            self._only, self._parts = track, [track.f0_hz]
            return
        if self._only is not None:
            self._origin_s, self._spacing_s = track_grid(self._only)
            self._only = None
        first = self._place(from_s)
        self._parts[-1] = self._parts[-1][: first - sum(map(len, self._parts[:-1]))]
        frames = np.arange(first, self._place(start_s + track.times_s[-1]) + 1)
        times = self._origin_s + self._spacing_s * frames - start_s - track.times_s[0]
        nearest = np.clip(np.round(times / self._spacing_s).astype(int), 0, len(track.f0_hz) - 1)
        self._parts.append(track.f0_hz[nearest])

    def _place(self, seconds: float) -> int:
        return round((seconds - self._origin_s) / self._spacing_s)

    def track(self) -> PitchTrack:
        if self._only is not None:
            return self._only
        f0 = np.concatenate(self._parts)
        return PitchTrack(self._origin_s + self._spacing_s * np.arange(len(f0), dtype=np.float64), f0)


def track_grid(track: PitchTrack) -> tuple[float, float]:
    """Its first time and the spacing of its times, in seconds."""
    return float(track.times_s[0]), float(np.median(np.diff(track.times_s)))
