"""What became of every vocoder, in words and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trt_svc.dropin.swap import Swap
    from trt_svc.dropin.trial import Heard

LEFT = "left to the host"


@dataclass(frozen=True)
class EngineFacts:
    """What was opened for a place."""

    family: str
    backend: str
    precision: str
    device: str
    quality_db: float | None
    """Against torch float32, when it was built; None for torch itself."""


@dataclass(frozen=True)
class PlaceReport:
    """One place of a host."""

    label: str
    state: str
    """engine, not heard yet, left to the host, or closed."""
    reason: str = ""
    family: str = ""
    backend: str = ""
    precision: str = ""
    device: str = ""
    quality_db: float | None = None
    """Of the engine against torch float32, when it was built."""
    heard_db: float | None = None
    """Of the engine against the host's own sound, on the host's own first call."""
    host_s: float | None = None
    engine_s: float | None = None
    """That call by each: the quickest of `rounds`, taken in turns."""
    rounds: int = 0
    by_engine: int = 0
    by_host: dict[str, int] | None = None

    @property
    def speedup(self) -> float | None:
        """The host's own seconds over the engine's."""
        return None if self.host_s is None or self.engine_s is None else self.host_s / self.engine_s

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "speedup": self.speedup}

    def __str__(self) -> str:
        if self.state == LEFT:
            return f"{self.label}: left to the host: {self.reason}"
        if self.state == "closed":
            return f"{self.label}: closed, {self.by_engine} calls by the engine"
        engine = f"{self.family} on {self.backend} {self.precision}, {self.device}"
        if self.heard_db is None:
            return f"{self.label}: {self.state}: {engine}"
        heard = f"{self.heard_db:.0f} dB from the host's own, {self.speedup:.2f}x as fast on its first call"
        return f"{self.label}: {self.state}: {engine}; {heard}; {self.by_engine} calls"


@dataclass(frozen=True)
class Report:
    """All places of a host."""

    host: str
    places: tuple[PlaceReport, ...]

    @property
    def accelerated(self) -> bool:
        """Does an engine stand in at least one place?"""
        return any(place.state in ("engine", "not heard yet") for place in self.places)

    def as_dict(self) -> dict[str, Any]:
        return {"host": self.host, "places": [place.as_dict() for place in self.places]}

    def __str__(self) -> str:
        return "\n".join([self.host, *(f"  {place}" for place in self.places)])


def described(swap: Swap, raced: Heard | None = None) -> PlaceReport:
    """One swap; `raced`: a later timing than that of the first call."""
    heard = raced or swap.heard
    told: dict[str, Any] = {"by_engine": swap.by_engine, "by_host": dict(swap.by_host)}
    if heard is not None:
        told |= {"heard_db": heard.snr_db, "host_s": heard.host_s, "engine_s": heard.engine_s, "rounds": heard.rounds}
    told |= swap.engine.__dict__
    if swap.aside:
        return PlaceReport(swap.label, LEFT, swap.aside, **told)
    if swap.vocoder is None or not swap.alive:
        return PlaceReport(swap.label, "closed", **told)
    return PlaceReport(swap.label, "not heard yet" if heard is None else "engine", **told)


def refused(reasons: Mapping[str, str]) -> list[PlaceReport]:
    """Places that were left alone."""
    return [PlaceReport(label, LEFT, reason) for label, reason in reasons.items()]
