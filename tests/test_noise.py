"""Noise is a function of seed, stream and position alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_svc.errors import InputError
from trt_svc.noise import TILE_WORDS, Noise, NoiseField, check_given, check_seeds, normals, uniforms

SEEDS = st.integers(0, 2**64 - 1)
FIELDS = (
    NoiseField("initial_phase", "uniform", 9, per_frame=0),
    NoiseField("sine_noise", "normal", 9, per_frame=64, channels_last=True),
    NoiseField("conv_pre_noise", "normal", 32, per_frame=1),
    NoiseField("z_initial", "normal", 4, per_frame=32),
)


@settings(deadline=None)
@given(SEEDS, st.integers(0, 10 * TILE_WORDS), st.integers(0, 5000), st.integers(0, 5000))
def test_any_piece_equals_the_whole(seed: int, start: int, before: int, length: int) -> None:
    for draw in (normals, uniforms):
        whole = draw(seed, "s", start, start + before + length)
        assert np.array_equal(whole[before:], draw(seed, "s", start + before, start + before + length))


def test_positions_of_a_day_of_audio_are_reachable() -> None:
    far = 24 * 3600 * 48000 * 9
    assert np.array_equal(normals(1, "s", far, far + 7), normals(1, "s", far - 5, far + 7)[5:])


@settings(deadline=None)
@given(SEEDS, st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_chunks_equal_the_whole_for_every_kind_of_field(seed: int, pieces: list[int]) -> None:
    noise = Noise(FIELDS, (seed,))
    frames = sum(pieces)
    for field in FIELDS[1:]:
        whole = noise.over(field.name, 0, frames)
        assert whole.shape == field.shape(1, frames)
        axis = 1 if field.channels_last else 2
        edges = np.cumsum([0, *pieces])
        parts = [noise.over(field.name, int(a), int(b)) for a, b in itertools.pairwise(edges)]
        assert np.array_equal(np.concatenate(parts, axis=axis), whole)


def test_a_batch_equals_its_items_alone() -> None:
    seeds = (3, 5, 3, 2**63)
    together = Noise(FIELDS, seeds)
    for field in FIELDS:
        draw = (
            (lambda n, f=field: n.constant(f.name))
            if field.per_frame == 0
            else (lambda n, f=field: n.over(f.name, 5, 9))
        )
        batch = draw(together)
        for row, seed in zip(batch, seeds, strict=True):
            assert np.array_equal(row, draw(Noise(FIELDS, (seed,)))[0])
    assert np.array_equal(together.over("sine_noise", 0, 2)[0], together.over("sine_noise", 0, 2)[2])


def test_seeds_and_streams_differ() -> None:
    draws = [normals(seed, stream, 0, 1000) for seed in (0, 1, 2**32) for stream in ("a", "b")]
    for i, one in enumerate(draws):
        for other in draws[i + 1 :]:
            assert abs(float(np.corrcoef(one, other)[0, 1])) < 0.15


def test_the_numbers_are_standard_normal_and_uniform() -> None:
    z = normals(7, "law", 0, 400_000)
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01
    assert abs((z**3).mean()) < 0.02
    assert abs((z**4).mean() - 3) < 0.05
    assert np.isfinite(z).all()
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 0.01
    u = uniforms(7, "law", 0, 400_000)
    assert u.min() >= 0
    assert u.max() < 1
    assert np.abs(np.histogram(u, 20, (0, 1))[0] / 20000 - 1).max() < 0.05


def test_the_stream_never_changes() -> None:
    """Frozen values: a changed generator would change every seeded recording of every user."""
    assert normals(0, "sine_noise", 0, 3).tolist() == pytest.approx(FROZEN_NORMALS, abs=1e-6)
    assert uniforms(0, "initial_phase", 0, 3).tolist() == pytest.approx(FROZEN_UNIFORMS, abs=1e-7)


FROZEN_NORMALS = [0.3750106, 1.2343979, -0.1824595]
FROZEN_UNIFORMS = [0.1155192, 0.3244744, 0.3483257]


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, [1, 2], "a", None, True, np.array([1]), float("nan")])
def test_bad_seeds_are_refused(seed: object) -> None:
    with pytest.raises(InputError, match="seed"):
        check_seeds(seed, 1)  # type: ignore[arg-type]


def test_given_noise_is_checked() -> None:
    good = {"sine_noise": np.zeros((2, 640, 9))}
    assert check_given(FIELDS, good, 2, 10)["sine_noise"].dtype == np.float32
    with pytest.raises(InputError, match="no random input of that name"):
        check_given(FIELDS, {"sine": np.zeros(1)}, 2, 10)
    with pytest.raises(InputError, match=r"must be \(2, 640, 9\)"):
        check_given(FIELDS, {"sine_noise": np.zeros((1, 640, 9))}, 2, 10)
    with pytest.raises(InputError, match="NaN"):
        check_given(FIELDS, {"sine_noise": np.full((2, 640, 9), np.nan)}, 2, 10)


@pytest.mark.parametrize(
    "stream", ["initial_phase", "sine_noise", "conv_pre_noise", "z_initial", "z_early_8", "z_early_4"]
)
def test_neighbouring_seeds_of_any_size_differ(stream: str) -> None:
    seeds = [0, 1, 2**53, 2**53 + 1, 2**60, 2**60 + 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1]
    draws = {normals(seed, stream, 0, 8).tobytes() for seed in seeds}
    assert len(draws) == len(seeds)
