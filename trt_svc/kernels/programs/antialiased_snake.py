"""The anti-aliased snake: two-phase form (`trt_svc.graph.rewrites.two_phase`), one lane SAMPLES samples of a row.

Each sample of the doubled rate is made once per lane, not once per tap: a lane of 16 makes 44 of them where 32 are
its own. Upstream mirrors the interleaved signal at the edges: both phases go on with the first even and the last odd.
"""

from __future__ import annotations

import triton
import triton.language as tl

from trt_svc.kernels.programs.arithmetic import packed, snake_of, unpacked
from trt_svc.vocoders.antialias import kaiser_lowpass

_TAPS = [float(tap) for tap in kaiser_lowpass()]
# The filter is symmetric: six numbers, in two orders, at either rate.
TAP_0, TAP_1, TAP_2, TAP_3, TAP_4, TAP_5 = (tl.constexpr(tap) for tap in _TAPS[:6])
REACH = tl.constexpr(3)
"""Samples that a filter looks to each side, at either rate."""
HALO = tl.constexpr(8)
"""Samples loaded beside a lane's own; 2 * REACH are used."""


@triton.jit(do_not_specialize=["lanes", "length", "segments", "channels"])
def antialiased_snake(
    x, a, inverse, lanes, length, segments, channels, out,
    WHOLE: tl.constexpr, QUICK: tl.constexpr, SAMPLES: tl.constexpr, GROUP: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    inside = lane < lanes
    row = lane // segments
    segment = lane - row * segments
    scale = tl.load(a + row % channels, mask=inside, other=0.0)
    bend = tl.load(inverse + row % channels, mask=inside, other=0.0)
    if WHOLE:  # every segment is full, and the compiler knows that rows begin at multiples of SAMPLES
        near = whole_window(x, lane, segment, segments, inside, SAMPLES, GROUP)
        left = length  # not needed
    else:
        start = segment * SAMPLES
        near = clamped_window(x + row.to(tl.int64) * length, start, length, inside, SAMPLES)
        left = length - start
    even, odd = bent_phases(near, scale, bend, segment == 0, segment == segments - 1, left, WHOLE, QUICK, SAMPLES)
    outward = (TAP_0, TAP_2, TAP_4, TAP_5, TAP_3, TAP_1)
    inward = (TAP_1, TAP_3, TAP_5, TAP_4, TAP_2, TAP_0)
    made = ()
    for i in tl.static_range(SAMPLES):
        total = even[i + 1] * inward[0]
        for k in tl.static_range(1, 6):
            total += even[i + 1 + k] * inward[k]
        for k in tl.static_range(6):
            total += odd[i + k] * outward[k]
        made = made + (total,)
    tile = packed(made, SAMPLES).to(out.dtype.element_ty)
    column = tl.arange(0, SAMPLES)[None, :]
    if WHOLE:
        tl.store(out + lane[:, None].to(tl.int64) * SAMPLES + column, tile, mask=inside[:, None])
    else:
        place = start[:, None] + column
        rows = out + (row.to(tl.int64) * length)[:, None]
        tl.store(rows + place, tile, mask=inside[:, None] & (place < length))


@triton.jit
def bent_phases(near, scale, bend, first, last, left, WHOLE: tl.constexpr, QUICK: tl.constexpr, SAMPLES: tl.constexpr):
    """Even and odd samples of the doubled rate at -REACH ... SAMPLES + REACH - 1, behind the snake."""
    outward = (2 * TAP_0, 2 * TAP_2, 2 * TAP_4, 2 * TAP_5, 2 * TAP_3, 2 * TAP_1)
    inward = (2 * TAP_1, 2 * TAP_3, 2 * TAP_5, 2 * TAP_4, 2 * TAP_2, 2 * TAP_0)
    evens = ()
    odds = ()
    for i in tl.static_range(SAMPLES + 2 * REACH):
        even = near[i] * outward[0]
        odd = near[i + 1] * inward[0]
        for k in tl.static_range(1, 6):
            even += near[i + k] * outward[k]
            odd += near[i + 1 + k] * inward[k]
        even = snake_of(even, scale, bend, QUICK)
        odd = snake_of(odd, scale, bend, QUICK)
        if WHOLE:
            if i >= SAMPLES + REACH:
                even = tl.where(last, odds[SAMPLES + REACH - 1], even)
                odd = tl.where(last, odds[SAMPLES + REACH - 1], odd)
        elif i > REACH:
            even = tl.where(left > i - REACH, even, odds[i - 1])
            odd = tl.where(left > i - REACH, odd, odds[i - 1])
        evens = evens + (even,)
        odds = odds + (odd,)
    even_edge = ()
    odd_edge = ()
    for i in tl.static_range(SAMPLES + 2 * REACH):
        if i < REACH:
            even_edge = even_edge + (tl.where(first, evens[REACH], evens[i]),)
            odd_edge = odd_edge + (tl.where(first, evens[REACH], odds[i]),)
        else:
            even_edge = even_edge + (evens[i],)
            odd_edge = odd_edge + (odds[i],)
    return even_edge, odd_edge


@triton.jit
def whole_window(x, lane, segment, segments, inside, SAMPLES: tl.constexpr, GROUP: tl.constexpr):
    """Samples -2 REACH ... SAMPLES + 2 REACH - 1 around a lane's own, by loads of GROUP; edges repeat."""
    start = x + lane[:, None].to(tl.int64) * SAMPLES + tl.arange(0, GROUP)[None, :]
    first = segment == 0
    last = segment == segments - 1
    loaded = ()
    for group in tl.static_range((SAMPLES + 2 * HALO) // GROUP):
        if group * GROUP < HALO:
            there = inside & (segment > 0)
        elif group * GROUP >= SAMPLES + HALO:
            there = inside & (segment < segments - 1)
        else:
            there = inside
        tile = tl.load(start + (group * GROUP - HALO), mask=there[:, None], other=0.0)
        loaded = loaded + unpacked(tile.to(tl.float32), GROUP)
    near = ()
    for i in tl.static_range(SAMPLES + 4 * REACH):
        value = loaded[i + HALO - 2 * REACH]
        if i < 2 * REACH:
            value = tl.where(first, loaded[HALO], value)
        elif i >= SAMPLES + 2 * REACH:
            value = tl.where(last, loaded[HALO + SAMPLES - 1], value)
        near = near + (value,)
    return near


@triton.jit
def clamped_window(row, start, length, inside, SAMPLES: tl.constexpr):
    """The same sample by sample, for rows that begin and end anywhere."""
    near = ()
    for i in tl.static_range(SAMPLES + 4 * REACH):
        place = tl.minimum(tl.maximum(start + (i - 2 * REACH), 0), length - 1)
        near = near + (tl.load(row + place, mask=inside, other=0.0).to(tl.float32),)
    return near
