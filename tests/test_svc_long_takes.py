"""Hours and minutes without a breath: memory stays bounded, and what goes in windows is what goes as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.golden_svc import FOLDER
from tests.test_svc_pipeline import BASE, RATE, opened, rng, song
from trt_svc.features.f0 import world
from trt_svc.files import DIRECTORY_VARIABLE
from trt_svc.svc.conversion import Conversion
from trt_svc.svc.source_reader import PieceReader


@pytest.fixture(autouse=True)
def _engines_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "engines"))


# Pauses.


def with_a_pause(path: Path, pause_s: int) -> Path:
    """Two phrases far apart."""
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        file.write(song(0.5))
        for _ in range(pause_s):
            file.write(np.zeros(RATE))
        file.write(song(0.5))
    return path


def traced_mib(pipe: Any, source: Path, output: Path) -> float:
    """The peak of what Python and NumPy hold during a conversion."""
    tracemalloc.start()
    try:
        pipe.convert_file(source, output, Conversion.of(**BASE))
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def test_a_long_pause_takes_no_memory(tmp_path: Path) -> None:
    pipe = opened(FOLDER / "e2e")
    short, long = (with_a_pause(tmp_path / f"{pause_s}.flac", pause_s) for pause_s in (20, 400))
    before = traced_mib(pipe, short, tmp_path / "short.wav")
    assert traced_mib(pipe, long, tmp_path / "long.wav") < before + 30  # all of it is 70 MiB, and was held thrice
    made, _ = soundfile.read(tmp_path / "long.wav", dtype="float32")
    assert len(made) == 401 * RATE
    assert not made[2 * RATE : -10 * RATE].any()
    assert made[-RATE // 2 :].any()


class Hours:
    """A source of any length that holds one block at a time."""

    sample_rate = RATE

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks

    def mono_blocks(self) -> Iterator[np.ndarray]:
        for n in range(self.blocks):
            yield np.full(10 * RATE, n, np.float32)


def test_a_reader_forgets_what_is_sung() -> None:
    read, block = PieceReader(Hours(400)), 10 * RATE
    tracemalloc.start()
    for start in range(0, 399 * block, 7 * block // 2):
        piece = read(start, min(start + 2 * block, 400 * block))
        assert piece[0] == start // block and piece[-1] == (min(start + 2 * block, 400 * block) - 1) // block
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 4 * block
    # Far ahead at once, as over a pause.
    tracemalloc.start()
    read = PieceReader(Hours(400))
    assert read(399 * block, 400 * block)[0] == 399
    assert tracemalloc.get_traced_memory()[1] < 6 * 4 * block
    tracemalloc.stop()


# Without a pause.


@pytest.mark.parametrize(
    ("kind", "period_ms"), [(world.Dio, 5.0), (world.Dio, 1000 * 512 / RATE), (world.Harvest, 1000 * 512 / RATE)]
)
def test_world_in_windows(kind: Any, period_ms: float, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 5 if kind is world.Dio else 3
    sung = song(seconds) + (0.001 * rng(3).standard_normal(seconds * RATE)).astype(np.float32)
    sung[2 * RATE : 2 * RATE + RATE // 2] = 0.01 * rng(4).standard_normal(RATE // 2)
    estimator = kind()
    whole = estimator._track(sung, RATE, period_ms)
    monkeypatch.setattr(world, "FRAMES_PER_WINDOW", 100)
    monkeypatch.setattr(world, "FRAMES_OF_CONTEXT", 100 if period_ms > 5 else 200)
    windows = estimator._track(sung, RATE, period_ms)
    np.testing.assert_allclose(windows.times_s, whole.times_s, atol=1e-9)
    voiced = whole.f0_hz > 0
    assert 0.7 < voiced.mean() < 1
    assert ((windows.f0_hz > 0) == voiced).mean() > 0.99
    both = voiced & (windows.f0_hz > 0)
    assert np.quantile(np.abs(windows.f0_hz[both] / whole.f0_hz[both] - 1), 0.98) < 2e-3


ONE_BREATH = """
import json, resource, sys
import numpy as np
from tests.test_svc_pipeline import BASE, FOLDER, RATE, opened, song
pipe = opened(FOLDER / "e2e")
def peak_mib(seconds, **options):
    made = pipe((np.tile(song(1.0), seconds), RATE), **BASE | options)
    assert len(made) == seconds * RATE and np.isfinite(made).all()
    assert pipe.last.slices == 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
options = json.loads(sys.argv[1])
few = peak_mib(3, **options)
print(peak_mib(int(sys.argv[2]), **options) - few)
"""


def test_a_minute_in_one_breath() -> None:
    """5,000 frames: blocks of the decoder take most of it; all pairs of frames, several times, would take more."""
    options = json.dumps({"auto_f0": True, "diffusion": {"k_step": 10}})
    command = [sys.executable, "-c", ONE_BREATH, options, "60"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert float(done.stdout) < 550
