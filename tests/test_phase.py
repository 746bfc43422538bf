"""Phase is exact after an hour, and the same bits in chunks as in one go."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_svc.excitation import Excitation, GlideExcitation, HarmonicExcitation
from trt_svc.noise import Noise
from trt_svc.phase import RampPhase, StepPhase, cycles_from_phase, phase_from_cycles

RATE, SAMPLES = 44100, 512
HOUR = 60 * 60 * RATE // SAMPLES
TOLERANCE_CYCLES = 1e-4

CONTOURS = {
    "constant 440 Hz": lambda rng: np.full(HOUR, 440.0),
    "constant 1099.9 Hz": lambda rng: np.full(HOUR, 1099.9),
    "vibrato with gaps": lambda rng: np.where(
        np.arange(HOUR) % 97 < 80, 330 * 2 ** (np.sin(np.arange(HOUR) / 5) / 12), 0
    ),
    "random walk": lambda rng: np.clip(220 + np.cumsum(rng.normal(0, 2, HOUR)), 40, 1100),
}


def exact_cycles(f0: np.ndarray, harmonic: int, last_sample: int) -> float:
    """Phase mod 1 of a harmonic at a sample of the last frame, in whole-number arithmetic: float32 f0 are fractions of 2**19."""
    scaled = [int(value * 2.0**19) for value in f0.astype(np.float64)]
    total = sum(scaled[:-1]) * SAMPLES + scaled[-1] * last_sample
    unit = RATE * 2**19
    return total * harmonic % unit / unit


def distance(a: float, b: float) -> float:
    d = (a - b) % 1.0
    return min(d, 1 - d)


@pytest.mark.parametrize("contour", CONTOURS)
def test_openvpi_after_an_hour(contour: str) -> None:
    f0 = CONTOURS[contour](np.random.default_rng(0)).astype(np.float32)
    cycles = RampPhase(1, RATE, SAMPLES, 9).cycles(f0[None])[0, -1]
    for sample in (1, 100, SAMPLES):
        ninth = float(np.float32(cycles[sample - 1] * np.float32(9)))
        assert distance(ninth, exact_cycles(f0, 9, sample)) <= TOLERANCE_CYCLES


@pytest.mark.parametrize("smears", [False, True])
@pytest.mark.parametrize("contour", CONTOURS)
def test_running_sums_after_an_hour(contour: str, smears: bool) -> None:
    f0 = CONTOURS[contour](np.random.default_rng(0)).astype(np.float32)
    initial = np.linspace(0, 0.8, 9, dtype=np.float32)[None]
    starts, steps = StepPhase(initial, RATE, SAMPLES, smears=smears, rounds_wraps=not smears).tables(f0[None])
    for sample in (1, 100, SAMPLES):
        at = cycles_from_phase(starts[:, -1] + steps[:, -1] * np.uint64(sample))[0]
        for h in (1, 2, 9):
            offset = float(initial[0, h - 1]) * (SAMPLES if smears else 1)
            assert distance(float(at[h - 1]), exact_cycles(f0, h, sample) + offset) <= TOLERANCE_CYCLES


@pytest.mark.parametrize("contour", ["constant 440 Hz", "random walk"])
def test_gliding_source_after_an_hour(contour: str) -> None:
    samples, rate = 64, RATE / 8
    f0 = CONTOURS[contour](np.random.default_rng(0)).astype(np.float32)
    following = np.append(f0[1:], f0[-1])
    cycles = RampPhase(1, rate, samples, 1).cycles(f0[None], following[None])[0, -1]
    # A frame advances by f * samples plus half the glide to the next frame over (samples - 1) steps.
    scaled = [int(value * 2.0**19) for value in f0.astype(np.float64)]
    advance = sum(2 * samples * a + (b - a) * (samples - 1) for a, b in itertools.pairwise(scaled))
    unit = 2 * int(rate * 2) * 2**18
    exact = (advance + 2 * scaled[-1] * 10) % unit / unit
    assert distance(float(cycles[9]), exact) <= TOLERANCE_CYCLES


def test_fixed_point_round_trip() -> None:
    cycles = np.array([0.0, 0.25, -0.25, 0.999999, 1234.5, -7.75, 2.0**-52])
    back = cycles_from_phase(phase_from_cycles(cycles))
    assert np.abs((back - cycles) - np.round(back - cycles)).max() <= 2.0**-52


SOURCES = ["sovits-interp", "openvpi", "openvpi-legacy", "sovits-dec", "mini"]


def excitation_for(source: str, sigma: float = 0.0) -> Excitation:
    if source == "mini":
        return GlideExcitation(RATE / 8, 64, 8, sigma)
    weight = np.linspace(1.0, 0.2, 9, dtype=np.float32)
    return HarmonicExcitation(RATE, 128, source, weight, 0.05, 8, sigma)  # type: ignore[arg-type]


def render(excitation: Excitation, f0: np.ndarray, pieces: list[int]) -> dict[str, np.ndarray]:
    run = excitation.begin(Noise(excitation.fields, tuple(range(len(f0)))))
    at, parts = 0, []
    for i, piece in enumerate(pieces):
        parts.append(run.push(f0[:, at : at + piece], piece, last=i + 1 == len(pieces)))
        at += piece
    return {name: np.concatenate([part[name] for part in parts], axis=2) for name in parts[0]}


@pytest.mark.parametrize("source", SOURCES)
@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_chunks_give_the_bits_of_the_whole(source: str, data: Any) -> None:
    pieces = data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=8))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    frames = sum(pieces)
    f0 = np.where(rng.random((2, frames)) < 0.8, rng.uniform(60, 1000, (2, frames)), 0).astype(np.float32)
    excitation = excitation_for(source, sigma=0.1)
    whole, chunked = render(excitation, f0, [frames]), render(excitation, f0, pieces)
    assert set(whole) == {"source", "pre_noise"}
    for name in whole:
        assert np.array_equal(whole[name], chunked[name]), name


@pytest.mark.parametrize("source", SOURCES)
def test_an_hour_in_chunks_ends_in_the_same_bits(source: str) -> None:
    """Far past the point where upstream's rounding is no longer followed."""
    f0 = np.full((1, 20_000), 440.0, np.float32)
    excitation = excitation_for(source)
    whole, chunked = render(excitation, f0, [20_000]), render(excitation, f0, [7_001, 1, 12_998])
    assert np.array_equal(whole["source"], chunked["source"])


def test_unvoiced_frames_hold_noise_only() -> None:
    excitation = excitation_for("openvpi")
    silent = {"sine_noise": np.zeros((1, 4 * 128, 9), np.float32)}
    run = excitation.begin(Noise(excitation.fields, (0,), silent))
    made = run.push(np.array([[0, 0, 440, 440]], np.float32), 4)["source"][0, 0]
    assert np.allclose(made[:256], np.tanh(np.float32(0.05)))
    assert np.abs(made[256:] - np.tanh(np.float32(0.05))).max() > 0.1
