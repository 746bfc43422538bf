"""One session, many threads; and a process that never sees torch."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trt_svc
from tests.nets import utterance, vocoder_of
from trt_svc.backends.base import backends
from trt_svc.build_config import BuildConfig, ShapeRange
from trt_svc.cache import EngineCache
from trt_svc.errors import RunHung
from trt_svc.lanes import Lane, LaneLost, Lanes

THREADS, CALLS = 8, 200
BUILD = BuildConfig("onnxruntime", frames=(ShapeRange(1, 32, 200),), batch=ShapeRange(1, 1, 4), rewrites=())


@pytest.fixture(scope="module", params=["torch", "onnxruntime", "openvino", "native"])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[trt_svc.Vocoder]:
    if request.param == "native" and not backends.get("native")().probe().runs:
        pytest.skip("the native kernels are not here")
    folder = tmp_path_factory.mktemp("threads")
    options: dict[str, Any] = {"chunk_frames": 90, "contexts": 2}
    if request.param != "torch":
        options["build"] = BuildConfig(request.param, frames=BUILD.frames, batch=BUILD.batch, rewrites=())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRT_SVC_ENGINE_DIR", str(folder / "engines"))
        yield vocoder_of("nsf_hifigan", folder, **options)


def hammer(session: trt_svc.Vocoder, calls: int) -> list[str]:
    """Every thread calls with lengths of its own and compares; what went wrong comes back."""
    expected = {frames: session(**utterance(session, 1, frames, seed=frames), seed=1) for frames in range(5, 125, 8)}
    wrong: list[str] = []

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        try:
            for _ in range(calls):
                frames = int(rng.choice(list(expected)))
                given = utterance(session, 1, frames, seed=frames)
                gap = np.abs(session(**given, seed=1) - expected[frames]).max()
                if not gap <= 5e-6:
                    wrong.append(f"{frames} frames: {gap}")
        except Exception as err:
            wrong.append(repr(err))

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    return wrong + [f"{thread.name} does not end" for thread in threads if thread.is_alive()]


def test_threads_share_a_session(session: trt_svc.Vocoder) -> None:
    assert hammer(session, CALLS) == []
    assert session.health.ok


def test_threads_go_on_while_the_cache_is_pruned(session: trt_svc.Vocoder, tmp_path: Path) -> None:
    """Beside the calls, sessions are opened again and again from a cache that is being emptied."""
    if session.backend != "onnxruntime":
        pytest.skip("one backend with engines is enough for the cache")
    stop = threading.Event()
    again = {"build": replace(BUILD, backend=session.backend)}
    opened: list[str] = []

    def prune() -> None:
        while not stop.is_set():
            EngineCache().prune(limit_bytes=0)
            time.sleep(0.05)

    def load() -> None:
        given = utterance(session, 1, 20)
        expected = session(**given)
        while not (stop.is_set() and opened):
            try:
                gap = np.abs(vocoder_of("nsf_hifigan", tmp_path, **again)(**given) - expected).max()
                opened.append("right" if gap <= 5e-6 else f"{gap}")
            except Exception as err:
                opened.append(repr(err))

    others = [threading.Thread(target=work, daemon=True) for work in (prune, load)]
    for thread in others:
        thread.start()
    try:
        assert hammer(session, CALLS) == []
    finally:
        stop.set()
        for thread in others:
            thread.join(60)
    assert session.health.ok
    assert set(opened) == {"right"}


def test_sessions_that_nobody_holds_end_their_threads(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    for _ in range(5):
        vocoder = vocoder_of("hifigan", tmp_path, contexts=3)
        vocoder(**utterance(vocoder, 1, 3))
    assert len(set(threading.enumerate()) - before) >= 3
    del vocoder
    for _ in range(100):
        gc.collect()
        if not set(threading.enumerate()) - before:
            break
        time.sleep(0.05)
    assert not set(threading.enumerate()) - before


class Numbered:
    """Stands for a context."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def sibling(self) -> Numbered:
        return Numbered(self.number + 1)


