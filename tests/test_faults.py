"""A backend that lies: every fault is caught, and recovered or raised, as asked."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trt_svc
from tests.nets import utterance
from trt_svc.backends.base import Runner, backends
from trt_svc.backends.ort import OnnxRuntime
from trt_svc.build_config import BuildConfig, Precision, ShapeRange
from trt_svc.errors import InputError, OutOfMemory, RunError, RunHung
from trt_svc.types import Array

ROUNDS = 17 if os.environ.get("TRT_SVC_TORTURE") else 2
KINDS = ("nan", "silence", "garbage", "stale", "wrong length", "wrong batch", "too loud", "raises", "hangs")
HANG_S = 3.0


class Plan:
    """What the faulty backend does, and from which run on."""

    kind = ""
    after = 0
    only_on: set[int] = set()
    runs = 0
    memory_above = 0
    released = threading.Event()


class FaultyRunner:
    def __init__(self, real: Runner, number: int) -> None:
        self.real = real
        self.number = number
        self.last: Array | None = None

    def sibling(self) -> FaultyRunner:
        return FaultyRunner(self.real, self.number)

    def run(self, inputs: Mapping[str, Array]) -> Array:
        frames = inputs["mel"].shape[2] * inputs["mel"].shape[0] if "mel" in inputs else 0
        if Plan.memory_above and frames > Plan.memory_above:
            raise MemoryError("bad_alloc")
        made = self.real.run(inputs)
        Plan.runs += 1
        faulty = Plan.kind and Plan.runs > Plan.after and (not Plan.only_on or self.number in Plan.only_on)
        return self.spoilt(made) if faulty else made

    def spoilt(self, made: Array) -> Array:
        rng = np.random.default_rng(0)
        if Plan.kind == "nan":
            made[0, made.shape[1] // 3] = np.nan
        elif Plan.kind == "silence":
            made[:] = 0
        elif Plan.kind == "garbage":
            return rng.normal(0, 0.1, made.shape).clip(-1, 1).astype(np.float32)
        elif Plan.kind == "stale":
            return 1e-3 * np.roll(made, made.shape[1] // 2, axis=1)
        elif Plan.kind == "wrong length":
            return made[:, :-1]
        elif Plan.kind == "wrong batch":
            return np.concatenate([made, made])
        elif Plan.kind == "too loud":
            return 40 * made
        elif Plan.kind == "raises":
            raise RuntimeError("the driver went away")
        elif Plan.kind == "hangs":
            Plan.released.wait(60)
        return made


class Faulty(OnnxRuntime):
    """onnxruntime with a plan."""

    name = "faulty"
    opened = 0

    def open(self, files: Mapping[str, bytes], device: str) -> Any:
        Faulty.opened += 1
        return FaultyRunner(super().open(files, device), Faulty.opened)


@pytest.fixture(scope="module", autouse=True)
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    backends.names()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path_factory.mktemp("engines")))
        # Here only: elsewhere "auto" must not find it.
        patch.setitem(backends._parts, "faulty", Faulty)
        yield


@pytest.fixture(autouse=True)
def plan() -> Iterator[None]:
    Plan.kind, Plan.after, Plan.only_on, Plan.runs, Plan.memory_above = "", 0, set(), 0, 0
    Plan.released = threading.Event()
    Faulty.opened = 0
    yield
    Plan.released.set()


def build(**changes: Any) -> BuildConfig:
    return BuildConfig("faulty", frames=(ShapeRange(1, 60, 300),), batch=ShapeRange(1, 1, 4), rewrites=(), **changes)


def faulty(**options: Any) -> trt_svc.Vocoder:
    return trt_svc.load_vocoder("demo", **{"build": build(), "timeout_s": HANG_S, **options})


def sung(vocoder: trt_svc.Vocoder, batch: int, frames: int, seed: int = 0) -> dict[str, Any]:
    """A mel that the demo voice can say, with its pitch."""
    time = np.arange(vocoder.spec.hop * (frames + 4)) / vocoder.spec.sample_rate
    rows = [
        sum(np.sin(2 * np.pi * h * (180 + 20 * (row + seed)) * time) / h for h in range(1, 12)) for row in range(batch)
    ]
    audio = 0.1 * np.stack(rows).astype(np.float32) + np.random.default_rng(seed).normal(0, 1e-3, (batch, time.size))
    mel = vocoder.mel(audio.astype(np.float32), vocoder.spec.sample_rate)[:, :, :frames]
    f0 = np.repeat([[180.0 + 20 * (row + seed)] for row in range(batch)], frames, axis=1)
    return {"mel": mel, "f0": f0.astype(np.float32)}


@pytest.fixture(scope="module")
def reference() -> trt_svc.Vocoder:
    return trt_svc.load_vocoder("demo", device="cpu")


CASES = [
    (kind, mode, number)
    for kind in KINDS
    for mode in ("fallback", "raise")
    for number in range(ROUNDS if kind != "hangs" else max(1, ROUNDS // 3))
]


@pytest.mark.parametrize(("kind", "mode", "number"), CASES)
def test_every_fault_is_caught(reference: trt_svc.Vocoder, kind: str, mode: Any, number: int) -> None:
    vocoder = faulty(on_failure=mode)
    given = sung(vocoder, 1 + number % 3, 40 + 13 * number, seed=number)
    for _ in range(number % 3):
        vocoder(**given)
    assert vocoder.backend == "faulty" and vocoder.health.ok
    Plan.kind, Plan.after = kind, Plan.runs
    if mode == "raise":
        with pytest.raises(RunHung if kind == "hangs" else RunError, match="on_failure='fallback'"):
            vocoder(**given)
        assert not vocoder.health.ok
        return
    with pytest.warns(RuntimeWarning, match="goes on with onnxruntime fp32") as seen:
        made = vocoder(**given)
        assert np.abs(made - reference(**given)).max() <= 1e-6
        assert np.abs(vocoder(**given) - made).max() <= 1e-6
    assert len(seen) == 1
    health = vocoder.health
    assert (vocoder.backend, health.backend, health.fallbacks) == ("onnxruntime", "onnxruntime", 1)
    assert sum(health.counts.values()) == 1
    assert health.as_dict()["ok"] is False


def test_garbage_from_a_network_without_a_mel_of_its_own_is_found_by_asking_again(tmp_path: Path) -> None:
    """Random weights say nothing about their mel, so only the sentinel can tell; it is asked every 64 runs."""
    from tests.nets import vocoder_of
    from trt_svc.rungs import SENTINEL_EVERY

    vocoder = vocoder_of("hifigan", tmp_path, build=build())
    given = utterance(vocoder, 1, 30)
    Plan.kind, Plan.after = "garbage", Plan.runs
    with pytest.warns(RuntimeWarning, match="answers a known mel"):
        for _ in range(SENTINEL_EVERY):
            vocoder(**given)
    assert vocoder.backend == "onnxruntime"
    assert vocoder.health.counts == {"sentinel": 1}


def test_half_precision_falls_to_full_precision_first(reference: trt_svc.Vocoder) -> None:
    vocoder = faulty(build=build(precision=Precision("fp16")))
    assert vocoder.precision == "fp16"
    given = sung(vocoder, 1, 60)
    Plan.kind, Plan.after, Plan.only_on = "nan", Plan.runs, {Faulty.opened}
    with pytest.warns(RuntimeWarning, match="goes on with faulty fp32"):
        made = vocoder(**given)
    assert (vocoder.backend, vocoder.precision) == ("faulty", "fp32")
    assert np.abs(made - reference(**given)).max() <= 1e-6
    Plan.only_on = set()
    with pytest.warns(RuntimeWarning, match="goes on with onnxruntime fp32"):
        vocoder(**given)


def test_a_failed_device_is_drained_and_the_rest_go_on(reference: trt_svc.Vocoder) -> None:
    vocoder = faulty(devices=["cpu", "cpu"], chunk_frames=100)
    given = sung(vocoder, 1, 700)
    expected = reference(**given)
    Plan.kind, Plan.after, Plan.only_on = "raises", Plan.runs, {Faulty.opened}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            assert np.abs(vocoder(**given) - expected).max() <= 1e-6
    health = vocoder.health
    assert (vocoder.backend, vocoder.device, health.drained, health.fallbacks) == ("faulty", "cpu", ("cpu",), 0)


def test_memory_that_runs_out_makes_runs_smaller(reference: trt_svc.Vocoder) -> None:
    vocoder = faulty()
    given = sung(vocoder, 2, 250)
    Plan.memory_above = 120
    assert np.abs(vocoder(**given) - reference(**given)).max() <= 1e-6
    assert vocoder.backend == "faulty"
    assert set(vocoder.health.counts) == {"memory"}
    before = vocoder.health.counts["memory"]
    vocoder(**sung(vocoder, 1, 250))
    assert vocoder.health.counts["memory"] == before
    Plan.memory_above = 10
    with pytest.raises(OutOfMemory, match="does not even hold"):
        vocoder(**given)


def test_a_stream_goes_on_through_a_fault(reference: trt_svc.Vocoder) -> None:
    vocoder = faulty()
    given = sung(vocoder, 1, 160)
    whole = reference(**given)
    made = []
    with pytest.warns(RuntimeWarning, match="goes on with"), vocoder.stream() as stream:
        for at in range(0, 160, 20):
            if at == 80:
                Plan.kind, Plan.after = "nan", Plan.runs
            made.append(stream.push(given["mel"][:, :, at : at + 20], given["f0"][:, at : at + 20]))
        made.append(stream.flush())
    assert np.abs(np.concatenate(made, 1) - whole).max() <= 1e-6


def test_real_silence_is_no_fault(tmp_path: Path) -> None:
    """A network that makes silence of a loud mel is shown to torch once, and then believed."""
    import copy

    from tests.nets import speaking, vocoder_of

    net = copy.deepcopy(speaking("hifigan"))
    for parameter in net.conv_post.parameters():
        parameter.mul_(1e-9)
    vocoder = vocoder_of("hifigan", tmp_path, net, build=build(gate_db=-300.0))
    given = {"mel": np.full((1, vocoder.spec.n_mels, 40), -1, np.float32)}
    for _ in range(9):
        vocoder(**given)
    health = vocoder.health
    assert health.ok and vocoder.backend == "faulty"
    assert 1 <= health.false_alarms <= 4


def test_a_slow_engine_is_noticed(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    vocoder = faulty()
    rung = vocoder._ladder.rung
    assert rung.frames_per_s is not None and rung.frames_measured == 60
    rung.frames_per_s = 1e12
    monkeypatch.setattr("trt_svc.rungs.SLOW_S", 0.0)
    given = sung(vocoder, 1, 60)
    with caplog.at_level(logging.WARNING):
        for runs in range(5):
            assert bool(vocoder.health.slow) == (runs >= 3)
            vocoder(**given)
    assert len([record for record in caplog.records if "half its speed" in record.message]) == 1
    assert vocoder.health.ok


def test_a_checkpoint_that_was_replaced_is_not_fallen_back_on(tmp_path: Path) -> None:
    from tests.nets import checkpoint_of, healthy_short, short_config, speaking

    _, config, _ = short_config("hifigan")
    files = checkpoint_of(speaking("hifigan"), tmp_path)
    vocoder = trt_svc.load_vocoder(**files, config=config, build=build())
    checkpoint_of(healthy_short("hifigan"), tmp_path)
    Plan.kind, Plan.after = "nan", Plan.runs
    with pytest.raises(trt_svc.TrtSvcError, match="replaced meanwhile"):
        vocoder(**utterance(vocoder, 1, 30))


# Streams through stages.


def number_of(vocoder: trt_svc.Vocoder, which: str) -> int:
    """The number of a stage's runner: stages are opened in order, then the whole."""
    return Faulty.opened - (1 if which == "last" else len(vocoder._ladder.rung.stages))


