"""What a backend answers: can you run here, and how is a network opened on you?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from trt_svc.registry import Registry
from trt_svc.types import Array
from trt_svc.vocoders.base import VocoderNet


@dataclass(frozen=True)
class Probe:
    """Can a backend run on this machine? If not: why, and what helps."""

    usable: bool
    found: str
    advice: str = ""


class Runner(Protocol):
    """An opened network."""

    def run(self, inputs: Mapping[str, Array]) -> Array:
        """Audio (B, samples) for the network's core inputs; freshly allocated at each call."""
        ...


class Backend(ABC):
    """One runtime."""

    name: ClassVar[str]

    @abstractmethod
    def probe(self) -> Probe:
        """Looks at this machine; never raises."""

    @abstractmethod
    def open(self, net: VocoderNet, device: str) -> Runner:
        """The network ready to run on a device."""


backends: Registry[type[Backend]] = Registry("backend", "trt_svc.backends")