def test_jobs_go_to_the_lane_with_the_fewest() -> None:
    release = threading.Event()
    lanes = Lanes([Lane("a", ["a"]), Lane("b", ["b"])])
    stuck = lanes.submit(lambda runner: release.wait(30), 60)
    others = [lanes.submit(lambda runner: runner, 60) for _ in range(2)]
    free = ({"a", "b"} - {stuck.lane.name}).pop()
    assert others[0].lane.name == free
    assert others[0].result() == free
    release.set()
    assert stuck.result() is True


def test_a_hung_run_is_given_up_and_another_context_takes_its_place() -> None:
    release = threading.Event()
    lane = Lane("only", [Numbered()])
    stuck, waiting = lane.submit(lambda runner: release.wait(30), 0.1), lane.submit(lambda runner: runner.number, 60)
    with pytest.raises(RunHung, match=r"within 0.1 s.*timeout_s"):
        stuck.result()
    assert waiting.result() == 1
    assert not lane.lost
    release.set()


def test_a_lane_that_hangs_again_and_again_is_lost() -> None:
    release = threading.Event()
    drained: list[str] = []
    lanes = Lanes([Lane("only", [Numbered()])], drained.append)
    for _ in range(3):
        with pytest.raises(RunHung):
            lanes.submit(lambda runner: release.wait(30), 0.05).result()
    with pytest.raises(LaneLost):
        lanes.submit(lambda runner: runner, 60)
    assert lanes.drain(lanes.lanes[0]) is False
    assert drained == ["only"]
    release.set()


def test_a_hung_run_that_nobody_waits_for_does_not_hold_up_the_next() -> None:
    release = threading.Event()
    lane = Lane("only", [Numbered()])
    lane.submit(lambda runner: release.wait(30), 0.1)
    assert lane.submit(lambda runner: runner.number, 60).result() == 1
    release.set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_is_told_to_load_again(session: trt_svc.Vocoder) -> None:
    given = utterance(session, 1, 5)
    session(**given)
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            session(**given)
        except trt_svc.TrtSvcError as err:
            os.write(write, str(err).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        assert b"before the process was forked" in said.read()
    os.waitpid(child, 0)


EXITS = """
import os, signal, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs without it
import numpy as np
import trt_svc
v = trt_svc.load_vocoder("demo", backend=BACKEND)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
v(np.full((1, 128, 3000), -4, np.float32), np.full((1, 3000), 220, np.float32))
"""


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_a_process_that_is_interrupted_in_a_run_ends_in_order(backend: str, tmp_path: Path) -> None:
    env = {**os.environ, "TRT_SVC_ENGINE_DIR": str(tmp_path)}
    code = EXITS.replace("BACKEND", repr(backend))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert "KeyboardInterrupt" in done.stderr
    assert "terminate" not in done.stderr and done.returncode in (1, 130, -2), (done.returncode, done.stderr[-500:])


WITHOUT_TORCH = """
import sys
import numpy as np
import trt_svc
v = trt_svc.load_vocoder("demo", backend="onnxruntime")
f0 = np.full((1, 60), 220, np.float32)
rng = np.random.default_rng(0)
mel = v.mel(rng.normal(0, 0.05, 512 * 60).astype(np.float32), 44100)
audio = v(mel, f0, seed=1)
with v.stream(seed=1) as s:
    pieces = [s.push(mel[:, :, :30], f0[:, :30]), s.push(mel[:, :, 30:], f0[:, 30:]), s.flush()]
assert np.abs(np.concatenate(pieces, 1) - audio).max() < 5e-6
assert v.health.ok and v.backend == "onnxruntime"
print("torch" in sys.modules, audio.shape)
"""


def test_an_engine_runs_in_a_process_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path))
    trt_svc.load_vocoder("demo", backend="onnxruntime")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, env=os.environ.copy(), check=False
    )
    assert done.stdout.strip() == "False (1, 30720)", done.stderr
