"""Pitch: the registered estimators on a tone whose pitch is known, and the way onto mel frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trt_svc.copysynthesis import pitch_track
from trt_svc.errors import InputError, MissingExtra
from trt_svc.features.f0.base import PitchTrack, f0_estimators
from trt_svc.features.f0.weights import missing_weights
from trt_svc.optional import EXTRA_OF, install_line, is_installed, require

RATE = 44100


def sung_glide(seconds: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """(audio, f0 per sample): harmonics that glide from 200 to 300 Hz, silence in the middle fifth."""
    t = np.arange(int(seconds * RATE)) / RATE
    f0 = 200 * 1.5 ** (t / seconds)
    phase = 2 * np.pi * np.cumsum(f0) / RATE
    audio = sum(np.sin(h * phase) / h for h in range(1, 12)) * 0.2
    gap = (t > 0.4 * seconds) & (t < 0.6 * seconds)
    return np.where(gap, 0.0, audio).astype(np.float32), np.where(gap, 0.0, f0)


@pytest.mark.parametrize("method", f0_estimators.names())
def test_estimators_find_a_glide(method: str) -> None:
    missing = missing_weights(f0_estimators.get(method))
    if missing is not None:
        pytest.skip(f"{missing.file_names[0]} is not here")
    audio, truth = sung_glide()
    track = pitch_track(audio, RATE, method)
    made = track.at_frames(len(audio) // 512, 512, RATE)
    centres = ((np.arange(len(made)) + 0.5) * 512).astype(int)
    expected = truth[centres]
    voiced = (made > 0) & (expected > 0)
    assert np.mean((made > 0) == (expected > 0)) > 0.9
    cents = 1200 * np.log2(made[voiced] / expected[voiced])
    assert np.median(np.abs(cents)) < 15
    filled = track.at_frames(len(audio) // 512, 512, RATE, fill_unvoiced=True)
    assert (filled > 150).all()


def test_a_constant_and_a_file(tmp_path: Path) -> None:
    audio = np.zeros(RATE, np.float32)
    assert np.allclose(pitch_track(audio, RATE, "220").at_frames(10, 512, RATE), 220)
    curve = np.linspace(100, 200, 201)
    np.save(tmp_path / "f0.npy", curve)
    np.savetxt(tmp_path / "f0.txt", curve)
    np.savetxt(tmp_path / "f0.csv", np.stack([np.arange(201) * 0.005, curve], 1), delimiter=",")
    for name in ("f0.npy", "f0.txt", "f0.csv"):
        made = pitch_track(audio, RATE, str(tmp_path / name)).at_frames(80, 512, RATE)
        assert made[0] == pytest.approx(100 + 100 * 256 / RATE, rel=0.01)
        assert np.all(np.diff(made) > 0)


@pytest.mark.parametrize("method", ["0", "99999", "nan", "praat", "missing.npy", "missing.csv"])
def test_bad_methods(method: str) -> None:
    with pytest.raises(InputError):
        pitch_track(np.zeros(1000, np.float32), RATE, method)


def test_bad_files(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    np.save(tmp_path / "wide.npy", np.zeros((5, 3)))
    np.save(tmp_path / "deep.npy", np.zeros((2, 2, 2)))
    np.save(tmp_path / "complex.npy", np.zeros(5, complex))
    np.save(tmp_path / "negative.npy", np.full(9, -1.0))
    np.save(tmp_path / "backwards.npy", np.array([[0.1, 200], [0.0, 200]]))
    np.save(tmp_path / "empty.npy", np.zeros(0))
    (tmp_path / "nothing.npy").write_bytes(b"")
    (tmp_path / "text.npy").write_text("do re mi")
    (tmp_path / "words.txt").write_text("do re mi")
    (tmp_path / "blank.txt").write_text("")
    np.savez(tmp_path / "archive.npz", np.zeros(3))
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match=path.stem):
            pitch_track(np.zeros(1000, np.float32), RATE, str(path))


def test_a_single_line_of_seconds_and_hz(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("0.0,220\n")
    assert np.allclose(
        pitch_track(np.zeros(1000, np.float32), RATE, str(tmp_path / "one.csv")).at_frames(3, 512, RATE), 220
    )


def test_unvoiced_track() -> None:
    track = PitchTrack(np.arange(5) * 0.01, np.zeros(5))
    assert not track.at_frames(20, 512, RATE).any()
    assert not track.at_frames(20, 512, RATE, fill_unvoiced=True).any()


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRA_OF, "no_such_package", "f0")
    assert not is_installed("no_such_package")
    with pytest.raises(MissingExtra, match=r'pip install "trt-svc\[f0\]"'):
        require("no_such_package", "f0 method x")
    assert install_line("tensorrt") == 'pip install "trt-svc[tensorrt]"'
