"""A reduced run of `make fuzz`; without WaveGlow, whose every new shape costs torch a second on the CPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import NAMES, fuzz, sessions
from trt_svc.session import Vocoder


@pytest.fixture(scope="module")
def vocoders(tmp_path_factory: pytest.TempPathFactory) -> list[Vocoder]:
    return sessions(Path(tmp_path_factory.mktemp("fuzz")), tuple(name for name in NAMES if name != "waveglow"))


def test_odd_calls_end_in_audio_or_a_typed_error(vocoders: list[Vocoder]) -> None:
    ended = fuzz(vocoders, 2000)
    assert set(ended) - {"RunError"} == {"audio", "InputError", "stream"}
    assert ended["audio"] > 500 and ended["InputError"] > 500


def test_small_calls_leave_nothing_behind() -> None:
    """In a process of its own, where nothing else moves memory."""
    command = [sys.executable, "-m", "tests.fuzz", "--cases", "0", "--calls", "5000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "memory grew by" in done.stdout
