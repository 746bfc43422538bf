"""The harmonic source: phase, sines, noise by absolute position, merging layer and tanh.

A lane makes SAMPLES samples of one frame. Their noise is HARMONICS whole blocks of the counter-based generator
(`trt_svc.noise`): a block is four words, a word two normal numbers, and the harmonics of a sample come one by one.
"""

from __future__ import annotations

import triton
import triton.language as tl

from trt_svc.kernels.programs.arithmetic import packed, sine

PI = tl.constexpr(3.14159265358979)
WORDS_PER_BLOCK = tl.constexpr(4)
NORMALS_PER_BLOCK = tl.constexpr(8)
ROUNDS = tl.constexpr(10)
MULTIPLIER_0 = tl.constexpr(0xD2E7470EE14C6C93)
MULTIPLIER_1 = tl.constexpr(0xCA5A826395121157)
KEY_STEP_0 = tl.constexpr(0x9E3779B97F4A7C15)
KEY_STEP_1 = tl.constexpr(0xBB67AE8584CAA73B)


@triton.jit(do_not_specialize=["lanes", "segments", "segments_per_frame", "bias", "tone", "hiss", "unvoiced"])
def step_source(
    starts, steps, f0, weight, keys, begins,
    lanes, segments, segments_per_frame, bias, tone, hiss, unvoiced, out,
    HARMONICS: tl.constexpr, SAMPLES: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Fixed-point phase: starts and steps (rows, frames, harmonics) of `StepPhase`, as 64-bit numbers."""
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    inside = lane < lanes
    row = lane // segments
    segment = lane - row * segments
    frame = lane // segments_per_frame  # counted through all rows
    begin = (segment % segments_per_frame) * SAMPLES + 1
    voiced = tl.load(f0 + frame, mask=inside, other=0.0) > 0
    sung = zeros(SAMPLES, LANES)
    for h in tl.static_range(HARMONICS):
        entry = frame.to(tl.int64) * HARMONICS + h
        step = tl.load(steps + entry, mask=inside, other=0)
        phase = tl.load(starts + entry, mask=inside, other=0) + step * begin.to(tl.int64)
        part = tl.load(weight + h)
        summed = ()
        for i in tl.static_range(SAMPLES):
            half_turns = (phase >> 32).to(tl.int32).to(tl.float32)
            summed = summed + (sung[i] + sine(half_turns * (PI / 2147483648.0)) * part,)
            phase += step
        sung = summed
    hissed = noise(weight, keys, begins, row, segment, inside, HARMONICS, SAMPLES, LANES)
    made = merged(sung, hissed, voiced, bias, tone, hiss, unvoiced, SAMPLES)
    place = lane[:, None].to(tl.int64) * SAMPLES + tl.arange(0, SAMPLES)[None, :]
    tl.store(out + place, packed(made, SAMPLES), mask=inside[:, None])


@triton.jit(do_not_specialize=["lanes", "segments", "segments_per_frame", "bias", "tone", "hiss", "unvoiced"])
def ramp_source(
    starts, steps, initial, f0, weight, keys, begins,
    lanes, segments, segments_per_frame, bias, tone, hiss, unvoiced, out,
    HARMONICS: tl.constexpr, SAMPLES: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Float phase, rounded as upstream: starts and steps (rows, frames) of `RampPhase`, initial (rows, harmonics)."""
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    inside = lane < lanes
    row = lane // segments
    segment = lane - row * segments
    frame = lane // segments_per_frame  # counted through all rows
    begin = (segment % segments_per_frame) * SAMPLES + 1
    voiced = tl.load(f0 + frame, mask=inside, other=0.0) > 0
    start = tl.load(starts + frame, mask=inside, other=0.0)
    step = tl.load(steps + frame, mask=inside, other=0.0)
    sung = zeros(SAMPLES, LANES)
    for h in tl.static_range(HARMONICS):
        part = tl.load(weight + h)
        offset = tl.load(initial + row * HARMONICS + h, mask=inside, other=0.0)
        summed = ()
        for i in tl.static_range(SAMPLES):
            cycles = step * (begin + i).to(tl.float32) + start
            angle = (cycles * (h + 1.0) + offset) * (2.0 * PI)
            summed = summed + (sung[i] + sine(angle) * part,)
        sung = summed
    hissed = noise(weight, keys, begins, row, segment, inside, HARMONICS, SAMPLES, LANES)
    made = merged(sung, hissed, voiced, bias, tone, hiss, unvoiced, SAMPLES)
    place = lane[:, None].to(tl.int64) * SAMPLES + tl.arange(0, SAMPLES)[None, :]
    tl.store(out + place, packed(made, SAMPLES), mask=inside[:, None])


@triton.jit(do_not_specialize=["lanes", "samples_per_frame", "frames"])
def glide_source(starts, steps, glides, lanes, samples_per_frame, out, LANES: tl.constexpr):
    """One unit sine whose pitch glides (mini-NSF): starts, steps and glides (rows, frames); one sample a lane."""
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    inside = lane < lanes
    frame = lane // samples_per_frame
    n = (lane - frame * samples_per_frame + 1).to(tl.float32)
    ramp = tl.load(steps + frame, mask=inside, other=0.0) * n
    glide = tl.load(glides + frame, mask=inside, other=0.0) * n * (n - 1.0)
    ramp += tl.div_rn(glide, samples_per_frame.to(tl.float32))
    cycles = ramp + tl.load(starts + frame, mask=inside, other=0.0)
    tl.store(out + lane, sine(cycles * (2.0 * PI)), mask=inside)


@triton.jit
def zeros(SAMPLES: tl.constexpr, LANES: tl.constexpr):
    none = tl.full((LANES,), 0.0, tl.float32)
    values = ()
    for _ in tl.static_range(SAMPLES):
        values = values + (none,)
    return values


@triton.jit
def merged(sung, hissed, voiced, bias, tone, hiss, unvoiced, SAMPLES: tl.constexpr):
    """tanh of the linear layer: the amplitudes are one per lane."""
    loud = tl.where(voiced, tone, 0.0)
    breath = tl.where(voiced, hiss, unvoiced)
    made = ()
    for i in tl.static_range(SAMPLES):
        total = sung[i] * loud + hissed[i] * breath + bias
        made = made + (1.0 - 2.0 / (tl.exp(2.0 * total) + 1.0),)
    return made


@triton.jit
def noise(
    weight, keys, begins, row, segment, inside,
    HARMONICS: tl.constexpr, SAMPLES: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """The merging layer on normal numbers: SAMPLES sums per lane. `begins` counts lanes of the whole recording."""
    seed = tl.load(keys + 2 * row, mask=inside, other=0).to(tl.uint64, bitcast=True)
    stream = tl.load(keys + 2 * row + 1, mask=inside, other=0).to(tl.uint64, bitcast=True)
    place = tl.load(begins + row, mask=inside, other=0) + segment
    first_block = (place * HARMONICS).to(tl.uint64, bitcast=True)
    sums = zeros(SAMPLES, LANES)
    normals = ()
    for b in tl.static_range(HARMONICS):
        normals = normals + block_of_normals(first_block + b, seed, stream)
    hissed = ()
    for i in tl.static_range(SAMPLES):
        total = sums[i]
        for h in tl.static_range(HARMONICS):
            total += normals[i * HARMONICS + h] * tl.load(weight + h)
        hissed = hissed + (total,)
    return hissed


@triton.jit
def block_of_normals(block, seed, stream):
    """Box-Muller on the four words of a block."""
    words = philox(block + 1, seed, stream)  # NumPy counts on before it draws
    normals = ()
    for i in tl.static_range(WORDS_PER_BLOCK):
        high = (words[i] >> 32).to(tl.uint32).to(tl.float32) + 0.5
        radius = tl.sqrt(-2.0 * tl.minimum(tl.log(high * (1.0 / 4294967296.0)), 0.0))
        angle = words[i].to(tl.uint32).to(tl.int32, bitcast=True).to(tl.float32) * (PI / 2147483648.0)
        normals = normals + (radius * sine(angle + 0.5 * PI), radius * sine(angle))
    return normals


@triton.jit
def philox(counter, key_0, key_1):
    """Philox4x64-10 of a counter whose upper three words are zero."""
    none = counter ^ counter
    c0, c1, c2, c3 = counter, none, none, none
    for i in tl.static_range(ROUNDS):
        if i > 0:
            key_0 += KEY_STEP_0
            key_1 += KEY_STEP_1
        high_0 = tl.umulhi(c0, MULTIPLIER_0)
        high_1 = tl.umulhi(c2, MULTIPLIER_1)
        low_0 = c0 * MULTIPLIER_0
        low_1 = c2 * MULTIPLIER_1
        c0, c1, c2, c3 = high_1 ^ c1 ^ key_0, low_1, high_0 ^ c3 ^ key_1, low_0
    return c0, c1, c2, c3
