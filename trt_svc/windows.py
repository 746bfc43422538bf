"""A run cut into windows: pieces go in, exactly what the whole run would have made comes out.

Positions are ticks (mel frames for a whole network, samples of some rate for one of its stages). A tick of output
depends on `left` ticks before it and `right` behind it; a window that has them computes the tick exactly, because
every layer's own padding at the window's edges reaches no further. Windows that start or end with the utterance keep
the utterance's own edges. Arrays are NumPy's or torch's, time last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from trt_svc.arrays import copied, joined
from trt_svc.errors import ShapeRangeError

Pending = Callable[[], Any]
"""A window on its way: gives its output when called."""


@dataclass(frozen=True)
class Span:
    """How the output of a network, or of a stage of one, hangs on its inputs in time."""

    inputs: Mapping[str, Fraction]
    """Positions of each input per tick."""
    out_per_tick: Fraction
    left: int
    right: int
    step: int = 1
    """Windows start at multiples of this."""
    per_frame: Fraction = Fraction(1)
    """Ticks per mel frame."""
    out_channels: int | None = None
    """Channels of what comes out (batch, channels, time); None for audio (batch, time)."""


@dataclass(frozen=True)
class Bounds:
    """Ticks in one run."""

    most: int | None = None
    least: int = 1


def in_equal_parts(bounds: Bounds, span: Span, ticks: int) -> Bounds:
    """Bounds in which a run of so many ticks is cut into windows of one length: runtimes plan for every length anew."""
    context = span.left + span.right
    if bounds.most is None or ticks <= bounds.most or bounds.most <= context + span.step:
        return bounds
    count = -(-(ticks - context) // (bounds.most - context))
    length = -(-(ticks + (count - 1) * context) // count)
    length = min(bounds.most, -(-length // span.step) * span.step)
    return Bounds(length, max(length, bounds.least))


class Windows:
    """One network or stage, fed piece by piece; keeps the ticks that later windows need again."""

    def __init__(
        self, span: Span, run: Callable[[dict[str, Any]], Pending], bounds: Callable[[], Bounds], ahead: int = 1
    ) -> None:
        self.span = span
        self._run = run
        self._bounds = bounds
        self._ahead = ahead
        self._kept: dict[str, Any] = {}
        self._base = 0
        self._known = 0
        self._done = 0
        self.ticks_run = 0
        """Ticks that were computed; more than `_done` by what was computed again."""

    @property
    def redundancy(self) -> float:
        """Computed ticks per tick put out."""
        return self.ticks_run / max(1, self._done)

    def forget(self) -> None:
        """Drops what is kept; nothing can be pushed any more."""
        self._kept = {}

    def watch(self, pieces: Mapping[str, Any], done: int) -> None:
        """Keeps pieces without running anything; ticks before `done` are made elsewhere."""
        self._append(pieces)
        self._done = min(done, self._known)
        self._forget()

    def push(self, pieces: Mapping[str, Any], last: bool = False) -> list[Any]:
        """Outputs that can be made now; `last` says that nothing follows, so the rest is made too."""
        self._append(pieces)
        ready = self._known if last else self._floor(self._known - self.span.right)
        if not last and self._known < self._bounds().least:
            self._forget()
            return []  # a run that short is not possible yet
        pending: deque[Pending] = deque()
        made = []
        while self._done < ready:
            pending.append(self._launch(ready, last))
            if len(pending) >= self._ahead:
                made.append(pending.popleft()())
        made.extend(wait() for wait in pending)
        if last:
            self._kept = {}
        else:
            self._forget()
        return made

    def _launch(self, ready: int, last: bool) -> Pending:
        start, end, stop = self._window(ready)
        taken = {name: self._part(name, rate, start, end) for name, rate in self.span.inputs.items()}
        self.ticks_run += end - start
        wait = self._run(taken)
        first = int((self._done - start) * self.span.out_per_tick)
        rest = last and stop == self._known
        limit = None if rest else int((stop - start) * self.span.out_per_tick)
        self._done = stop
        return lambda: wait()[..., first:limit]

    def _window(self, ready: int) -> tuple[int, int, int]:
        """(start, end) of the next window and the tick up to which its output counts."""
        span, bounds = self.span, self._bounds()
        start, stop = self._floor(max(0, self._done - span.left)), ready
        end = min(self._known, stop + span.right)
        if bounds.most is not None and end - start > bounds.most:
            end = start + bounds.most
            stop = self._floor(end - span.right)
            if stop <= self._done:
                raise ShapeRangeError(
                    f"a run in windows of {bounds.most} frames",
                    f"each output frame needs {span.left} frames before it and {span.right} behind it.",
                    f"Allow at least {span.left + span.right + span.step} frames in one run.",
                )
        if end - start < bounds.least:
            # Longer at the front, by ticks that are there: that changes nothing behind them.
            longer = self._floor(end - bounds.least)
            start = min(start, longer if end - longer <= (bounds.most or end) else longer + span.step)
        return start, end, stop

    def _append(self, pieces: Mapping[str, Any]) -> None:
        for name in self.span.inputs:
            if name in pieces:
                before = self._kept.get(name)
                fresh = before is None or before.shape[-1] == 0
                self._kept[name] = pieces[name] if fresh else joined([before, pieces[name]])
        if len(self._kept) == len(self.span.inputs):
            # What has no whole number of positions per tick says nothing about ticks.
            whole = {name: rate for name, rate in self.span.inputs.items() if rate.denominator == 1}
            lengths = [int(self._kept[name].shape[-1] / rate) for name, rate in whole.items()]
            self._known = self._base + min(lengths)

    def _part(self, name: str, rate: Fraction, start: int, end: int) -> Any:
        return self._kept[name][..., int((start - self._base) * rate) : int((end - self._base) * rate)]

    def _forget(self) -> None:
        bounds = self._bounds()
        keep = self._floor(max(self._base, self._done - max(self.span.left, bounds.least)))
        for name, rate in self.span.inputs.items():
            if name not in self._kept:
                continue
            # A copy: the memory before it can go, and callers may fill their buffers anew.
            self._kept[name] = copied(self._kept[name][..., int((keep - self._base) * rate) :])
        self._base = keep

    def _floor(self, tick: int) -> int:
        return max(0, tick) // self.span.step * self.span.step