LYING_STAGES = [("last", kind) for kind in ("nan", "silence", "garbage", "too loud", "wrong length", "raises")]


@pytest.mark.parametrize(
    ("which", "kind"), [*LYING_STAGES, ("first", "nan"), ("first", "wrong length"), ("first", "raises")]
)
def test_a_stage_that_lies_is_left_for_the_whole_network(reference: trt_svc.Vocoder, kind: str, which: str) -> None:
    vocoder = faulty(build=build(streaming=True))
    stages = len(vocoder._ladder.rung.stages)
    given = sung(vocoder, 2, 200)
    Plan.kind, Plan.after, Plan.only_on = kind, Plan.runs + 4 * stages, {number_of(vocoder, which)}
    blocks = [(given["mel"][:, :, at : at + 25], given["f0"][:, at : at + 25]) for at in range(0, 200, 25)]
    with vocoder.stream() as stream:
        assert len(stream.redundancy) == stages
        made = [*(stream.push(*block) for block in blocks), stream.flush()]
        assert len(stream.redundancy) == 1
    assert np.abs(np.concatenate(made, 1) - reference(**given)).max() <= 1e-6
    assert (vocoder.backend, vocoder.health.ok) == ("faulty", False)


def test_a_stage_that_lies_raises_where_that_is_asked() -> None:
    vocoder = faulty(build=build(streaming=True), on_failure="raise")
    given = sung(vocoder, 1, 100)
    Plan.kind, Plan.after, Plan.only_on = "garbage", Plan.runs, {number_of(vocoder, "last")}
    with vocoder.stream() as stream:
        with pytest.raises(RunError, match="in stages"):
            stream.push(**given)
        with pytest.raises(InputError, match="there is a gap"):
            stream.push(**given)


