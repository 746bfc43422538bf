"""Where the random numbers of a piece come from: its place in the song, upstream's generator, or the caller."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch

from trt_svc.errors import InputError
from trt_svc.svc.samplers.base import Draws, Law
from trt_svc.types import Array

GivenDraws: TypeAlias = Callable[[int, str, tuple[int, ...]], Array]
"""(number of the draw within the piece, torch's word for it, shape) -> array; called in upstream's order."""
UPSTREAM_SEED = 52468
"""so-vits-svc seeds torch with it at every piece."""
FROM_NOISE = "diffusion_from_noise"
"""The stream that upstream draws with `randn`; all other normal ones come from `randn_like`."""
UNUSED = "unused_noise"
"""Upstream draws it behind every source and throws it away."""


def numbered(given: GivenDraws) -> Draws:
    """The draws of one piece, counted."""
    count = 0

    def draw(name: str, law: Law, shape: tuple[int, ...]) -> Array:
        nonlocal count
        kind = "rand" if law == "uniform" else "randn" if name == FROM_NOISE else "randn_like"
        made = np.asarray(given(count, kind, shape), np.float32)
        if made.size != np.prod(shape) or not np.isfinite(made).all():
            found = f"what came is shaped {made.shape}, or holds NaN or Inf."
            raise InputError(f"draw {count} ({kind}, {shape})", found, "Return finite numbers of that shape.")
        count += 1
        return made.reshape(shape)

    return draw


def upstream_draws() -> Draws:
    """Torch's numbers on a CPU in upstream's order, from its seed."""
    generator = torch.Generator().manual_seed(UPSTREAM_SEED)

    def draw(name: str, law: Law, shape: tuple[int, ...]) -> Array:
        make = torch.rand if law == "uniform" else torch.randn
        return np.asarray(make(shape, generator=generator).numpy())

    return draw
