"""Runs windows on the best backend that can be trusted: what fails a question is made again, one rung lower.

The rungs of a session: the engine as asked for, the same in fp32, onnxruntime, torch. A rung is opened when it is
needed. Torch on the network itself is the reference; a suspicious output is shown to it before anybody is accused.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from trt_svc.arrays import joined, on_host, rows_of, stacked
from trt_svc.difference import difference
from trt_svc.errors import EngineError, InputError, OutOfMemory, RunError, RunHung, ShapeRangeError, TrtSvcError, shown
from trt_svc.guards import Problem, check_audio, check_stage
from trt_svc.health import Fault, Record
from trt_svc.inputs import warn_caller
from trt_svc.lanes import Lane, LaneLost, is_memory
from trt_svc.parts import in_thread, job_of
from trt_svc.rungs import REFERENCE, Limits, Policy, Rung, Step, least_frames, longest
from trt_svc.voice import Voice
from trt_svc.windows import Bounds, Pending, Span, Windows

log = logging.getLogger(__name__)

AGREES_DB = 20.0
SILENT = 1e-4
MAX_REST = 64


class StageFault(Exception):
    """A stage cannot be trusted: the whole network has to make this."""


class _Failed(Exception):
    """A rung has failed; `answer` is what the reference made, where it was asked."""

    def __init__(self, fault: Fault, answer: Any = None) -> None:
        super().__init__(fault.found)
        self.fault = fault
        self.answer = answer


class _TooLarge(Exception):
    """Memory ran out."""


class _Rest:
    """After a false alarm a guard asks the sentinel instead of the reference, for longer each time."""

    def __init__(self) -> None:
        self.left: dict[str, int] = {}
        self.length: dict[str, int] = {}

    def alarm_was_false(self, kind: str) -> None:
        self.left[kind] = self.length.get(kind, 1)
        self.length[kind] = min(2 * self.left[kind], MAX_REST)

    def rests(self, kind: str) -> bool:
        left = self.left.get(kind, 0)
        self.left[kind] = max(0, left - 1)
        return left > 0

    def all_is_well(self) -> None:
        self.left.clear()
        self.length.clear()


class Ladder:
    """The rungs of a session."""

    def __init__(self, voice: Voice, steps: Sequence[Step], policy: Policy, limits: Limits, record: Record) -> None:
        self.voice = voice
        self.limits = limits
        self.record = record
        self._steps = list(steps)
        self._policy = policy
        self._next = 0
        self._descending = threading.RLock()  # opening a rung may take a build
        self._reference: Rung | None = None
        self._rest = _Rest()
        self.span = Span(
            {spec.name: spec.per_frame for spec in voice.inputs},
            Fraction(voice.spec.hop),
            *voice.receptive_field,
            voice.frame_step,
        )
        self._rung = self._open_next(None)

    # What the session asks.

    @property
    def rung(self) -> Rung:
        return self._rung

    @property
    def workers(self) -> int:
        """Devices that can run at the same time."""
        return max(1, len(self._rung.lanes.live))

    def bounds(self) -> Bounds:
        """Frames that fit in one run."""
        profiles = self._rung.profiles
        return Bounds(longest(self.limits, profiles), min((p.frames.min for p in profiles), default=1))

    def start(self, inputs: Mapping[str, Any]) -> Pending:
        """A window of the whole network, on its way; with several devices its rows are spread over them."""
        rows, frames = int(inputs["mel"].shape[0]), int(inputs["mel"].shape[2])
        if self.workers < 2:
            return lambda: self.run(inputs)
        most = self._rung.rows_for(frames, self.limits)
        parts = [rows_of(inputs, i, i + most) for i in range(0, rows, most)]
        waits = [in_thread(lambda part=part: self.run(part), part) for part in parts]  # type: ignore[misc]
        return lambda: stacked([wait() for wait in waits])

    def run(self, inputs: Mapping[str, Any]) -> Any:
        """Audio of a window of any size."""
        rows, frames = int(inputs["mel"].shape[0]), int(inputs["mel"].shape[2])
        most = self._rung.rows_for(frames, self.limits)
        if rows > most:
            return stacked([self.run(rows_of(inputs, i, i + most)) for i in range(0, rows, most)])
        fitting = self._rung.largest_fitting(frames)
        if fitting is None:
            # Shorter than the engine was built for: its padding would be heard at the end.
            return self._by_reference(inputs)
        return self._guarded(inputs) if fitting == frames else self._within(inputs, fitting, self.run)

    def run_stage(self, inputs: Mapping[str, Any], stage: int) -> Any:
        """Output of one stage; on any doubt a StageFault."""
        rung = self._rung
        if stage >= len(rung.stages):
            raise StageFault
        try:
            return self._run_on(rung, inputs, stage)
        except _TooLarge as err:
            fault = Fault("memory", rung.name, str(err))
            self.record.fault(fault)
        except _Failed as failed:
            fault = failed.fault
            self._raise_if_asked(fault)
        log.warning("%s: %s. This stream goes on without stages.", fault.where, fault.found)
        raise StageFault

    def doubted(self, found: Problem) -> None:
        """Streams say here that the stages made something that the whole network did not."""
        fault = Fault(found.kind, f"{self._rung.name}, in stages", found.found)
        self.record.fault(fault)
        self._raise_if_asked(fault)
        log.warning("%s: %s. This stream goes on without them.", fault.where, fault.found)

    # One window on the present rung, or a lower one.

    def _guarded(self, inputs: Mapping[str, Any]) -> Any:
        while True:
            rung = self._rung
            try:
                return self._run_on(rung, inputs, None)
            except _TooLarge as err:
                failed, said = None, str(err)
            except _Failed as err:
                failed, said = err, ""
            # Outside of the handlers: they would keep the failed run's tensors alive.
            if failed is None:
                return self._smaller(inputs, said, self._guarded)
            self._descend(rung, failed.fault)
            if failed.answer is not None:
                return failed.answer

    def _run_on(self, rung: Rung, inputs: Mapping[str, Any], stage: int | None) -> Any:
        padded, rows = rung.padded(inputs), int(next(iter(inputs.values())).shape[0])
        timeout_s = self._policy.timeout_for(rows * self._seconds_of(rung, inputs, stage))
        job = job_of(padded, stage)
        while True:
            try:
                ticket = rung.lanes.submit(job, timeout_s)
            except LaneLost:
                raise _Failed(Fault("raised", rung.name, "no device is left")) from None
            fault, out_of_memory = None, ""
            try:
                made = ticket.result()
                problem = self._problem(rung, padded, made, stage, ticket.lane)
            except LaneLost:
                continue
            except (InputError, ShapeRangeError):
                raise
            except Exception as err:  # whatever a runtime throws
                out_of_memory = shown(str(err)) if is_memory(err) else ""
                fault = _fault_of(err, rung, ticket.lane)
            if out_of_memory:
                raise _TooLarge(out_of_memory)
            if fault is not None:
                self._lane_failed(rung, ticket.lane, fault)
            elif problem is None:
                self._count(rung, padded, ticket.seconds, stage)
                return made[:rows]
            elif stage is None and rung.backend != REFERENCE and problem.may_be_the_inputs_fault:
                return self._judged(rung, ticket.lane, problem, inputs, made[:rows])
            else:
                self._lane_failed(rung, ticket.lane, _fault_from(problem, rung, ticket.lane))

    def _judged(self, rung: Rung, lane: Lane, problem: Problem, inputs: Mapping[str, Any], made: Any) -> Any:
        """A suspicious output beside what the network itself makes of the same; NaN from both is an error."""
        answer = self._by_reference(inputs)
        if not problem.certain and agree(made, answer):
            self.record.false_alarm()
            self._rest.alarm_was_false(problem.kind)
            return made
        fault = _fault_from(problem, rung, lane)
        self._lane_failed(rung, lane, fault, answer)
        return answer

    def _lane_failed(self, rung: Rung, lane: Lane, fault: Fault, answer: Any = None) -> None:
        """The device is left out; where it is the only one the rung has failed."""
        self.record.fault(fault)
        others = [other for other in rung.lanes.live if other is not lane]
        if not others:
            raise _Failed(fault, answer)
        rung.lanes.drain(lane)

    def _problem(
        self, rung: Rung, inputs: Mapping[str, Any], made: Any, stage: int | None, lane: Lane
    ) -> Problem | None:
        if not hasattr(made, "shape"):
            return Problem("length", f"a {type(made).__name__} came instead of an array")
        if stage is not None:
            span, rows = rung.stages[stage], int(next(iter(inputs.values())).shape[0])
            channels = () if span.out_channels is None else (span.out_channels,)
            problem = check_stage(made, (rows, *channels, int(self._ticks(rung, inputs, stage) * span.out_per_tick)))
        else:
            problem = check_audio(self.voice, inputs, made, rung.own_distance)
        if problem is None:
            self._rest.all_is_well()
            return rung.asked(lane, self._policy) if rung.sentinel_is_due() else None
        if problem.certain:
            return problem
        if rung.backend == REFERENCE:
            return None
        return rung.asked(lane, self._policy) if self._rest.rests(problem.kind) else problem

    def _count(self, rung: Rung, inputs: Mapping[str, Any], seconds: float, stage: int | None) -> None:
        self.record.run()
        if stage is not None or self.record.now().slow:
            return
        found = rung.slowness(int(inputs["mel"].shape[0]) * int(inputs["mel"].shape[2]), seconds)
        if found:
            self.record.slow(found)
            log.warning("%s runs at less than half its speed: %s. Is the machine busy or hot?", rung.name, found)

    # Sizes.

    def _smaller(self, inputs: Mapping[str, Any], said: str, run: Callable[[Mapping[str, Any]], Any]) -> Any:
        """The same window in two halves, by rows or in time; later ones are not tried at this size again."""
        self.record.fault(Fault("memory", self._rung.name, said))
        rows, frames = int(inputs["mel"].shape[0]), int(inputs["mel"].shape[2])
        if rows > 1:
            half = (rows + 1) // 2
            self.limits.cells = min(half * frames, self.limits.cells or half * frames)
            return stacked([run(rows_of(inputs, 0, half)), run(rows_of(inputs, half, rows))])
        half = frames // 2
        if half < least_frames(self.span):
            raise OutOfMemory(
                f"a run of {frames} frames on {self._rung.name}",
                "the memory does not even hold that.",
                "Close what else uses it, or use a smaller vocoder.",
            )
        self.limits.frames = min(half, self.limits.frames or half)
        return self._within(inputs, half, run)

    def _within(self, inputs: Mapping[str, Any], most: int, run: Callable[[Mapping[str, Any]], Any]) -> Any:
        def start(part: Mapping[str, Any]) -> Pending:
            made = run(part)
            return lambda: made

        return joined(Windows(self.span, start, lambda: Bounds(most)).push(dict(inputs), last=True))

    def _ticks(self, rung: Rung, inputs: Mapping[str, Any], stage: int | None) -> int:
        """Length of a window: mel frames for the network, a stage's own unit for a stage."""
        (name, rate), *_ = (self.span if stage is None else rung.stages[stage]).inputs.items()
        return int(inputs[name].shape[-1] / rate)

    def _seconds_of(self, rung: Rung, inputs: Mapping[str, Any], stage: int | None) -> float:
        per_frame = 1.0 if stage is None else float(rung.stages[stage].per_frame)
        return self._ticks(rung, inputs, stage) / per_frame / self.voice.spec.frames_per_second

    # Going down.

    def _raise_if_asked(self, fault: Fault) -> None:
        if self._policy.on_failure == "raise":
            raise _run_error(fault, False)

    def _descend(self, failed: Rung, fault: Fault) -> None:
        self._raise_if_asked(fault)
        with self._descending:
            if self._rung is not failed:
                return  # another thread was first
            if self._next >= len(self._steps):
                raise _run_error(fault, True)
            self._rung = self._open_next(fault)
            chosen = self._rung.name
        warn_caller(
            f"{fault.where}: {fault.found}. This session goes on with {chosen}, which is slower; see `health`.",
            RuntimeWarning,
        )

    def _open_next(self, fault: Fault | None) -> Rung:
        """Opens the next step that can be opened; `fault` is why the one before is left."""
        first = fault is None
        while True:
            step = self._steps[self._next]
            self._next += 1
            try:
                rung = self._opened(step)
            except Exception as err:  # whatever a runtime throws
                fault = Fault("opening", step.name, _said(err))
                self.record.fault(fault)
                if self._policy.on_failure == "raise" or self._next >= len(self._steps) or _is_callers(err, first):
                    if isinstance(err, TrtSvcError):
                        raise
                    raise _run_error(fault, True) from err
                continue
            if fault is not None:
                self.record.fell_back()
            self.record.running_on(rung.backend, rung.precision, tuple(lane.name for lane in rung.lanes.lanes))
            if first and fault is not None:
                warn_caller(
                    f"{fault.where}: {fault.found}. This session goes on with {rung.name}, which is slower; "
                    "see `health`.",
                    RuntimeWarning,
                )
            return rung

    def _opened(self, step: Step) -> Rung:
        if step.name == REFERENCE:
            return self._get_reference()
        rung = step.open()
        for lane in list(rung.lanes.lanes):
            problem = rung.asked(lane, self._policy)
            if problem is not None and not rung.lanes.drain(lane):
                raise EngineError(
                    f"opening an engine on {lane.name}",
                    f"{problem.found}.",
                    "It does not run here as it was built: build it again (--force), and run `trt-svc doctor`.",
                )
        return rung

    # The reference.

    def _by_reference(self, inputs: Mapping[str, Any]) -> Any:
        """What the network itself makes of a window, in smaller ones where memory asks for it."""
        try:
            return self._run_on(self._get_reference(), inputs, None)
        except _TooLarge as err:
            said = str(err)
        except _Failed as failed:
            raise _run_error(failed.fault, True) from None
        return self._smaller(inputs, said, self._by_reference)

    def _get_reference(self) -> Rung:
        with self._descending:
            if self._reference is None:
                self._reference = next(step for step in self._steps if step.name == REFERENCE).open()
            return self._reference