def test_stages_that_lie_from_the_start_are_found_when_the_engine_is_opened() -> None:
    vocoder = faulty(build=build(streaming=True))
    number, Faulty.opened = len(vocoder._ladder.rung.stages), 0
    Plan.kind, Plan.only_on = "garbage", {number}
    with pytest.warns(RuntimeWarning, match="answers a known mel"):
        assert faulty(build=build(streaming=True)).backend == "onnxruntime"


# After a fault.


@pytest.mark.parametrize("kind", ["nan", "silence", "hangs"])
def test_a_passing_fault_does_not_end_a_session_that_raises(reference: trt_svc.Vocoder, kind: str) -> None:
    vocoder = faulty(on_failure="raise")
    given = sung(vocoder, 1, 50)
    Plan.kind, Plan.after = kind, Plan.runs
    with pytest.raises(RunError):
        vocoder(**given)
    Plan.kind = ""
    assert np.abs(vocoder(**given) - reference(**given)).max() <= 1e-6
    assert vocoder.backend == "faulty"


def test_an_input_that_makes_nan_everywhere_costs_nobody_the_engine(tmp_path: Path) -> None:
    from tests.nets import vocoder_of

    vocoder = vocoder_of("hifigan", tmp_path, build=build())
    given = utterance(vocoder, 1, 30)
    absurd = {"mel": np.full_like(given["mel"], 3e38)}
    with pytest.raises(RunError, match="is the input what it should be"):
        vocoder(**absurd)
    vocoder(**given)
    assert (vocoder.backend, vocoder.health.fallbacks) == ("faulty", 0)


