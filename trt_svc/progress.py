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
    """Stages as lines of a log (level INFO), for libraries that nobody watches."""

    def __init__(self, log: logging.Logger, what: str) -> None:
        super().__init__()
        self._log = log
        self._what = what

    def stage(self, name: str) -> None:
        self._log.info("%s: %s", self._what, name)