def _is_callers(err: BaseException, first: bool) -> bool:
    """What was asked for and cannot be had here is for the caller to decide."""
    return first and isinstance(err, TrtSvcError) and not isinstance(err, EngineError)


def _run_error(fault: Fault, was_last: bool) -> RunError:
    kind = RunHung if fault.kind == "hung" else RunError
    asked = f"a run on {fault.where}"
    if was_last:
        return kind(asked, f"{fault.found}.", "There is nothing left to fall back on: is the input what it should be?")
    return kind(asked, f"{fault.found}.", "Use on_failure='fallback' to go on with a safer backend.")


def _fault_of(err: BaseException, rung: Rung, lane: Lane) -> Fault:
    return Fault("hung" if isinstance(err, RunHung) else "raised", f"{rung.name} on {lane.name}", _said(err))


def _fault_from(problem: Problem, rung: Rung, lane: Lane) -> Fault:
    return Fault(problem.kind, f"{rung.name} on {lane.name}", problem.found)


def _said(err: BaseException) -> str:
    return err.found.rstrip(".") if isinstance(err, TrtSvcError) else f"{type(err).__name__}: {shown(str(err))}"


def agree(made: Any, answer: Any) -> bool:
    """Is an output near the reference's? Two near-silences are."""
    mine, theirs = on_host(made), on_host(answer)
    if mine.shape != theirs.shape:
        return False
    if float(np.abs(theirs).max()) < SILENT:
        return float(np.abs(mine).max()) < SILENT
    return difference(mine, theirs).snr_db >= AGREES_DB
