"""What a contender answers: can you run here, in which forms, and open this network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from trt_svc.bench.race import Entrant
from trt_svc.bench.report import Opening
from trt_svc.bench.subjects import Subject
from trt_svc.build_config import ShapeRange
from trt_svc.registry import Registry

Forms = tuple[str, ...] | None
"""Rewrites in a graph; () is the graph as exported; None: there is no graph."""
UPSTREAM = "torch"
"""The upstream way, and in float32 the reference of all quality."""
FORMS = ("plain", "usual", "all")


@dataclass(frozen=True)
class Track:
    """Where the race takes place, and the shapes it will see."""

    device: str
    frames: tuple[ShapeRange, ...]
    """Empty: inside the family's usual profiles, so that an engine fits which is there already."""
    batch: ShapeRange | None


@dataclass
class Opened:
    """An entrant and what it took to get there."""

    entrant: Entrant
    opening: Opening
    threads: int | None = None
    chosen: str = ""
    """What `auto` chose."""


class Contender(ABC):
    """Something that can run a network."""

    name: ClassVar[str]
    precisions: tuple[str, ...] = ("fp32",)

    @abstractmethod
    def why_not(self, device: str, precision: str) -> str:
        """Why it cannot run on this device in this precision; empty where it can."""

    def forms(self, subject: Subject, wanted: Sequence[str]) -> list[Forms]:
        """Its rows for a network, for `wanted` of FORMS."""
        return [None]

    @abstractmethod
    def prepare(self, subject: Subject, track: Track, precision: str, forms: Forms) -> Callable[[], Opened]:
        """Does what is done once, such as building an engine; what it gives opens that, for any shape of the track."""


contenders: Registry[Contender] = Registry("contender", "trt_svc.bench.contenders")
