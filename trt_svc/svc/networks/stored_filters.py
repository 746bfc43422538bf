"""Snake activations that come down through the filter that their checkpoint stores.

A voice with the snake decoder carries its anti-aliasing filters as buffers. They are the Kaiser low-pass that
`trt_svc.vocoders.antialias` computes, but for files that say otherwise. Upstream then filters on the way down with
what the file says; on the way up it has already taken its own copy (seen in what it renders).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from trt_svc.errors import WeightsMismatch
from trt_svc.vocoders.antialias import TAPS, AntiAliasedSnake, kaiser_lowpass
from trt_svc.vocoders.sovits_dec import SovitsDec

SUFFIX = ".filter"
DOWN = ".downsample.lowpass" + SUFFIX
SAME_TAPS = 1e-3
"""Below this a tap differs by having been stored in half precision."""


class StoredSnake(AntiAliasedSnake):
    """An activation with a filter of its own for the way down."""

    def __init__(self, channels: int, down: Tensor) -> None:
        super().__init__(channels, logscale=True, has_beta=True)
        self.register_buffer("down_taps", down.reshape(1, 1, TAPS).expand(channels, 1, TAPS).clone(), persistent=False)
        self.down_taps: Tensor

    def downsample(self, x: Tensor) -> Tensor:
        x = F.pad(x, (5, 6), mode="replicate")
        return F.conv1d(x, self.down_taps, stride=2, groups=self.down_taps.shape[0])


def keep_filters(dec: SovitsDec, filters: Mapping[str, Tensor], what: str) -> None:
    """Puts filters that are not the usual ones into the decoder."""
    usual = kaiser_lowpass()
    for name, module in list(dec.named_modules()):
        down = filters.get(name + DOWN)
        if down is None or not isinstance(module, AntiAliasedSnake):
            continue
        if down.numel() != TAPS:
            found = f"the filter of {name} is shaped {tuple(down.shape)}, not {TAPS} taps."
            raise WeightsMismatch(what, found, "The file is damaged: use another G_*.pth.")
        if float((down.reshape(-1) - usual).abs().max()) > SAME_TAPS:
            stored = StoredSnake(module.taps.shape[0], down)
            stored.act = module.act
            dec.set_submodule(name, stored)
