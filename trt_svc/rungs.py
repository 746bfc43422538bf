"""An opened backend, how it is opened, and which windows fit it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trt_svc.arrays import stacked
from trt_svc.build_config import Profile
from trt_svc.guards import Problem
from trt_svc.lanes import Lane, LaneLost, Lanes
from trt_svc.windows import Span

REFERENCE = "torch"
SENTINEL_EVERY = 64
SENTINEL_AUDIO_S = 1.0
SLOW_RUNS, SLOW_S = 3, 1.0
"""So many slow runs in a row, of so many seconds together, are more than a hiccup."""
TIMEOUT_BASE_S, TIMEOUT_PER_AUDIO_S = 60.0, 60.0


@dataclass(frozen=True)
class Policy:
    """What a session does when something goes wrong."""

    on_failure: Literal["fallback", "raise"] = "fallback"
    timeout_s: float | None = None
    """Longest run; None: a minute, and a minute more per second of audio."""

    def timeout_for(self, audio_s: float) -> float:
        return TIMEOUT_BASE_S + TIMEOUT_PER_AUDIO_S * audio_s if self.timeout_s is None else self.timeout_s


@dataclass
class Limits:
    """How much one run may hold; shrinks when memory runs out."""

    frames: int | None = None
    cells: int | None = None
    """Frames times batch."""


@dataclass
class Rung:
    """An opened backend."""

    backend: str
    precision: str
    lanes: Lanes
    profiles: tuple[Profile, ...] = ()
    """Shapes it was built for; empty: any."""
    own_distance: float | None = None
    """How far this voice's own audio is from its mel, where that says something."""
    ask: Callable[[Any], Problem | None] | None = None
    """Asks a runner the sentinel's question."""
    frames_per_s: float | None = None
    """Throughput that was measured when the engine was built on this machine."""
    frames_measured: int = 0
    stages: tuple[Span, ...] = ()
    """Its parts, where it can be run in parts."""
    stage_frames: int | None = None
    """Longest window of a part, in mel frames."""
    quality_db: float | None = None
    """SNR against torch float32, measured when the engine was built."""
    _runs: int = 0
    _slow: list[float] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        return f"{self.backend} {self.precision}"

    # What it answers.

    def sentinel_is_due(self) -> bool:
        """From time to time it is asked again what it was asked when it was opened."""
        with self._lock:
            self._runs += 1
            return self.ask is not None and self._runs % SENTINEL_EVERY == 0

    def asked(self, lane: Lane, policy: Policy) -> Problem | None:
        """What is wrong with a lane's answer to the stored question; not answering is wrong too."""
        if self.ask is None:
            return None
        try:
            found: Problem | None = lane.submit(self.ask, policy.timeout_for(SENTINEL_AUDIO_S)).result()
        except LaneLost:
            return Problem("sentinel", "the device was given up")
        except Exception as err:  # whatever a runtime throws
            return Problem("sentinel", f"asked for a known mel it fails ({type(err).__name__}: {err})")
        return found

    def slowness(self, frames: int, seconds: float) -> str | None:
        """Words about it, when a row of runs was slower than half of what was measured."""
        if self.frames_per_s is None or 2 * frames < self.frames_measured:
            return None
        if frames / seconds >= self.frames_per_s / 2:
            self._slow = []
            return None
        self._slow.append(seconds)
        if len(self._slow) < SLOW_RUNS or sum(self._slow) < SLOW_S:
            return None
        return f"{frames / seconds:.0f} frames per second, {self.frames_per_s:.0f} were measured when it was built"

    # What fits.

    def rows_for(self, frames: int, limits: Limits) -> int:
        """Most rows of a window in one run."""
        most = [p.batch.max for p in self.profiles if frames in p.frames] or [p.batch.max for p in self.profiles]
        if limits.cells is not None:
            most.append(max(1, limits.cells // max(1, frames)))
        return min(most, default=1 << 30)

    def largest_fitting(self, frames: int) -> int | None:
        """`frames` where a profile covers it, else the longest shorter length that one covers; None below all."""
        if not self.profiles or any(frames in p.frames for p in self.profiles):
            return frames
        return max((p.frames.max for p in self.profiles if p.frames.max < frames), default=None)

    def padded(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """With rows repeated up to the smallest batch."""
        rows = int(next(iter(inputs.values())).shape[0])
        least = min((p.batch.min for p in self.profiles), default=1)
        if rows >= least:
            return inputs
        return {name: stacked([value[i % rows : i % rows + 1] for i in range(least)]) for name, value in inputs.items()}


@dataclass(frozen=True)
class Step:
    """A rung that can be opened."""

    name: str
    open: Callable[[], Rung]


def least_frames(span: Span) -> int:
    """Shortest window in which something exact comes out."""
    return -(-span.left // span.step) * span.step + span.right + span.step


def longest(limits: Limits, profiles: Sequence[Profile]) -> int | None:
    """Frames that fit in one run."""
    most = [limit for limit in (limits.frames, limits.cells) if limit is not None]
    return min([*most, *([max(p.frames.max for p in profiles)] if profiles else [])], default=None)
