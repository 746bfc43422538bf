"""The plain snake, GROUP samples of a row per lane: as many as one load brings, or one where rows end anywhere."""

from __future__ import annotations

import triton
import triton.language as tl

from trt_svc.kernels.programs.arithmetic import snake_of


@triton.jit(do_not_specialize=["lanes", "groups", "channels"])
def snake(
    x, a, inverse, lanes, groups, channels, out,
    QUICK: tl.constexpr, GROUP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    inside = lane < lanes
    channel = (lane // groups) % channels
    scale = tl.load(a + channel, mask=inside, other=0.0)
    bend = tl.load(inverse + channel, mask=inside, other=0.0)
    place = lane[:, None].to(tl.int64) * GROUP + tl.arange(0, GROUP)[None, :]
    value = tl.load(x + place, mask=inside[:, None], other=0.0).to(tl.float32)
    value = snake_of(value, scale[:, None], bend[:, None], QUICK)
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside[:, None])
