"""Checks run one by one in a worker process: a check that hangs, dies or breaks the GPU does not stop the rest.

Nothing here needs torch or a GPU. A check fills in its figures as it goes, raises `Skip` with a reason where it does
not apply, and anything else where something is wrong.
"""

from __future__ import annotations

import faulthandler
import math
import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

LIMIT_S = 240.0
BUDGET_S = 480.0
START_S = 180.0
"""A worker that has not begun by then (it imports torch) never will."""
STACKS_S = 1.0
"""So long before the limit the stacks of a check that hangs are written down."""
KEPT_DETAILS = 6000

NO_GPU = "no GPU: skipped"
NO_TIME = "skipped: no time left"

Figures = dict[str, Any]
"""Numbers, or short words, by name."""
Run = Callable[..., None]


class Skip(Exception):
    """The check does not apply here; says why."""


@dataclass(frozen=True)
class Check:
    name: str
    about: str
    run: Callable[[Figures, str], None]
    """Gets the figures to fill in and the device to work on."""
    module: str = ""
    limit_s: float | None = None
    """None: the limit of the whole run."""


@dataclass(frozen=True)
class Outcome:
    check: str
    about: str
    result: str
    """passed, "failed: ...", "skipped: ...", or "no GPU: skipped"."""
    figures: Figures = field(default_factory=dict)
    seconds: float = 0.0
    details: str = ""
    """Where it failed."""

    @property
    def failed(self) -> bool:
        return self.result.startswith("failed")


class Suite:
    """Checks in the order in which they were written."""

    def __init__(self, after_each: Callable[[], None] = lambda: None) -> None:
        self.checks: dict[str, Check] = {}
        self.after_each = after_each
        """Tidies up behind a check; raises where the process is of no further use."""

    def check(self, run: Run) -> Run:
        """Registers `run(note, device)`."""
        self._add(_words(run), run, lambda note, device: run(note, device))
        return run

    def check_each(self, *cases: Any) -> Callable[[Run], Run]:
        """Registers `run(note, device, case)` for every case, a word or a tuple of words."""

        def register(run: Run) -> Run:
            for case in cases:
                given = case if isinstance(case, tuple) else (case,)
                name = f"{_words(run)}: {' '.join(map(str, given))}"
                self._add(name, run, lambda note, device, given=given: run(note, device, *given))
            return run

        return register

    def _add(self, name: str, run: Run, bound: Callable[[Figures, str], None]) -> None:
        assert name not in self.checks, f"two checks are called {name}"
        about = (run.__doc__ or "").strip().partition("\n\n")[0]
        self.checks[name] = Check(name, " ".join(about.split()), bound, run.__module__)


def _words(run: Run) -> str:
    return run.__name__.replace("_", " ")


@dataclass(frozen=True)
class Settings:
    """How a run goes."""

    device: str = "cuda"
    limit_s: float = LIMIT_S
    """Longest check."""
    budget_s: float = BUDGET_S
    """Longest run of all checks together."""


