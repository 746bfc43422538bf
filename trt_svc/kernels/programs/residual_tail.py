"""What sits between the convolutions of a residual block and behind its branches; GROUP neighbouring samples a lane."""

from __future__ import annotations

import triton
import triton.language as tl

from trt_svc.kernels.programs.arithmetic import leaky


@triton.jit(do_not_specialize=["lanes", "groups", "channels", "slope"])
def add_leaky(
    x, y, bias, lanes, groups, channels, slope, total, active,
    BIASED: tl.constexpr, GROUP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The sum of two tensors, and the leaky ReLU of it that the next convolution reads."""
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    inside = lane < lanes
    place = lane[:, None].to(tl.int64) * GROUP + tl.arange(0, GROUP)[None, :]
    value = tl.load(x + place, mask=inside[:, None], other=0.0).to(tl.float32)
    value += tl.load(y + place, mask=inside[:, None], other=0.0).to(tl.float32)
    if BIASED:
        shift = tl.load(bias + (lane // groups) % channels, mask=inside, other=0.0).to(tl.float32)
        value += shift[:, None]
    tl.store(total + place, value.to(total.dtype.element_ty), mask=inside[:, None])
    tl.store(active + place, leaky(value, slope).to(active.dtype.element_ty), mask=inside[:, None])


@triton.jit(do_not_specialize=["lanes", "scale", "slope"])
def mean_leaky(
    first, second, third, fourth, lanes, scale, slope, mean, active,
    BRANCHES: tl.constexpr, KEEPS: tl.constexpr, GROUP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The scaled sum of two to four branches and its leaky ReLU; KEEPS writes the sum too."""
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    inside = (lane < lanes)[:, None]
    place = lane[:, None].to(tl.int64) * GROUP + tl.arange(0, GROUP)[None, :]
    value = tl.load(first + place, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(second + place, mask=inside, other=0.0).to(tl.float32)
    if BRANCHES > 2:
        value += tl.load(third + place, mask=inside, other=0.0).to(tl.float32)
    if BRANCHES > 3:
        value += tl.load(fourth + place, mask=inside, other=0.0).to(tl.float32)
    value *= scale
    if KEEPS:
        tl.store(mean + place, value.to(mean.dtype.element_ty), mask=inside)
    tl.store(active + place, leaky(value, slope).to(active.dtype.element_ty), mask=inside)
