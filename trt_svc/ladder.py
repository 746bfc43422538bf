"""Runs windows on the best backend that can be trusted: what fails a question is made again, one rung lower.

The rungs of a session: the engine as asked for, the same in fp32, onnxruntime, torch. A rung is opened when it is
needed. Torch on the network itself is the reference; a suspicious output is shown to it before anybody is accused.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from trt_svc.arrays import joined, on_host, rows_of, stacked
from trt_svc.build_config import Profile
from trt_svc.difference import difference
from trt_svc.errors import EngineError, InputError, OutOfMemory, RunError, RunHung, ShapeRangeError, TrtSvcError, shown
from trt_svc.guards import Problem, check_audio, check_stage
from trt_svc.health import Fault, Record
from trt_svc.lanes import Lane, LaneLost, Lanes, is_memory
from trt_svc.parts import job_of
from trt_svc.voice import Voice
from trt_svc.windows import Bounds, Pending, Span, Windows

log = logging.getLogger(__name__)

REFERENCE = "torch"
SENTINEL_EVERY = 64
AGREES_DB = 20.0
SILENT = 1e-4
SLOW_RUNS, SLOW_S = 3, 1.0
"""So many slow runs in a row, of so many seconds together, are more than a hiccup."""
MAX_PAUSE = 1024
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
class Rung:
    """An opened backend."""

    backend: str
    precision: str
    lanes: Lanes
    profiles: tuple[Profile, ...] = ()
    """Shapes it was built for; empty: any."""
    own_distance: float | None = None
    ask: Callable[[Any], Problem | None] | None = None
    """Asks a runner the sentinel's question."""
    frames_per_s: float | None = None
    """Throughput that was measured when the engine was built on this machine."""
    frames_measured: int = 0
    stages: tuple[Span, ...] = ()
    """Its parts, where it can be run in parts."""
    stage_frames: int | None = None
    """Longest window of a part, in mel frames."""
    runs: int = 0
    slow: list[float] = field(default_factory=list)
    """Seconds of the latest runs, as long as all of them were slow."""

    @property
    def name(self) -> str:
        return f"{self.backend} {self.precision}"


@dataclass(frozen=True)
class Step:
    """A rung that can be opened."""

    name: str
    open: Callable[[], Rung]


class _Failed(Exception):
    def __init__(self, fault: Fault, answer: Any = None) -> None:
        super().__init__(fault.found)
        self.fault = fault
        self.answer = answer
        """What the reference made, where it was asked."""


class _TooLarge(Exception):
    """Memory ran out."""


@dataclass
class Limits:
    """How much one run may hold; shrinks when memory runs out."""

    frames: int | None = None
    cells: int | None = None
    """Frames times batch."""


@dataclass
class _Pause:
    """After a false alarm the suspicious guards rest, longer each time."""

    left: int = 0
    length: int = 1

    def alarm_was_false(self) -> None:
        self.left, self.length = self.length, min(2 * self.length, MAX_PAUSE)

    def rests(self) -> bool:
        self.left -= self.left > 0
        return self.left > 0


