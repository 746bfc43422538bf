"""How long work reports itself, and is asked to stop."""

from __future__ import annotations

import logging
import threading
from typing import Protocol


class Progress(Protocol):
    """Receives stages of a build."""

    def stage(self, name: str) -> None:
        """A new stage begins."""

    def step(self, done: int, total: int) -> None:
        """Part of the current stage is done."""

    @property
    def cancelled(self) -> bool:
        """Should the work stop?"""
        ...


class Quiet:
    """Reports nothing; can be cancelled."""

    def __init__(self) -> None:
        self._cancel = threading.Event()

    def stage(self, name: str) -> None:
        pass

    def step(self, done: int, total: int) -> None:
        pass

    def cancel(self) -> None:
        self._cancel.set()

    @property
    def cancelled(self) -> bool:
        return self._cancel.is_set()


class Logged(Quiet):
    """Stages as lines of a log, for libraries that nobody watches: the first as a warning, the others as INFO."""

    def __init__(self, log: logging.Logger) -> None:
        super().__init__()
        self._log = log
        self._level = logging.WARNING

    def stage(self, name: str) -> None:
        self._log.log(self._level, "%s", name)
        self._level = logging.INFO


class Announced:
    """A progress that hears first what is being made, and that it may take a while."""

    def __init__(self, progress: Progress, what: str) -> None:
        self._progress = progress
        self._what = what

    def stage(self, name: str) -> None:
        if self._what:
            self._progress.stage(f"making an engine for {self._what}, once; a large network takes minutes")
            self._what = ""
        self._progress.stage(name)

    def step(self, done: int, total: int) -> None:
        self._progress.step(done, total)

    @property
    def cancelled(self) -> bool:
        return self._progress.cancelled
