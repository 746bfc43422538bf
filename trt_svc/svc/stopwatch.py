"""How long every stage took, whichever thread it ran in."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up seconds and calls by stage, in the order in which they first came."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: dict[str, tuple[float, int]] = {}

    def begin(self) -> None:
        """Forgets what was measured."""
        with self._lock:
            self._taken.clear()

    @contextmanager
    def running(self, stage: str) -> Iterator[None]:
        """Times a block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            with self._lock:
                before, calls = self._taken.get(stage, (0.0, 0))
                self._taken[stage] = before + seconds, calls + 1

    def taken(self) -> dict[str, tuple[float, int]]:
        """Stage -> (seconds, calls)."""
        with self._lock:
            return dict(self._taken)