def run_all(
    load: Callable[[], Suite],
    names: Iterable[str],
    settings: Settings,
    say: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """The outcomes of the named checks, in order. `load` makes the suite in each worker: a function of a module."""
    suite, outcomes = load(), []
    with _workers(load, settings) as ask:
        for name in names:
            outcome = ask(suite.checks[name])
            outcomes.append(outcome)
            say(outcome)
    return outcomes


@contextmanager
def _workers(load: Callable[[], Suite], settings: Settings) -> Iterator[Callable[[Check], Outcome]]:
    """Runs a check in the present worker, or a fresh one, as long as there is time."""
    ends = time.monotonic() + settings.budget_s
    worker: Worker | None = None

    def ask(check: Check) -> Outcome:
        nonlocal worker
        left = ends - time.monotonic()
        if left <= 0:
            return Outcome(check.name, check.about, NO_TIME)
        worker = worker or Worker(load, settings.device)
        limit = settings.limit_s if check.limit_s is None else check.limit_s
        outcome = worker.run(check, limit, left)
        if worker.spent:
            worker.stop()
            worker = None
        return outcome

    try:
        yield ask
    finally:
        if worker is not None:
            worker.stop()


class Worker:
    """A process that runs checks until one breaks it."""

    def __init__(self, load: Callable[[], Suite], device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="gpu-validation-", ignore_cleanup_errors=True)
        self._stacks = Path(self._folder.name) / "stacks"
        self._mine, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, load, device, self._stacks), daemon=True)
        self._process.start()
        theirs.close()
        self._ready = False
        self.spent = False
        """Is a new one needed?"""

    def run(self, check: Check, limit_s: float, left_s: float) -> Outcome:
        """The outcome of a check, within its limit and within the time that is left."""
        started = time.monotonic()
        if not self._ready and self._reply(min(START_S, left_s)) is None:
            late = left_s < START_S and self._process.is_alive()
            return self._given_up(check, NO_TIME if late else "failed: the worker did not start", started)
        self._ready = True
        left_s -= time.monotonic() - started
        started = time.monotonic()
        allowed = min(limit_s, left_s)
        try:
            self._mine.send((check.name, allowed))
        except OSError:
            return self._given_up(check, self._end(), started)
        reply = self._reply(allowed)
        if reply is None:
            words = "failed: hung" if limit_s <= left_s else f"{NO_TIME} after {allowed:.0f} s"
            return self._given_up(check, words if self._process.is_alive() else self._end(), started)
        result, figures, details, self.spent = reply
        return Outcome(check.name, check.about, result, figures, _since(started), details)

    def _reply(self, wait_s: float) -> Any:
        """What the process says, or None where it says nothing (more)."""
        try:
            return self._mine.recv() if self._mine.poll(max(0.0, wait_s)) else None
        except (EOFError, OSError):
            self._process.join(START_S)
            return None

    def _end(self) -> str:
        self._process.join(1)
        return f"failed: the process died ({self._process.exitcode})"

    def _given_up(self, check: Check, result: str, started: float) -> Outcome:
        self.spent = True
        stacks = self._stacks.read_text("utf-8", errors="replace") if self._stacks.exists() else ""
        return Outcome(check.name, check.about, result, {}, _since(started), stacks[:KEPT_DETAILS])

    def stop(self) -> None:
        """Ends the process, also one that does not listen."""
        self._mine.close()
        if not self.spent:
            self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(10)
        self._folder.cleanup()


def _since(started: float) -> float:
    return round(time.monotonic() - started, 2)


# In the worker.


def _work(connection: Connection, load: Callable[[], Suite], device: str, stacks: Path) -> None:
    with stacks.open("w") as file:
        faulthandler.enable(file)
        suite = load()
        connection.send("ready")
        while (asked := _asked(connection)) is not None:
            name, allowed = asked
            file.seek(0)
            file.truncate()
            faulthandler.dump_traceback_later(max(0.05, allowed - STACKS_S), file=file)
            done = run_here(suite, suite.checks[name], device)
            faulthandler.cancel_dump_traceback_later()
            connection.send(done)


def _asked(connection: Connection) -> tuple[str, float] | None:
    try:
        asked: tuple[str, float] = connection.recv()
    except (EOFError, OSError):  # the run is over
        return None
    return asked


def run_here(suite: Suite, check: Check, device: str) -> tuple[str, Figures, str, bool]:
    """(result, figures, details, whether the process is of no further use)."""
    note: Figures = {}
    details = ""
    try:
        check.run(note, device)
        result = "passed"
    except Skip as why:
        result = f"skipped: {why}"
    except Exception as err:
        result, details = f"failed: {_one_line(err)}", traceback.format_exc()[-KEPT_DETAILS:]
    spent = False
    try:
        suite.after_each()
    except Exception as err:
        spent = True
        details = f"{details}\nbehind it: {_one_line(err)}".strip()
        result = result if result.startswith("failed") else f"failed: it left the GPU broken: {_one_line(err)}"
    return result, {name: _plain(value) for name, value in note.items()}, details, spent


def _one_line(err: Exception) -> str:
    return " ".join(f"{type(err).__name__}: {err}".split())[:600]


def _plain(value: Any) -> Any:
    """A figure as JSON has it."""
    if isinstance(value, (str, bool, int)):
        return value
    number = float(value)
    return number if math.isfinite(number) else str(number)
