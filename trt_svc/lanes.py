"""Threads that own the contexts of an engine: a job waits for the next free one, in order.

A lane is one device. Jobs go to the lane with the fewest waiting; a lane that fails takes no more, and its jobs go
elsewhere. A run that does not come back in time is given up together with its thread, which native code may hold.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from trt_svc.errors import RunError, RunHung, TrtSvcError

Job = Callable[[Any], Any]
"""What a thread does with its runner."""
LOOK_S = 0.2
SPARES = 2
"""Threads that a lane may lose to hung runs before it is lost itself."""
EXIT_S = 10.0

_threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
_states: weakref.WeakSet[_State] = weakref.WeakSet()


class LaneLost(Exception):
    """The lane was given up before the job began: it may run elsewhere."""


class Ticket:
    """A job on its way."""

    def __init__(self, job: Job, lane: Lane, timeout_s: float) -> None:
        self.job = job
        self.lane = lane
        self.timeout_s = timeout_s
        self.runner: Any = None
        self.started_at = 0.0
        self.seconds = 0.0
        self.given_up = False
        self._began = threading.Event()
        self._ended = threading.Event()
        self._made: Any = None
        self._failure: BaseException | None = None

    def do(self, runner: Any) -> None:
        """On the lane's thread."""
        self.runner, self.started_at = runner, time.perf_counter()
        self._began.set()
        try:
            self._made = self.job(runner)
        except BaseException as err:  # it belongs to the caller
            self._failure = err
        self.seconds = time.perf_counter() - self.started_at
        self._ended.set()

    def left_s(self) -> float:
        """Seconds until a running job counts as hung."""
        return self.started_at + self.timeout_s - time.perf_counter()

    def result(self) -> Any:
        """What the job made; its time runs from when it began."""
        while not self._began.wait(LOOK_S):
            self.lane.give_up_overdue()
            if self.lane.lost:
                raise LaneLost
        if not self._ended.wait(max(0.0, self.left_s())):
            self.lane.give_up(self)
            raise RunHung(
                f"a run on {self.lane.name}",
                f"it did not come back within {self.timeout_s:g} s.",
                "Allow more time (timeout_s), or see `trt-svc doctor`.",
            )
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return self._made


class _State:
    """What a lane and its threads share; threads must not hold the lane, or it would live for ever."""

    def __init__(self) -> None:
        self.waiting: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self.lock = threading.Lock()
        self.running: list[Ticket] = []
        self.load = 0
        self.threads = 0
        _states.add(self)

    def begin(self, ticket: Ticket) -> None:
        with self.lock:
            self.running.append(ticket)

    def end(self, ticket: Ticket) -> None:
        """Also for a job that was given up: it counts no more."""
        with self.lock:
            if ticket in self.running:
                self.running.remove(ticket)
                self.load -= 1

    def stop(self) -> None:
        for _ in range(self.threads):
            self.waiting.put(None)


class Lane:
    """The contexts of one device, each with a thread of its own, behind one queue."""

    def __init__(self, name: str, runners: Sequence[Any]) -> None:
        self.name = name
        self.lost = False
        self._state = _State()
        self._spares = SPARES
        self._pid = os.getpid()
        for runner in runners:
            self._start(runner)
        # A lane that nobody holds any more ends its threads; at exit `_wait_for_threads` does.
        weakref.finalize(self, self._state.stop).atexit = False

    @property
    def load(self) -> int:
        """Jobs waiting or running."""
        return self._state.load

    def submit(self, job: Job, timeout_s: float) -> Ticket:
        if os.getpid() != self._pid:
            raise RunError(
                f"a run on {self.name}",
                "this session was loaded before the process was forked, and threads do not survive a fork.",
                "Load the vocoder in the process that uses it, or start processes with the spawn method.",
            )
        ticket = Ticket(job, self, timeout_s)
        with self._state.lock:
            self._state.load += 1
        self._state.waiting.put(ticket)
        return ticket

    def give_up_overdue(self) -> None:
        """Gives up the runs that nobody waits for and that take too long."""
        with self._state.lock:
            overdue = [ticket for ticket in self._state.running if ticket.left_s() < 0]
        for ticket in overdue:
            self.give_up(ticket)

    def give_up(self, ticket: Ticket) -> None:
        """Leaves a hung run to itself; another context takes its place, or the lane is lost."""
        with self._state.lock:
            if ticket.given_up:
                return
            ticket.given_up = True
            self._spares -= 1
        self._state.end(ticket)
        self._state.threads -= 1
        if self._spares < 0:
            self.lost = True
            return
        try:
            self._start(ticket.runner.sibling())
        except Exception:  # whatever a runtime throws
            self.lost = True

    def _start(self, runner: Any) -> None:
        self._state.threads += 1
        thread = threading.Thread(target=_work, args=(runner, self._state), name=f"run on {self.name}", daemon=True)
        _threads.add(thread)
        thread.start()


def _work(runner: Any, state: _State) -> None:
    while (ticket := state.waiting.get()) is not None:
        state.begin(ticket)
        ticket.do(runner)
        state.end(ticket)
        if ticket.given_up:
            return  # another thread has taken over
        del ticket  # its arrays must not live until the next job comes


@atexit.register
def _wait_for_threads() -> None:
    """Native code in a thread must end before the interpreter does, or the process aborts."""
    for state in list(_states):
        state.stop()
    deadline = time.perf_counter() + EXIT_S
    for thread in list(_threads):
        if thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.perf_counter()))


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

    def submit(self, job: Job, timeout_s: float) -> Ticket:
        """To the lane with the fewest jobs."""
        live = self.live
        if not live:
            raise LaneLost
        return min(live, key=lambda lane: lane.load).submit(job, timeout_s)

    def drain(self, lane: Lane) -> bool:
        """Uses a lane no more; is another one left?"""
        with self._lock:
            lane.lost = True
            if lane not in self._drained:
                self._drained.append(lane)
                self._on_drain(lane.name)
        return bool(self.live)


MEMORY_WORDS = (
    "out of memory",
    "bad_alloc",
    "failed to allocate memory",
    "can't allocate memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)


def is_memory(err: BaseException) -> bool:
    """Does an error mean that memory ran out? Every runtime says it in its own words."""
    if isinstance(err, MemoryError) or type(err).__name__ == "OutOfMemoryError":
        return True
    text = str(err).lower()
    return not isinstance(err, TrtSvcError) and any(words in text for words in MEMORY_WORDS)
