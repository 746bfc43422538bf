"""What a start brings in, when it says it got where, and the tools that measure starts and long calls."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from benchmarks import cold_start, linear_cost
from benchmarks.own_checkpoint import checkpoint_for
from tests.bench_reports import provenance
from trt_svc import milestones
from trt_svc.backends.base import backends
from trt_svc.copysynthesis import in_equal_blocks
from trt_svc.errors import InputError
from trt_svc.loading import load_vocoder
from trt_svc.registry import Registry

ROOT = Path(__file__).parents[1]
REACHED = dict(zip(cold_start.PHASES, (0.1, 0.3, 0.5, 1.0, 1.2, 1.6), strict=True))


@pytest.fixture(autouse=True)
def engine_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path / "engines"))


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout


# What is imported.


def test_a_command_does_not_wait_for_the_others() -> None:
    code = (
        "import sys\nfrom trt_svc.cli.main import app\n"
        "app(['vocode', 'nothing.wav', '-o', 'x.wav', '-m', 'nothing', '--backend', 'openvino'], standalone_mode=False)\n"
    )
    asked = f"import sys\ntry:\n    exec({code!r})\nexcept BaseException:\n    pass\nprint(*sys.modules)"
    loaded = set(_python(asked).split())
    assert "trt_svc.cli.vocode" in loaded
    assert not {"trt_svc.cli.bench", "trt_svc.cli.convert", "trt_svc.cli.doctor", "torch", "onnx"} & loaded


@pytest.mark.parametrize("backend", ["onnxruntime", "native"])
def test_a_stored_engine_needs_neither_torch_nor_onnx(backend: str, tmp_path: Path) -> None:
    if backend == "native" and not backends.get(backend)().probe().runs:
        pytest.skip("the native kernels do not run here")
    soundfile.write(tmp_path / "in.wav", 0.1 * np.sin(np.arange(22050) / 20), 44100)
    command = ["vocode", str(tmp_path / "in.wav"), "-o", str(tmp_path / "out.wav"), "--backend", backend]
    code = (
        "import sys\nfrom trt_svc.cli.main import app\n"
        f"app({[*command, '--device', 'cpu', '--f0', '220', '--json']!r}, standalone_mode=False)\n"
        "print('heavy:', *{'torch', 'onnx', 'scipy', 'openvino'} & set(sys.modules))\n"
    )
    built, found = _python(code), _python(code)
    assert json.loads(built.partition("heavy:")[0]).get("reached_s", {}).get("engine found") is None
    said, _, heavy = found.partition("heavy:")
    assert not heavy.split()
    reached = json.loads(said)["reached_s"]
    assert [name for name in reached if name in cold_start.PHASES] == [n for n in cold_start.PHASES if n in reached]
    assert {*cold_start.PHASES} - {"command line"} <= set(reached)
    assert list(reached.values()) == sorted(reached.values())


def test_looking_for_one_part_leaves_its_neighbours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_parts"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from trt_svc.registry import Registry\nparts = Registry('part', 'some_parts')\n"
    )
    for name in ("one", "two"):
        text = f'from some_parts import parts\n@parts.register("{name}-part")\nclass Part: ...\n'
        (package / f"{name}_file.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    import some_parts  # type: ignore[import-not-found]

    parts: Registry[Any] = some_parts.parts
    assert parts.get("two-part").__module__ == "some_parts.two_file"
    assert "some_parts.one_file" not in sys.modules
    assert parts.names() == ["one-part", "two-part"]
    with pytest.raises(InputError, match="Did you mean 'one-part'"):
        parts.get("on-part")


# When it got where.


def test_the_clock_begins_with_the_process() -> None:
    code = "import time; time.sleep(0.5)\nfrom trt_svc.milestones import since_start_s\nprint(since_start_s())"
    began = time.perf_counter()
    said = float(_python(code))
    assert 0.45 < said < time.perf_counter() - began + 0.05


def test_the_first_time_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(milestones, "_reached", {})
    milestones.reached("there")
    first = milestones.milestones()["there"]
    milestones.reached("there")
    assert milestones.milestones() == {"there": first}


def test_without_a_clock_of_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(milestones, "_STAT", tmp_path / "nowhere")
    assert milestones.since_start_s() > 0


# First samples early.


def test_the_first_block_may_be_shorter() -> None:
    mel = np.arange(50, dtype=np.float32)[None, None]
    pieces = iter([mel[:, :, :3], mel[:, :, 3:30], mel[:, :, 30:]])
    blocks = list(in_equal_blocks(pieces, 20, first=5))
    assert [block.shape[2] for block in blocks] == [5, 20, 20, 5]
    assert np.array_equal(np.concatenate(blocks, axis=2), mel)


def test_long_input_on_a_cpu_is_cut() -> None:
    vocoder = load_vocoder("demo", device="cpu")
    assert vocoder.chunk_frames is not None and 1000 <= vocoder.chunk_frames <= 2000
    assert load_vocoder("demo", device="cpu", chunk_frames=200).chunk_frames == 200


@pytest.mark.parametrize("frames", [61, 75, 100, 333, 500])
def test_what_is_cut_is_cut_into_equal_windows(frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = load_vocoder("demo", device="cpu"), load_vocoder("demo", device="cpu", chunk_frames=60)
    rng = np.random.default_rng(frames)
    mel = (rng.normal(size=(1, 128, frames)) - 4).astype(np.float32)
    f0 = np.full((1, frames), 220.0, np.float32)
    ladder, seen = cut._ladder, []
    run = ladder.run

    def noted(inputs: Any) -> Any:
        seen.append(int(inputs["mel"].shape[2]))
        return run(inputs)

    monkeypatch.setattr(ladder, "run", noted)
    assert np.abs(np.asarray(cut(mel, f0)) - np.asarray(whole(mel, f0))).max() < 5e-6
    context = sum(cut.receptive_field)
    assert len(set(seen)) == 1 and seen[0] <= 60
    assert len(seen) == -(-(frames - context) // (60 - context))


# The tools.


def test_phases_add_up_to_the_first_samples() -> None:
    found = cold_start.phases({**REACHED, "something else": 0.4})
    assert list(found) == list(cold_start.PHASES)
    assert sum(found.values()) == pytest.approx(REACHED[cold_start.FIRST])
    with pytest.raises(InputError, match="engine found"):
        cold_start.phases({name: value for name, value in REACHED.items() if name != "engine found"})


def test_a_slow_start_is_told() -> None:
    starts = tuple(cold_start.Start(reached_s=REACHED, whole_s=2.0) for _ in range(3))
    row = cold_start.Row(network="demo", backend="auto", chosen="onnxruntime", audio_s=2.0, starts=starts)
    report = cold_start.ColdStartReport(provenance=provenance(), allowed_s=3.0, rows=(row,))
    assert report.kept and "| 1.60 |" in cold_start.markdown_of(report)
    assert not report.model_copy(update={"allowed_s": 1.5}).kept


def _length(seconds: float, cost: float, grown: float | None) -> linear_cost.Length:
    times = (seconds * cost,) * 3
    return linear_cost.Length(
        audio_s=seconds, frames=100, seconds=times, network_s=times, grown_mib=grown, arrays_mib=1.0
    )


def test_what_is_not_linear_or_not_bounded_is_told() -> None:
    def row(cost: float, grown: float | None) -> linear_cost.Row:
        lengths = (_length(5.0, 0.5, 100.0), _length(60.0, cost, grown))
        return linear_cost.Row(
            network="demo", backend="torch", chosen="torch", chunk_frames=500, window_mib=120.0, lengths=lengths
        )

    good = row(0.54, 150.0)
    assert good.is_linear and good.is_bounded
    assert not row(0.56, 150.0).is_linear
    assert row(0.5, 190.0).is_bounded is False
    assert row(0.5, None).is_bounded is None
    report = linear_cost.LinearCostReport(provenance=provenance(), rows=(good,))
    assert report.kept and "linear" in linear_cost.markdown_of(report)
    assert not linear_cost.LinearCostReport(provenance=provenance(), rows=(row(0.6, 150.0),)).kept


def test_calls_of_all_lengths_are_timed_in_every_round() -> None:
    vocoder = load_vocoder("demo", device="cpu")
    found = linear_cost.timed(vocoder, [20, 40], rounds=2)
    assert {length: len(times) for length, times in found.items()} == {20: 2, 40: 2}
    for call_s, network_s in (pair for times in found.values() for pair in times):
        assert 0 < network_s <= call_s
    assert statistics.median(network_s for _, network_s in found[40]) > 0


def test_a_published_config_becomes_files_that_load(tmp_path: Path) -> None:
    assert checkpoint_for("demo", tmp_path) == "demo"
    assert load_vocoder(checkpoint_for("hifigan_v3", tmp_path), device="cpu").family == "hifigan"
