"""What every vocoder family provides, and the register of families."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from trt_svc.config import AudioSpec
from trt_svc.excitation import Excitation, PlainExcitation
from trt_svc.registry import Registry
from trt_svc.vocoders.reach import Reach
from trt_svc.voice import Voice, VoiceInput

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


class Stage(nn.Module, ABC):
    """A part of a network that can be run by itself, so that a stream needs less context again per block.

    `forward` takes its inputs in order; the one called "x" is what the stage before put out. A tick is its unit
    of time.
    """

    net: VocoderNet
    """The network whose layers run; a form of it in other types may be put in its place."""
    inputs: tuple[CoreInput, ...]
    """`per_frame` counts positions per tick here."""
    ticks_per_frame: Fraction
    out_per_tick: Fraction
    context: tuple[int, int]
    """Ticks each side (left, right) that the output of a tick depends on."""

    def core_inputs(self) -> tuple[CoreInput, ...]:
        """As for a whole network."""
        return self.inputs


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
    bounded: ClassVar[bool] = True
    """Does it end in tanh or clamp?"""
    live_copies: ClassVar[int] = 24
    """Tensors of the largest size that a run takes memory for at once: about 17 were seen with torch on a CPU."""

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

    def stages(self) -> list[Stage]:
        """The network as a chain of stages, or nothing where it cannot be cut."""
        return []

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

    def voice(self) -> Voice:
        """What a session has to know."""
        return Voice(
            family=self.family,
            variant=self.variant,
            spec=self.spec,
            excitation=self.excitation(),
            receptive_field=self.receptive_field,
            inputs=tuple(VoiceInput(i.name, i.channels, Fraction(i.per_frame)) for i in self.core_inputs()),
            extra_samples=self.samples_out(8) - 8 * self.spec.hop,
            bounded=self.bounded,
            bytes_per_frame=bytes_per_frame(self),
        )


PROBE_FRAMES = 4


@torch.inference_mode()
def bytes_per_frame(net: VocoderNet) -> int:
    """Memory of a run per mel frame: the largest activation, times how many of that size live at once."""
    largest = 0

    def seen(module: nn.Module, given: Any, made: Any) -> None:
        nonlocal largest
        if isinstance(made, Tensor):
            largest = max(largest, made.numel())

    hooks = [module.register_forward_hook(seen) for module in net.modules()]
    try:
        device = next(net.parameters()).device
        shapes = [(1, i.channels, int(PROBE_FRAMES * i.per_frame)) for i in net.core_inputs()]
        net(*[torch.zeros(shape, device=device) for shape in shapes])
    finally:
        for hook in hooks:
            hook.remove()
    return net.live_copies * 4 * largest // PROBE_FRAMES


families: Registry[type[VocoderNet]] = Registry("vocoder family", "trt_svc.vocoders")
