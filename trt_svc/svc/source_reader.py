"""A recording read twice, mono, in blocks: once to find its pauses and once to be sung from.

The second reading only goes forwards and keeps what the next clip shares with this one, so formats that cannot seek to
a sample serve as well, and an hour takes no more memory than its longest piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from trt_svc.audio_blocks import Recording
from trt_svc.errors import AudioFileError, InputError
from trt_svc.inputs import check_rate
from trt_svc.svc.sound import as_mono
from trt_svc.types import Array

BLOCK_S = 10


class Source(Protocol):
    """What can be converted."""

    @property
    def sample_rate(self) -> int: ...
    def mono_blocks(self) -> Iterator[Array]:
        """All of it as blocks (samples,); every call begins anew."""
        ...


class SourceFile:
    """A recording on disk."""

    def __init__(self, path: str | Path) -> None:
        self._recording = Recording(path)
        self.sample_rate = self._recording.sample_rate

    def mono_blocks(self) -> Iterator[Array]:
        for block in self._recording.blocks(BLOCK_S * self.sample_rate):
            yield np.asarray(block.mean(axis=0), np.float32)


class SourceAudio:
    """Audio in memory: (samples,) or (channels, samples)."""

    def __init__(self, audio: Array, sample_rate: int) -> None:
        self.sample_rate = check_rate(sample_rate)
        self._audio = as_mono(audio, "converting a recording")
        if self._audio.size == 0:
            raise InputError("converting a recording", "it holds no samples.", "Give some audio.")

    def mono_blocks(self) -> Iterator[Array]:
        step = BLOCK_S * self.sample_rate
        for start in range(0, self._audio.size, step):
            yield self._audio[start : start + step]


class PieceReader:
    """Reads stretches whose starts never go back."""

    def __init__(self, source: Source) -> None:
        self._blocks = source.mono_blocks()
        self._held = np.zeros(0, np.float32)
        self._start = 0
        """The sample that the held ones begin at."""

    def __call__(self, start: int, stop: int) -> Array:
        """Samples `start` to `stop`; what lies before `start` is forgotten."""
        assert start >= self._start, "pieces are read in their order"
        held = self._without_past(self._held, start)
        parts, length = [held], len(held)
        while self._start + length < stop:
            block = next(self._blocks, None)
            if block is None:
                found = f"it held {stop} samples or more when its pauses were looked for, and holds fewer now."
                raise AudioFileError("reading the recording", found, "Run it again when nothing writes to it.")
            # While nothing is held, what comes may lie before the piece: a long pause, for example.
            left = block if length else self._without_past(block, start)
            if len(left):  # an empty view would keep its block
                parts.append(left)
            length += len(left)
        self._held = np.concatenate(parts)
        return self._held[: stop - start]

    def _without_past(self, samples: Array, start: int) -> Array:
        """What is left of samples that begin at `self._start`, which moves on."""
        past = min(len(samples), start - self._start)
        self._start += past
        return samples[past:]
