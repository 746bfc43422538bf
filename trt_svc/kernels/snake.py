"""The plain snake activation in one pass over memory."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from trt_svc.kernels import launch
from trt_svc.kernels.variants import BITS, LANES, Variant, dtype_of, group_for, widest_group


def run(x: Tensor, a: Tensor, inverse: Tensor) -> Tensor:
    """x + inverse * sin(a x)^2. x is (B, C, T); a and inverse are (C,), float32."""
    x, a, inverse = x.contiguous(), a.float().contiguous(), inverse.float().contiguous()
    out = torch.empty_like(x)
    _, channels, length = x.shape
    group = group_for(length, x, a, inverse, out)
    lanes = x.numel() // group
    launch.start(variant(dtype_of(x), group), lanes, x, a, inverse, lanes, length // group, channels, out)
    return out


def reference(x: Tensor, a: Tensor, inverse: Tensor) -> Tensor:
    sine = torch.sin(x * a.to(x)[:, None])
    return x + inverse.to(x)[:, None] * (sine * sine)


@cache
def variant(dtype: str, group: int) -> Variant:
    """`group` samples are loaded at once."""
    rows = ("lanes", "groups", "channels")
    tensors = [("x", f"*{dtype}"), ("a", "*fp32"), ("inverse", "*fp32")]
    types = [*tensors, *((name, "i32") for name in rows), ("out", f"*{dtype}")]
    constants = {"QUICK": int(dtype != "fp32"), "GROUP": group, "LANES": LANES}
    return Variant("snake", "snake", tuple(types), tuple(constants.items()), dtype, aligned=group > 1)


def variants() -> list[Variant]:
    return [variant(dtype, group) for dtype in BITS for group in (widest_group(dtype), 1)]
