"""Threads that own the contexts of an engine: a job waits for the next free one, in order.

A lane is one device. Jobs go to the lane with the fewest waiting; a lane that fails takes no more, and its jobs go
elsewhere. A job that does not come back in time is given up together with its thread, which native code may hold.
"""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from trt_svc.errors import RunHung, TrtSvcError

Job = Callable[[Any], Any]
"""What a thread does with its runner."""
LOOK_S = 0.2


class LaneLost(Exception):
    """The lane was given up before the job began: it may run elsewhere."""


class Ticket:
    """A job on its way."""

    def __init__(self, job: Job, lane: Lane) -> None:
        self.job = job
        self.lane = lane
        self.started_at: float | None = None
        self.seconds = 0.0
        self._began = threading.Event()
        self._ended = threading.Event()
        self._made: Any = None
        self._failure: BaseException | None = None

    def do(self, runner: Any) -> None:
        """On the lane's thread."""
        self.started_at = time.perf_counter()
        self._began.set()
        try:
            self._made = self.job(runner)
        except BaseException as err:  # it belongs to the caller
            self._failure = err
        self.seconds = time.perf_counter() - self.started_at
        self._ended.set()

    def result(self, timeout_s: float) -> Any:
        """What the job made; waits at most so long from when it began."""
        while not self._began.wait(LOOK_S):
            if self.lane.lost:
                raise LaneLost
        if not self._ended.wait(max(0.0, timeout_s)):
            self.lane.lost = True
            raise RunHung(
                f"a run on {self.lane.name}",
                f"it did not come back within {timeout_s:g} s.",
                "Allow more time (timeout_s), or see `trt-svc doctor`.",
            )
        if self._failure is not None:
            raise self._failure
        return self._made


class Lane:
    """The contexts of one device, each with a thread of its own, behind one queue."""

    def __init__(self, name: str, runners: Sequence[Any]) -> None:
        self.name = name
        self.lost = False
        self._waiting: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._load = _Load()
        for number, runner in enumerate(runners):
            thread = threading.Thread(
                target=_work, args=(runner, self._waiting, self._load), name=f"{name} {number}", daemon=True
            )
            thread.start()
        # Threads know the queue, not the lane: a session that nobody holds any more ends them.
        weakref.finalize(self, _stop, self._waiting, len(runners))

    @property
    def load(self) -> int:
        """Jobs waiting or running."""
        return self._load.count

    def submit(self, job: Job) -> Ticket:
        ticket = Ticket(job, self)
        self._load.add(1)
        self._waiting.put(ticket)
        return ticket


class _Load:
    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def add(self, change: int) -> None:
        with self._lock:
            self.count += change


def _work(runner: Any, waiting: queue.SimpleQueue[Ticket | None], load: _Load) -> None:
    while (ticket := waiting.get()) is not None:
        try:
            ticket.do(runner)
        finally:
            load.add(-1)
            del ticket  # its arrays must not live until the next job comes


def _stop(waiting: queue.SimpleQueue[Ticket | None], threads: int) -> None:
    for _ in range(threads):
        waiting.put(None)


class Lanes:
    """The lanes of one engine."""

    def __init__(self, lanes: Sequence[Lane], on_drain: Callable[[str], None] = lambda name: None) -> None:
        self.lanes = list(lanes)
        self._on_drain = on_drain
        self._drained: list[Lane] = []
        self._lock = threading.Lock()

    @property
    def live(self) -> list[Lane]:
        return [lane for lane in self.lanes if not lane.lost]

    def submit(self, job: Job) -> Ticket:
        """To the lane with the fewest jobs."""
        live = self.live
        if not live:
            raise LaneLost
        return min(live, key=lambda lane: lane.load).submit(job)

    def drain(self, lane: Lane) -> bool:
        """Uses a lane no more; is another one left?"""
        with self._lock:
            lane.lost = True
            if lane not in self._drained:
                self._drained.append(lane)
                self._on_drain(lane.name)
        return bool(self.live)


def is_memory(err: BaseException) -> bool:
    """Does an error mean that memory ran out? Every runtime says it in its own words."""
    if isinstance(err, MemoryError):
        return True
    name, text = type(err).__name__, str(err).lower()
    own = isinstance(err, TrtSvcError)
    return name in ("OutOfMemoryError", "OutOfMemory") or (
        not own and any(words in text for words in ("out of memory", "bad_alloc", "failed to allocate memory"))
    )
