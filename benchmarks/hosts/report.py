"""What the checks and races of hosts found, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from trt_svc.bench.report import Decibels, Provenance, Record
from trt_svc.files import replacing

MIN_SNR_DB = 90.0
CHECKS, SPEED = "checks.json", "speed.json"


class SceneCheck(Record):
    """One scene before, during and after `accelerate`."""

    scene: str
    repeatable: bool = False
    """Does the host itself sing the same bits twice?"""
    first_db: Decibels | None = None
    """While both still answer: the host's own answers are what counts."""
    engine_db: Decibels | None = None
    """Of the second call, which the engine answers."""
    engine_calls: int = 0
    """Runs of the engine in it."""
    reload_db: Decibels | None = None
    """After the host has loaded its model again."""
    restored: bool = False
    """Is the audio after `restore` bit for bit that of before? Within 90 dB where the host does not repeat itself."""
    run_db: Decibels | None = None
    """The same under `trt-svc run`, against the host's plain process."""
    places: tuple[str, ...] = ()
    """What `accelerate` reported."""
    problems: tuple[str, ...] = ()


class Lap(Record):
    """One vocoder of a host, its own forward and the engine in turns."""

    scene: str
    place: str
    audio_samples: int
    host_s: float
    engine_s: float
    rounds: int
    snr_db: Decibels
    engine: str
    """Backend and precision."""

    @property
    def ratio(self) -> float:
        return self.host_s / self.engine_s

    def __str__(self) -> str:
        times = f"{self.host_s:.3f} s, {self.engine} {self.engine_s:.3f} s"
        return f"{self.scene}, {self.place}: {times}, {self.ratio:.2f}x, {self.snr_db:.0f} dB"


class Left(Record):
    """A vocoder that stayed with the host."""

    scene: str
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.scene}, {self.place}: left to the host: {self.reason}"


class HostResult(Record):
    """One host."""

    driver: str
    repository: str
    commit: str = ""
    status: Literal["passed", "failed", "not there"]
    reason: str = ""
    seconds: float = 0.0
    scenes: tuple[SceneCheck, ...] = ()
    laps: tuple[Lap, ...] = ()
    left: tuple[Left, ...] = ()


class HostsReport(Record):
    """All of them, and where that was."""

    provenance: Provenance
    hosts: tuple[HostResult, ...]


def read(path: Path) -> HostsReport:
    return HostsReport.model_validate_json(path.read_text("utf-8"))


def write(path: Path, record: Record) -> None:
    with replacing(path) as part:
        part.write_text(record.model_dump_json(indent=1) + "\n", "utf-8")