@dataclass
class Ladder:
    """The rungs of a session."""

    voice: Voice
    steps: Sequence[Step]
    policy: Policy
    limits: Limits
    record: Record

    def __post_init__(self) -> None:
        self._lock = threading.RLock()  # of going down, which may take a build
        self._counting = threading.Lock()
        self._reference: Rung | None = None
        self._pause = _Pause()
        self._next = 0
        self.span = Span(
            {spec.name: spec.per_frame for spec in self.voice.inputs},
            Fraction(self.voice.spec.hop),
            *self.voice.receptive_field,
            self.voice.frame_step,
        )
        self._rung = self._open_next(None)

    # What the session asks.

    @property
    def rung(self) -> Rung:
        return self._rung

    @property
    def workers(self) -> int:
        """Runs that can go on at the same time."""
        return max(1, len(self._rung.lanes.live))

    def bounds(self) -> Bounds:
        """Frames that fit in one run."""
        profiles = self._rung.profiles
        most = [limit for limit in (self.limits.frames, self.limits.cells) if limit is not None]
        most += [max(p.frames.max for p in profiles)] if profiles else []
        floor = max(1, self.span.step)
        return Bounds(min(most) // floor * floor if most else None, min((p.frames.min for p in profiles), default=1))

    def start(self, inputs: Mapping[str, Any]) -> Pending:
        """A window of the whole network, on its way."""
        rows, frames = inputs["mel"].shape[0], inputs["mel"].shape[2]
        rung = self._rung
        if len(rung.lanes.lanes) < 2 or rows > self._rows(rung, frames):
            return lambda: self.run(inputs)
        # Several devices: each window waits in a thread of its own, so that all devices have work.
        return _in_thread(lambda: self.run(inputs))

    def run(self, inputs: Mapping[str, Any]) -> Any:
        """Audio of a window of any size."""
        rows, frames = int(inputs["mel"].shape[0]), int(inputs["mel"].shape[2])
        rung = self._rung
        most = self._rows(rung, frames)
        if rows > most:
            return stacked([self.run(rows_of(inputs, i, i + most)) for i in range(0, rows, most)])
        fitting = _largest_fitting(rung.profiles, frames)
        if fitting is None:
            # Shorter than the engine was built for: its padding would be heard at the end.
            return self._by_reference(inputs, None)
        if fitting < frames:
            return self._within(self.span, inputs, fitting, self.run)
        return self._guarded(inputs, None)

    def run_stage(self, inputs: Mapping[str, Any], stage: int) -> Any:
        """Output of one stage of the network."""
        if not self._rung.stages:
            return self._by_reference(inputs, stage)
        return self._guarded(inputs, stage)

    # One window on the present rung, or a lower one.

    def _guarded(self, inputs: Mapping[str, Any], stage: int | None) -> Any:
        while True:
            rung = self._rung
            try:
                return self._run_on(rung, inputs, stage)
            except _TooLarge as err:
                return self._smaller(inputs, stage, err, self._guarded)
            except _Failed as failed:
                self._descend(rung, failed.fault)
                if failed.answer is not None:
                    return failed.answer

    def _run_on(self, rung: Rung, inputs: Mapping[str, Any], stage: int | None) -> Any:
        padded, rows = _at_least(inputs, rung.profiles)
        timeout_s = self.policy.timeout_for(rows * self._ticks(rung, inputs, stage) / self.voice.spec.frames_per_second)
        while True:
            try:
                ticket = rung.lanes.submit(job_of(padded, stage))
                made = ticket.result(timeout_s)
            except LaneLost:
                if rung.lanes.live:
                    continue
                raise _Failed(Fault("raised", rung.name, "no device is left")) from None
            except (InputError, ShapeRangeError):
                raise
            except Exception as err:  # whatever a runtime throws
                if is_memory(err):
                    raise _TooLarge(str(err)) from err
                self._lane_failed(rung, ticket.lane, _fault_of(err, rung, ticket.lane), err)
                continue
            problem = self._problem(rung, padded, made, stage) or self._sentinel(rung, ticket.lane)
            made = made[:rows]
            if problem is None:
                self._count(rung, padded, ticket.seconds, stage)
                return made
            fault = Fault(problem.kind, f"{rung.name} on {ticket.lane.name}", problem.found)
            if not problem.certain:
                answer = self._by_reference(inputs, None)
                if _agree(made, answer):
                    self.record.false_alarm()
                    self._pause.alarm_was_false()
                    return made
                self.record.fault(fault)
                if not rung.lanes.drain(ticket.lane):
                    raise _Failed(fault, answer)
                return answer
            self._lane_failed(rung, ticket.lane, fault, None)

    def _lane_failed(self, rung: Rung, lane: Lane, fault: Fault, err: BaseException | None) -> None:
        """The device is left out; without another one the rung has failed."""
        self.record.fault(fault)
        if not (len(rung.lanes.live) > 1 or lane.lost) or not rung.lanes.drain(lane):
            raise _Failed(fault) from err

    def _problem(self, rung: Rung, inputs: Mapping[str, Any], made: Any, stage: int | None) -> Problem | None:
        if stage is not None:
            positions = int(self._ticks(rung, inputs, stage) * rung.stages[stage].out_per_tick)
            return check_stage(made, (*made.shape[:-1], positions))
        problem = check_audio(self.voice, inputs, made, rung.own_distance)
        if problem is None or problem.certain:
            return problem
        return None if rung.backend == REFERENCE or self._pause.rests() else problem

    def _sentinel(self, rung: Rung, lane: Lane) -> Problem | None:
        """From time to time the engine is asked again what it was asked when it was opened."""
        with self._counting:
            rung.runs += 1
            due = rung.runs % SENTINEL_EVERY == 0
        return self._asked(rung, lane) if due else None

    def _asked(self, rung: Rung, lane: Lane) -> Problem | None:
        """What is wrong with a lane's answer to the stored question; not answering is wrong too."""
        if rung.ask is None:
            return None
        try:
            found: Problem | None = lane.submit(rung.ask).result(self.policy.timeout_for(1.0))
        except LaneLost:
            return Problem("sentinel", "the device was given up")
        except Exception as err:  # whatever a runtime throws
            return Problem("sentinel", f"asked for a known mel it fails ({_said(err)})")
        return found

    def _count(self, rung: Rung, inputs: Mapping[str, Any], seconds: float, stage: int | None) -> None:
        self.record.run()
        if rung.frames_per_s is None or stage is not None:
            return
        frames = int(inputs["mel"].shape[0]) * int(inputs["mel"].shape[2])
        if 2 * frames < rung.frames_measured:
            return
        if frames / seconds >= rung.frames_per_s / 2:
            rung.slow = []
            return
        rung.slow.append(seconds)
        if len(rung.slow) < SLOW_RUNS or sum(rung.slow) < SLOW_S or self.record.now().slow:
            return
        found = f"{frames / seconds:.0f} frames per second, {rung.frames_per_s:.0f} were measured when it was built"
        self.record.slow(found)
        log.warning("%s runs at less than half its speed: %s. Is the machine busy or hot?", rung.name, found)

    # Too large for the memory.

    def _smaller(
        self, inputs: Mapping[str, Any], stage: int | None, err: Exception, run: Callable[[Any, int | None], Any]
    ) -> Any:
        self.record.fault(Fault("memory", self._rung.name, shown(str(err))))
        rows = int(next(iter(inputs.values())).shape[0])
        if rows > 1:
            half = (rows + 1) // 2
            parts = [rows_of(inputs, 0, half), rows_of(inputs, half, rows)]
            return stacked([run(part, stage) for part in parts])
        span = self._span(self._rung, stage)
        ticks = self._ticks(self._rung, inputs, stage)
        half = ticks // 2 // span.step * span.step
        if half < span.left + span.right + span.step:
            raise OutOfMemory(
                f"a run of {ticks} frames on {self._rung.name}",
                "the memory does not even hold that.",
                "Close what else uses it, or use a smaller vocoder.",
            ) from err
        if stage is None:
            self.limits.frames = min(half, self.limits.frames or half)
        return self._within(span, inputs, half, lambda part: run(part, stage))

    def _within(self, span: Span, inputs: Mapping[str, Any], limit: int, run: Callable[[Any], Any]) -> Any:
        def start(part: Mapping[str, Any]) -> Pending:
            made = run(part)
            return lambda: made

        return joined(Windows(span, start, lambda: Bounds(limit)).push(dict(inputs), last=True))

    def _rows(self, rung: Rung, frames: int) -> int:
        most = [p.batch.max for p in rung.profiles if frames in p.frames] or [p.batch.max for p in rung.profiles]
        if self.limits.cells is not None:
            most.append(max(1, self.limits.cells // max(1, frames)))
        return min(most, default=1 << 30)

    def _span(self, rung: Rung, stage: int | None) -> Span:
        return self.span if stage is None else (rung.stages or self._get_reference().stages)[stage]

    def _ticks(self, rung: Rung, inputs: Mapping[str, Any], stage: int | None) -> int:
        """Length of a window: mel frames for the network, a stage's own unit for a stage."""
        (name, rate), *_ = self._span(rung, stage).inputs.items()
        return int(inputs[name].shape[-1] / rate)

    # Going down.

    def _descend(self, failed: Rung, fault: Fault) -> None:
        with self._lock:
            if self._rung is not failed:
                return  # another thread was first
            if self.policy.on_failure == "raise" or self._next >= len(self.steps):
                raise _run_error(fault, self._next >= len(self.steps))
            self._rung = self._open_next(fault)

    def _open_next(self, fault: Fault | None) -> Rung:
        """Opens the next step that can be opened; `fault` is why the one before is left."""
        while self._next < len(self.steps):
            step = self.steps[self._next]
            self._next += 1
            try:
                rung = self._opened(step)
            except Exception as err:  # whatever a runtime throws
                fault = Fault("opening", step.name, _said(err))
                self.record.fault(fault)
                is_last = self.policy.on_failure == "raise" or self._next >= len(self.steps)
                # What was asked for and cannot be had here is for the caller to decide.
                is_callers = self._next == 1 and isinstance(err, TrtSvcError) and not isinstance(err, EngineError)
                if is_last or is_callers:
                    raise err if isinstance(err, TrtSvcError) else _run_error(fault, True) from err
                continue
            if fault is not None:
                self.record.fell_back()
                warnings.warn(
                    f"{fault.where}: {fault.found}. This session goes on with {rung.name}, which is slower; "
                    "see `health`.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self.record.running_on(rung.backend, rung.precision, tuple(lane.name for lane in rung.lanes.lanes))
            return rung
        assert fault is not None
        raise _run_error(fault, True)

    def _opened(self, step: Step) -> Rung:
        if step.name == REFERENCE:
            return self._get_reference()
        rung = step.open()
        for lane in list(rung.lanes.lanes):
            problem = self._asked(rung, lane)
            if problem is not None and not rung.lanes.drain(lane):
                raise EngineError(
                    f"opening an engine on {lane.name}",
                    f"{problem.found}.",
                    "It does not run here as it was built: build it again (--force), and run `trt-svc doctor`.",
                )
        return rung

    def _get_reference(self) -> Rung:
        with self._lock:
            if self._reference is None:
                step = next((step for step in self.steps if step.name == REFERENCE), None)
                if step is None:
                    raise RunError(
                        "asking the reference network",
                        "this session was opened from an engine alone.",
                        "Open the checkpoint itself to have a reference.",
                    )
                self._reference = step.open()
            return self._reference

    def _by_reference(self, inputs: Mapping[str, Any], stage: int | None) -> Any:
        """What the network itself makes of a window, in smaller ones where memory asks for it."""
        try:
            return self._run_on(self._get_reference(), inputs, stage)
        except _Failed as failed:
            raise _run_error(failed.fault, True) from failed
        except _TooLarge as err:
            return self._smaller(inputs, stage, err, self._by_reference)


def _run_error(fault: Fault, was_last: bool) -> RunError:
    kind = RunHung if fault.kind == "hung" else RunError
    asked = f"a run on {fault.where}"
    if was_last:
        return kind(asked, f"{fault.found}.", "There is nothing left to fall back on: is the input what it should be?")
    return kind(asked, f"{fault.found}.", "Use on_failure='fallback' to go on with a safer backend.")


def _fault_of(err: BaseException, rung: Rung, lane: Lane) -> Fault:
    where = f"{rung.name} on {lane.name}"
    if isinstance(err, RunHung):
        return Fault("hung", where, _said(err))
    return Fault("raised", where, _said(err))


def _said(err: BaseException) -> str:
    return err.found.rstrip(".") if isinstance(err, TrtSvcError) else f"{type(err).__name__}: {shown(str(err))}"


def _agree(made: Any, answer: Any) -> bool:
    """Is an output near the reference's? Two near-silences are."""
    mine, theirs = on_host(made), on_host(answer)
    if mine.shape != theirs.shape:
        return False
    if float(np.abs(theirs).max()) < SILENT:
        return float(np.abs(mine).max()) < SILENT
    return difference(mine, theirs).snr_db >= AGREES_DB


def _largest_fitting(profiles: Sequence[Profile], frames: int) -> int | None:
    """`frames` where a profile covers it, else the longest shorter length that one covers; None below all."""
    if not profiles or any(frames in p.frames for p in profiles):
        return frames
    return max((p.frames.max for p in profiles if p.frames.max < frames), default=None)


def _at_least(inputs: Mapping[str, Any], profiles: Sequence[Profile]) -> tuple[Mapping[str, Any], int]:
    """The inputs with rows repeated up to the smallest batch, and how many rows count."""
    rows = int(next(iter(inputs.values())).shape[0])
    least = min((p.batch.min for p in profiles), default=1)
    if rows >= least:
        return inputs, rows
    return {
        name: stacked([value[i % rows : i % rows + 1] for i in range(least)]) for name, value in inputs.items()
    }, rows


def _in_thread(work: Callable[[], Any]) -> Pending:
    result: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as err:  # it belongs to the caller
            failure.append(err)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def wait() -> Any:
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    return wait