def test_warnings_as_errors_do_not_lose_the_rung(reference: trt_svc.Vocoder) -> None:
    vocoder = faulty()
    given = sung(vocoder, 1, 50)
    Plan.kind, Plan.after = "nan", Plan.runs
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning):
            vocoder(**given)
        assert np.abs(vocoder(**given) - reference(**given)).max() <= 1e-6
    assert vocoder.backend == "onnxruntime"


def test_real_silence_behind_false_alarms_is_heard(reference: trt_svc.Vocoder) -> None:
    """Odd mels make the guards suspicious for nothing; an engine that falls silent then is still found at once."""
    vocoder = faulty()
    odd = np.random.default_rng(0).normal(-2, 3, (1, 128, 40)).astype(np.float32)
    f0 = np.full((1, 40), 200, np.float32)
    for _ in range(6):
        vocoder(odd, f0)
    assert vocoder.health.false_alarms >= 1 and vocoder.health.ok
    Plan.kind, Plan.after = "silence", Plan.runs
    with pytest.warns(RuntimeWarning, match="goes on with"):
        made = vocoder(odd, f0)
    assert np.abs(made - reference(odd, f0)).max() <= 1e-6


def test_batches_are_spread_over_the_devices() -> None:
    """Two devices that take a while: their runs overlap in time, in one call and in a batch of clips."""
    vocoder = faulty(devices=["cpu", "cpu"])
    busy, most, lock = [0], [0], threading.Lock()
    real = FaultyRunner.run

    def slow(self: FaultyRunner, inputs: Mapping[str, Array]) -> Array:
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        try:
            threading.Event().wait(0.05)
            return real(self, inputs)
        finally:
            with lock:
                busy[0] -= 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FaultyRunner, "run", slow)
        given = sung(vocoder, 8, 40)
        vocoder(**given)
        assert most == [2]
        most[0] = 0
        vocoder.batch(
            [row[:, : 20 + i] for i, row in enumerate(given["mel"])],
            [row[: 20 + i] for i, row in enumerate(given["f0"])],
        )
        assert most == [2]
