"""What the programs share: sines without a slow path, and rows of samples in the registers of one thread."""

from __future__ import annotations

import os

import triton
import triton.language as tl
from triton.language.extra import libdevice

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET", "0") == "1")

INVERSE_PI = tl.constexpr(0.318309886183790672)
# Pi in two parts, the first so short that its products with whole numbers up to 256 are exact without a fused product.
PI_HIGH = tl.constexpr(3.14154052734375)
PI_LOW = tl.constexpr(5.2126244554528967e-05)
ROUNDER = tl.constexpr(12582912.0)  # adding 1.5 * 2**23 leaves no bits behind the point
# sin(r) / r = 1 + SINE_3 r^2 + ... for |r| <= pi / 2, to 5e-9.
SINE_3 = tl.constexpr(-0.16666656684)
SINE_5 = tl.constexpr(0.00833302513895)
SINE_7 = tl.constexpr(-1.98074187263e-4)
SINE_9 = tl.constexpr(2.60190306549e-6)


@triton.jit
def half_turns(angle):
    """The nearest whole number of half turns, as a float."""
    return (angle * INVERSE_PI + ROUNDER) - ROUNDER


@triton.jit
def sine_within_quarter(angle, turns):
    """The sine of what is left of an angle without its half turns."""
    rest = angle - turns * PI_HIGH
    rest = rest - turns * PI_LOW
    square = rest * rest
    tail = SINE_3 + square * (SINE_5 + square * (SINE_7 + square * SINE_9))
    return rest + rest * (square * tail)


@triton.jit
def quick_sine(angle):
    """The hardware's sine: 5e-7 beside the rounding of the angle itself; for results in half precision."""
    if INTERPRETED:
        value = tl.sin(angle)
    else:
        value = libdevice.fast_sinf(angle)
    return value


@triton.jit
def sine(angle):
    """Sine in float32, a few 1e-7 beside the rounding of the angle itself."""
    turns = half_turns(angle)
    odd = turns - 2.0 * tl.floor(turns * 0.5)
    value = sine_within_quarter(angle, turns)
    return tl.where(odd == 0.0, value, -value)


@triton.jit
def snake_of(x, a, inverse, QUICK: tl.constexpr):
    """x + inverse * sin(a x)^2."""
    angle = x * a
    if QUICK:
        value = quick_sine(angle)
    else:
        value = sine_within_quarter(angle, half_turns(angle))  # up to its sign
    return x + inverse * (value * value)


@triton.jit
def leaky(x, slope):
    return tl.where(x > 0.0, x, x * slope)


@triton.jit
def unpacked(tile, WIDTH: tl.constexpr):
    """A tile (lanes, WIDTH) as WIDTH vectors (lanes,)."""
    columns = (tile,)
    for level in tl.static_range(4):
        if 2**level < WIDTH:  # column r holds every 2**level-th sample from r on
            evens = ()
            odds = ()
            for i in tl.static_range(2**level):
                even, odd = tl.split(tl.reshape(columns[i], tile.shape[0], WIDTH // 2 ** (level + 1), 2))
                evens = evens + (even,)
                odds = odds + (odd,)
            columns = evens + odds
    vectors = ()
    for i in tl.static_range(WIDTH):
        vectors = vectors + (tl.reshape(columns[i], tile.shape[0]),)
    return vectors


@triton.jit
def packed(vectors, WIDTH: tl.constexpr):
    """WIDTH vectors (lanes,) as a tile (lanes, WIDTH)."""
    columns = vectors
    for level in tl.static_range(4):
        if 2**level < WIDTH:
            joined = ()
            for i in tl.static_range(WIDTH // 2 ** (level + 1)):
                both = tl.join(columns[i], columns[i + WIDTH // 2 ** (level + 1)])
                joined = joined + (tl.reshape(both, both.shape[0], 2 ** (level + 1)),)
            columns = joined
    return columns[0]
