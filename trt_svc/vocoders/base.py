"""What every vocoder family provides, and the register of families."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from trt_svc.config import AudioSpec
from trt_svc.excitation import Excitation, PlainExcitation
from trt_svc.registry import Registry
from trt_svc.vocoders.reach import Reach

Shapes = Mapping[str, tuple[int, ...]]
"""Parameter name -> shape, after unwrapping the layout and folding weight norm."""


@dataclass(frozen=True)
class CoreInput:
    """One tensor input of the network proper: (batch, channels, frames * per_frame)."""

    name: str
    channels: int
    per_frame: int | Fraction = 1
    may_be_constant: bool = False
    """Time length 1 is accepted too and means the same value for every frame."""


class VocoderNet(nn.Module, ABC):
    """An inference-only vocoder network: `forward` takes its core inputs in order and gives (B, samples)."""

    family: ClassVar[str]
    spec: AudioSpec
    variant: str = ""
    """A few words for people: which member of the family this is."""
    float32_layers: ClassVar[tuple[str, ...]] = ()
    """Layers (shell patterns) that stay float32 inside a half-precision network, such as a snake's sine."""
    float32_tails: ClassVar[tuple[str, ...]] = ()
    """Layers whose input and output stay float32: the end of the network."""
    half_regions: ClassVar[tuple[str, ...]] = ()
    """Whole submodules that run in half between float32 neighbours."""

    @classmethod
    @abstractmethod
    def claims(cls, shapes: Shapes, config: Mapping[str, Any] | None) -> bool:
        """Do these weights (and this config, if any) belong to the family?"""

    @classmethod
    @abstractmethod
    def from_config(cls, config: Mapping[str, Any], shapes: Shapes, source: str | None = None) -> Self:
        """The network for upstream's config dictionary; `shapes` settles what configs leave open."""

    @classmethod
    def adapt(cls, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Upstream's weights under this module's names."""
        return weights

    @abstractmethod
    def core_inputs(self) -> tuple[CoreInput, ...]:
        """The tensors `forward` takes, in order; the mel comes first."""

    def excitation(self) -> Excitation:
        """The stage in front of the network."""
        return PlainExcitation()

    @abstractmethod
    def reach(self) -> Reach:
        """Output samples that one mel frame influences."""

    @property
    def receptive_field(self) -> tuple[int, int]:
        """Mel frames each side (left, right) that one output frame depends on."""
        return self.reach().frames(self.spec.hop)

    def samples_out(self, frames: int) -> int:
        """Length of the audio made from `frames` mel frames."""
        return frames * self.spec.hop


families: Registry[type[VocoderNet]] = Registry("vocoder family", "trt_svc.vocoders")
