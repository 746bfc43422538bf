"""What a session has been through: faults seen, backends left behind, devices given up."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, field, replace
from typing import Any

KEPT_FAULTS = 50


@dataclass(frozen=True)
class Fault:
    """One thing that went wrong in a run."""

    kind: str
    """nan, bounds, length, silence, clipping, mel, sentinel, raised, hung, memory or opening."""
    where: str
    """Backend, precision and device."""
    found: str


@dataclass(frozen=True)
class Health:
    """The state of a session; `ok` while nothing had to be recovered."""

    backend: str
    precision: str
    devices: tuple[str, ...]
    runs: int = 0
    """Runs of the network that ended well."""
    fallbacks: int = 0
    """Times that the session went on with a slower, safer backend."""
    false_alarms: int = 0
    """Suspicious outputs that the reference network confirmed."""
    faults: tuple[Fault, ...] = ()
    """The latest ones."""
    drained: tuple[str, ...] = ()
    """Devices that are not used any more."""
    slow: str = ""
    """What was seen when the engine ran at less than half the speed it had when it was built."""
    counts: dict[str, int] = field(default_factory=dict)
    """Faults by kind."""

    @property
    def ok(self) -> bool:
        return not self.counts

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "ok": self.ok}


class Record:
    """The health of a session while it changes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = Health("", "", ())

    def now(self) -> Health:
        with self._lock:
            return replace(self._state, counts=dict(self._state.counts))

    def running_on(self, backend: str, precision: str, devices: tuple[str, ...]) -> None:
        with self._lock:
            self._state = replace(self._state, backend=backend, precision=precision, devices=devices)

    def run(self) -> None:
        with self._lock:
            self._state = replace(self._state, runs=self._state.runs + 1)

    def fell_back(self) -> None:
        with self._lock:
            self._state = replace(self._state, fallbacks=self._state.fallbacks + 1)

    def false_alarm(self) -> None:
        with self._lock:
            self._state = replace(self._state, false_alarms=self._state.false_alarms + 1)

    def drained(self, device: str) -> None:
        with self._lock:
            self._state = replace(self._state, drained=(*self._state.drained, device))

    def slow(self, found: str) -> None:
        with self._lock:
            self._state = replace(self._state, slow=found)

    def fault(self, fault: Fault) -> None:
        with self._lock:
            counts = {**self._state.counts, fault.kind: self._state.counts.get(fault.kind, 0) + 1}
            self._state = replace(self._state, counts=counts, faults=(*self._state.faults, fault)[-KEPT_FAULTS:])
