"""A song for the reference case: sung phrases with pauses between them, the same samples every time."""

from __future__ import annotations

import numpy as np

from trt_svc.types import Array, Doubles

RATE_HZ = 44100
LOWEST_HZ, OCTAVES = 147.0, 1.5
NOTE_S, PHRASE_S, PAUSE_S = (0.25, 0.8), (4.0, 8.0), (0.5, 0.9)
"""Ranges; pauses are long enough for a slicer to cut at, phrases short enough to be single pieces."""
GLIDE_S = 0.06
VIBRATO_HZ, VIBRATO_CENTS = 5.5, 25.0
VOWELS_HZ = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480))
"""Formants of a, i, u and e."""
BANDWIDTH_HZ = 180.0
OVERTONES = 30
EDGE_S = 0.03
PEAK = 0.5
HISS = 3e-4
"""Far below the threshold of a slicer."""


def song(seconds: float, seed: int = 0) -> Array:
    """(samples,) at 44.1 kHz: a first phrase, a pause, another phrase, and so on."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * RATE_HZ)
    made, at = HISS * rng.standard_normal(samples), round(0.3 * RATE_HZ)
    while at < samples:
        phrase = _phrase(rng, min(rng.uniform(*PHRASE_S), (samples - at) / RATE_HZ))
        made[at : at + len(phrase)] += phrase
        at += len(phrase) + round(rng.uniform(*PAUSE_S) * RATE_HZ)
    return np.asarray(PEAK / np.abs(made).max() * made, np.float32)


def sung(f0_hz: Doubles, formants_hz: Doubles, rate_hz: int) -> Doubles:
    """(samples,) of a pitch (samples,) through three formants (3, samples)."""
    phase = 2 * np.pi * np.cumsum(f0_hz) / rate_hz
    made = np.zeros_like(f0_hz)
    for number in range(1, OVERTONES + 1):
        freq = number * f0_hz
        tone = np.sin(number * phase) * (freq < 0.45 * rate_hz)
        gaps = (freq - formants_hz) / BANDWIDTH_HZ
        made += tone * (0.05 / number + (1 / (1 + gaps**2)).sum(axis=0) / number**0.5)
    return made


def _phrase(rng: np.random.Generator, seconds: float) -> Doubles:
    """Notes that glide into one another, with vibrato, a vowel each, and a soft start and end."""
    samples = round(seconds * RATE_HZ)
    lengths = rng.uniform(*NOTE_S, int(seconds / NOTE_S[0]) + 2)
    note = np.minimum(np.searchsorted(np.cumsum(lengths), np.arange(samples) / RATE_HZ, "right"), len(lengths) - 1)
    pitches = OCTAVES * rng.beta(2, 2, len(lengths))
    vowels = np.array(VOWELS_HZ, float)[rng.integers(0, len(VOWELS_HZ), len(lengths))]
    steps = np.stack([pitches, *vowels.T])[:, note]
    width = round(GLIDE_S * RATE_HZ)
    padded = np.pad(steps, ((0, 0), (width // 2, width - width // 2)), mode="edge")
    sums = np.cumsum(padded, axis=1)
    octaves, *formants = (sums[:, width:] - sums[:, :-width]) / width
    octaves = octaves + VIBRATO_CENTS / 1200 * np.sin(2 * np.pi * VIBRATO_HZ * np.arange(samples) / RATE_HZ)
    made = sung(LOWEST_HZ * 2**octaves, np.stack(formants), RATE_HZ)
    edge = min(round(EDGE_S * RATE_HZ), samples // 2)
    fade = np.linspace(0, 1, edge)
    made[:edge] *= fade
    made[samples - edge :] *= fade[::-1]
    return np.asarray(made * (1 + 0.02 * rng.standard_normal(samples)))
