"""BigVGAN's anti-aliased activation in one pass over memory: up by two, snake, down by two."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from trt_svc.kernels import launch
from trt_svc.kernels.variants import BITS, LANES, Variant, are_aligned, dtype_of, widest_group
from trt_svc.vocoders.antialias import TAPS, kaiser_lowpass

SAMPLES = 16
"""Of a row, that a lane makes."""


def run(x: Tensor, a: Tensor, inverse: Tensor) -> Tensor:
    """x + inverse * sin(a x)^2 at twice the rate. x is (B, C, T); a and inverse are (C,), float32."""
    x, a, inverse = x.contiguous(), a.float().contiguous(), inverse.float().contiguous()
    out = torch.empty_like(x)
    batch, channels, length = x.shape
    segments = -(-length // SAMPLES)
    lanes = batch * channels * segments
    whole = length % SAMPLES == 0 and are_aligned(x, a, inverse, out)
    launch.start(variant(dtype_of(x), whole), lanes, x, a, inverse, lanes, length, segments, channels, out)
    return out


def reference(x: Tensor, a: Tensor, inverse: Tensor) -> Tensor:
    """The same, operation by operation as upstream does it."""
    taps = kaiser_lowpass().to(x).expand(x.shape[1], 1, TAPS)
    doubled = F.conv_transpose1d(F.pad(x, (5, 5), mode="replicate"), taps, stride=2, groups=x.shape[1])
    doubled = 2 * doubled[..., 15:-15]
    sine = torch.sin(doubled * a.to(x)[:, None])
    bent = doubled + inverse.to(x)[:, None] * (sine * sine)
    return F.conv1d(F.pad(bent, (5, 6), mode="replicate"), taps, stride=2, groups=x.shape[1])


@cache
def variant(dtype: str, whole: bool) -> Variant:
    """`whole`: rows are multiples of SAMPLES, and everything is aligned."""
    rows = ("lanes", "length", "segments", "channels")
    tensors = [("x", f"*{dtype}"), ("a", "*fp32"), ("inverse", "*fp32")]
    types = [*tensors, *((name, "i32") for name in rows), ("out", f"*{dtype}")]
    constants = {
        "WHOLE": int(whole),
        "QUICK": int(dtype != "fp32"),
        "SAMPLES": SAMPLES,
        "GROUP": widest_group(dtype),
        "LANES": LANES,
    }
    program = "antialiased_snake"
    return Variant(program, program, tuple(types), tuple(constants.items()), dtype, aligned=whole)


def variants() -> list[Variant]:
    return [variant(dtype, whole) for dtype in BITS for whole in (True, False)]
