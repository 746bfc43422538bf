"""Something like singing, for the gates of engines: a gliding tone with overtones, and breath."""

from __future__ import annotations

import numpy as np

from trt_svc.types import Array

OVERTONES = 12
BREATH = 0.02
LOW_HZ, HIGH_HZ = 110.0, 440.0
VIBRATO_HZ, VIBRATO_CENTS = 5.5, 30.0
LOUDEST = 0.1
"""Of the lowest tone; all of them together stay below full scale."""


def sung(batch: int, samples: int, rate_hz: int, seed: int) -> Array:
    """(batch, samples): every row glides from another pitch to another one."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(samples) / rate_hz
    first, last = rng.uniform(np.log2(LOW_HZ), np.log2(HIGH_HZ), (2, batch, 1))
    octaves = first + (last - first) * np.linspace(0, 1, samples)
    octaves += VIBRATO_CENTS / 1200 * np.sin(2 * np.pi * VIBRATO_HZ * seconds)
    phase = 2 * np.pi * np.cumsum(2**octaves, axis=1) / rate_hz
    made = rng.normal(0, BREATH, (batch, samples))
    for number in range(1, OVERTONES + 1):
        made += LOUDEST / number * np.sin(number * phase)
    return made.astype(np.float32)
