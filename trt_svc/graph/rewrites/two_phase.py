"""BigVGAN's anti-aliased activation without zero-stuffing: even and odd samples of the doubled rate kept apart.

Upsampling by two makes every second product a product with zero. Written per phase, each output is a 7-tap
sum over its neighbours, the snake acts on both phases, and the way down is a 7-tap sum over each. Upstream
mirrors the *interleaved* signal at the edges, so both phases continue with the first even and the last odd value.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trt_svc.graph.rewrites.base import Rewrite, replace_modules, rewrites
from trt_svc.vocoders.antialias import AntiAliasedSnake, kaiser_lowpass
from trt_svc.vocoders.base import VocoderNet

WINDOW = 7
REACH = 3


def phase_taps() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """7-tap windows: up even, up odd (gain 2 included), down even, down odd."""
    f = kaiser_lowpass()
    none = torch.zeros(1)
    up_even = 2 * torch.cat([f[1::2].flip(0), none])
    up_odd = 2 * torch.cat([none, f[0::2].flip(0)])
    down_even = torch.cat([none, f[1::2]])
    down_odd = torch.cat([f[0::2], none])
    return up_even, up_odd, down_even, down_odd


class TwoPhaseSnake(nn.Module, ABC):
    """The anti-aliased activation in two phases; subclasses say how a 7-tap sum is done."""

    samples_each_side = 5

    def __init__(self, original: AntiAliasedSnake) -> None:
        super().__init__()
        self.act = original.act

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (REACH, REACH), mode="replicate")
        even, odd = self.act(self.filtered(padded, 0)), self.act(self.filtered(padded, 1))
        first, last = even[..., :1], odd[..., -1:]
        before, after = [first] * REACH, [last] * REACH
        down_even = self.filtered(torch.cat([*before, even, *after], dim=-1), 2)
        return down_even + self.filtered(torch.cat([*before, odd, *after], dim=-1), 3)

    @abstractmethod
    def filtered(self, padded: Tensor, which: int) -> Tensor:
        """7-tap sums, 6 samples shorter than their input."""


class ConvPhases(TwoPhaseSnake):
    """7-tap sums as depthwise convolutions."""

    def __init__(self, original: AntiAliasedSnake) -> None:
        super().__init__(original)
        channels = original.taps.shape[0]
        for i, taps in enumerate(phase_taps()):
            self.register_buffer(f"taps{i}", taps.expand(channels, 1, WINDOW).clone(), persistent=False)

    def filtered(self, padded: Tensor, which: int) -> Tensor:
        taps: Tensor = getattr(self, f"taps{which}")
        return F.conv1d(padded, taps, groups=taps.shape[0])


class SlicePhases(TwoPhaseSnake):
    """7-tap sums as shifted slices: nothing but pointwise work, which compilers fuse into one kernel."""

    def __init__(self, original: AntiAliasedSnake) -> None:
        super().__init__(original)
        self.taps = [[float(tap) for tap in taps] for taps in phase_taps()]

    def filtered(self, padded: Tensor, which: int) -> Tensor:
        total: Tensor | None = None
        for shift, tap in enumerate(self.taps[which]):
            if tap == 0:
                continue
            end = shift - (WINDOW - 1)
            part = padded[..., shift : end if end else None] * tap
            total = part if total is None else total + part
        assert total is not None
        return total


@rewrites.register("two-phase-conv")
class TwoPhaseConv(Rewrite):
    name = "two-phase-conv"
    excludes: ClassVar[tuple[str, ...]] = ("two-phase-slices", "plugin-snake")

    def applies(self, net: VocoderNet) -> bool:
        return any(type(m) is AntiAliasedSnake for m in net.modules())

    def apply(self, net: VocoderNet) -> None:
        replace_modules(net, AntiAliasedSnake, ConvPhases)


@rewrites.register("two-phase-slices")
class TwoPhaseSlices(TwoPhaseConv):
    name = "two-phase-slices"
    excludes: ClassVar[tuple[str, ...]] = ("two-phase-conv", "plugin-snake")

    def apply(self, net: VocoderNet) -> None:
        replace_modules(net, AntiAliasedSnake, SlicePhases)
