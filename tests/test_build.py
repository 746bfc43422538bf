"""From a checkpoint to an engine in the cache, end to end, on the backends that run or compile here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import trt_svc
from tests.golden import SUBSET, GoldenNet, upstream_checkpoint
from tests.nets import healthy_small
from trt_svc import request
from trt_svc.backends.base import backends
from trt_svc.build import build_engine, check_export, fastest, gate_shapes
from trt_svc.build_config import (
    BuildConfig,
    Precision,
    ShapeRange,
    config_from_recipe,
    default_batch,
    default_frames,
    parse_bytes,
    parse_ranges,
    read_recipe,
)
from trt_svc.cache import EngineCache
from trt_svc.checkpoints.load import open_checkpoint
from trt_svc.checkpoints.locate import DEMO_FOLDER
from trt_svc.checkpoints.presets import config_folder
from trt_svc.difference import difference
from trt_svc.errors import BackendUnavailable, BuildCancelled, ConfigError, EngineError, GraphError, QualityError
from trt_svc.graph.check import reference_audio, run_on_cpu
from trt_svc.graph.vocoder import graph_from_vocoder
from trt_svc.prebuilt import request_for
from trt_svc.progress import Quiet
from trt_svc.timing import interleaved_seconds
from trt_svc.vocoders.base import families
from trt_svc.vocoders.healthy import example_inputs

CPU = ("onnxruntime", "openvino", *(["native"] if backends.get("native")().probe().runs else []))


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


@pytest.fixture
def engine_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path / "engines"))
    return tmp_path / "engines"


def small(backend: str, **changes: Any) -> BuildConfig:
    return BuildConfig(backend=backend, frames=(ShapeRange(1, 32, 64),), batch=ShapeRange(1, 1, 2), **changes)


# Building.


@pytest.mark.parametrize("backend", CPU)
def test_an_engine_sounds_like_the_network(backend: str, cache: EngineCache) -> None:
    engine = build_engine("demo", small(backend), cache=cache)
    assert not engine.cache_hit
    assert engine.backend == backend
    assert engine.quality["snr_db"] >= 100
    assert engine.notes["quality_of"] == f"the engine on {backend}"
    assert "sentinel.npz" in engine.entry.files
    assert engine.entry.metadata["family"] == "nsf_hifigan"
    again = build_engine("demo", small(backend), cache=cache)
    assert again.cache_hit and again.key == engine.key


def test_an_rtx_engine_is_judged_by_its_graph(cache: EngineCache) -> None:
    engine = build_engine("demo", small("tensorrt-rtx"), cache=cache)
    said = engine.as_dict()
    assert said["precision"]["name"] == "fp16", "half precision is usual on GPUs"
    assert said["identity"]["targets"] == "sm86,sm89,sm120"
    assert 55 < engine.quality["snr_db"] < 90
    assert said["fused_kernels"] > 0
    if not backends.get("tensorrt-rtx")().probe().runs:
        assert "onnxruntime" in said["quality_of"]


@pytest.mark.parametrize("backend", CPU)
@pytest.mark.parametrize("name", ["hifigan-v3", "nsf-mini", "sovits-dec-mix", "bigvgan-v2-clamp", "waveglow-b2"])
def test_a_session_on_an_engine_equals_torch(name: str, backend: str, tmp_path: Path, engine_folder: Path) -> None:
    golden = GoldenNet(name, SUBSET)
    path = upstream_checkpoint(golden, tmp_path / "voice")
    here = trt_svc.load_vocoder(path, source=golden.source)
    there = trt_svc.load_vocoder(path, source=golden.source, backend=backend)
    assert there.backend == backend
    made, expected = there(**golden.inputs, seed=5), here(**golden.inputs, seed=5)
    assert difference(np.asarray(made), np.asarray(expected)).snr_db > 100


def test_two_voices_of_one_name_never_share_an_engine(tmp_path: Path, cache: EngineCache) -> None:
    keys = set()
    for voice, scale in (("a", 1.0), ("b", 1.001)):
        folder = tmp_path / voice
        shutil.copytree(DEMO_FOLDER, folder)
        weights = load_file(folder / "model.safetensors")
        weights["conv_pre.weight"] = weights["conv_pre.weight"] * scale
        save_file(weights, folder / "model.safetensors")
        os.utime(folder / "model.safetensors", (1e9, 1e9))
        engine = build_engine(folder, small("onnxruntime"), cache=cache)
        assert not engine.cache_hit
        keys.add(engine.key)
    assert len(keys) == 2


def test_layout_and_name_of_the_file_do_not_matter(tmp_path: Path, cache: EngineCache) -> None:
    golden = GoldenNet("hifigan-v3", SUBSET)
    first = build_engine(upstream_checkpoint(golden, tmp_path / "a"), small("onnxruntime"), cache=cache)
    converted = tmp_path / "b"
    from trt_svc.checkpoints.convert import convert_checkpoint

    convert_checkpoint(tmp_path / "a", converted)
    second = build_engine(converted, small("onnxruntime"), cache=cache)
    assert second.cache_hit and second.key == first.key


def test_auto_measures_and_writes_it_down(cache: EngineCache) -> None:
    settings = BuildConfig(device="cpu", frames=(ShapeRange(1, 32, 64),))
    engine = build_engine("demo", settings, cache=cache)
    measured = engine.notes["measured"]
    assert measured["frames"] == 32
    assert measured["chosen"] in measured["seconds"]
    assert measured["chosen"].startswith(engine.backend)
    assert {label.split()[0] for label in measured["seconds"]} >= {"torch", *CPU}
    quickest = min((v, k) for k, v in measured["seconds"].items() if k != "torch")[1]
    assert quickest == measured["chosen"]
    again = build_engine("demo", settings, cache=cache)
    assert again.cache_hit and again.notes["measured"] == measured


def test_equal_weights_under_another_config_never_share_an_engine(tmp_path: Path, cache: EngineCache) -> None:
    golden = GoldenNet("bigvgan-v1-snake", SUBSET)
    keys = set()
    for logscale in (True, False):
        folder = tmp_path / str(logscale)
        path = upstream_checkpoint(golden, folder)
        config = {**golden.meta["config"], "snake_logscale": logscale}
        engine = build_engine(path, small("onnxruntime"), config=config, cache=cache)
        assert not engine.cache_hit
        keys.add(engine.key)
    assert len(keys) == 2


def test_another_source_is_another_engine(cache: EngineCache) -> None:
    found = [build_engine("demo", small("onnxruntime"), source=s, cache=cache) for s in ("openvpi", "sovits-interp")]
    assert [engine.cache_hit for engine in found] == [False, False]
    kinds = [engine.entry.metadata["excitation"] for engine in found]
    assert kinds[0] != kinds[1]


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "voice"
    shutil.copytree(DEMO_FOLDER, folder)
    path = folder / "model.safetensors"
    first = path.read_bytes()
    weights = load_file(path)
    weights["conv_pre.weight"] = weights["conv_pre.weight"] * 1.01
    save_file(weights, tmp_path / "second")

    def swapped(*arguments: Any) -> Any:
        path.write_bytes((tmp_path / "second").read_bytes())
        return open_checkpoint(*arguments)

    monkeypatch.setattr("trt_svc.build.open_checkpoint", swapped)
    of_second = build_engine(folder, small("onnxruntime"), cache=cache)
    monkeypatch.undo()
    path.write_bytes(first)
    of_first = build_engine(folder, small("onnxruntime"), cache=cache)
    assert not of_first.cache_hit
    assert of_first.entry.metadata["weights_sha256"] != of_second.entry.metadata["weights_sha256"]


def test_default_targets_by_name_are_the_same_engine(cache: EngineCache) -> None:
    first = build_engine("demo", small("tensorrt-rtx"), cache=cache)
    named = build_engine("demo", small("tensorrt-rtx", targets=("sm120", "sm86", "sm89", "sm86")), cache=cache)
    assert named.cache_hit and named.key == first.key
    by_target = build_engine("demo", small("auto", targets=("sm86", "sm89", "sm120")), cache=cache)
    assert by_target.backend == "tensorrt-rtx" and by_target.key == first.key


def test_auto_goes_on_without_a_backend_that_breaks(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr(backends.get("openvino"), "build", broken)
    engine = build_engine("demo", small("auto", device="cpu"), cache=cache)
    assert engine.backend in CPU and engine.backend != "openvino"
    assert any("boom" in reason for reason in engine.notes["measured"]["out"].values())


def test_bf16_on_insistence(cache: EngineCache) -> None:
    rough = Precision("bf16", allow_bf16=True)
    for backend in ("onnxruntime", "tensorrt-rtx"):
        with pytest.raises(ConfigError, match="no kernels"):
            build_engine("demo", small(backend, precision=rough), cache=cache)
    net = open_checkpoint("demo").net
    graph = graph_from_vocoder(net, rough)
    inputs = {name: value.numpy() for name, value in example_inputs(net, 1, 32).items()}
    found = difference(run_on_cpu(graph, inputs), reference_audio(net, example_inputs(net, 1, 32)))
    assert 20 < found.snr_db < 55


def test_the_gate_covers_every_profile_and_a_batch() -> None:
    settings = BuildConfig(frames=(ShapeRange(1, 300, 400), ShapeRange(401, 500, 9000)), batch=ShapeRange(1, 1, 4))
    shapes = gate_shapes(settings.for_family("hifigan"))
    for shape in ((1, 1), (1, 33), (1, 300), (1, 401), (1, 500), (2, 8), (2, 408)):
        assert shape in shapes
    fixed = gate_shapes(BuildConfig(frames=(ShapeRange(7, 7, 7),), batch=ShapeRange(2, 2, 2)))
    assert fixed == [(2, 7)]


def test_an_engine_that_answers_wrongly_is_not_opened(engine_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trt_svc.backends.ort import OrtRunner

    trt_svc.load_vocoder("demo", backend="onnxruntime", build=small("onnxruntime"))
    real = OrtRunner.run
    monkeypatch.setattr(OrtRunner, "run", lambda self, inputs: -real(self, inputs))
    with pytest.raises(EngineError, match="answers a known mel"):
        trt_svc.load_vocoder("demo", build=small("onnxruntime"), on_failure="raise")
    with pytest.warns(RuntimeWarning, match="answers a known mel.*goes on with torch"):
        recovered = trt_svc.load_vocoder("demo", build=small("onnxruntime"))
    assert (recovered.backend, recovered.health.fallbacks, recovered.health.ok) == ("torch", 1, False)


def test_force_builds_again(cache: EngineCache) -> None:
    first = build_engine("demo", small("onnxruntime"), cache=cache)
    again = build_engine("demo", small("onnxruntime"), cache=cache, force=True)
    assert not again.cache_hit and again.key == first.key


# What is refused.


def test_the_gate_keeps_a_bad_engine_out(cache: EngineCache) -> None:
    with pytest.raises(QualityError, match=r"the gate asks for 95.*precision-report"):
        build_engine("demo", small("onnxruntime", precision=Precision("fp16"), gate_db=95.0), cache=cache)
    assert cache.keys() == []


def test_the_gate_holds_for_cached_engines_too(cache: EngineCache) -> None:
    build_engine("demo", small("onnxruntime", precision=Precision("fp16")), cache=cache)
    with pytest.raises(QualityError):
        build_engine("demo", small("onnxruntime", precision=Precision("fp16"), gate_db=95.0), cache=cache)


def test_a_backend_that_makes_noise_is_caught(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    from trt_svc.backends.ort import OrtRunner

    real = OrtRunner.run
    monkeypatch.setattr(OrtRunner, "run", lambda self, inputs: real(self, inputs) * np.float32(1.001))
    with pytest.raises(QualityError, match=r"60\.0 dB"):
        build_engine("demo", small("onnxruntime"), cache=cache)


def test_nan_never_passes_the_gate(cache: EngineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    from trt_svc.backends.ort import OrtRunner

    real = OrtRunner.run
    monkeypatch.setattr(OrtRunner, "run", lambda self, inputs: real(self, inputs) * np.float32(np.nan))
    with pytest.raises(QualityError, match="nan"):
        build_engine("demo", small("onnxruntime"), cache=cache)


def test_a_wrong_export_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    other = healthy_small("hifigan", seed=1)
    monkeypatch.setattr("trt_svc.build.reference_audio", lambda net, inputs: reference_audio(other, inputs))
    monkeypatch.setattr("trt_svc.graph.check.reference_audio", lambda net, inputs: reference_audio_of(other, inputs))
    with pytest.raises(GraphError, match="dB from torch"):
        check_export(healthy_small("hifigan"), ())


def reference_audio_of(net: Any, inputs: Any) -> Any:
    return net(*[inputs[spec.name] for spec in net.core_inputs()]).numpy()


def test_a_cancelled_build_stores_nothing(cache: EngineCache) -> None:
    stop = Quiet()
    stop.cancel()
    with pytest.raises(BuildCancelled):
        build_engine("demo", small("onnxruntime"), cache=cache, progress=stop)
    assert cache.keys() == []


@pytest.mark.parametrize("backend", ["tensorrt", "torch-tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_a_backend_that_cannot_build_here_says_why(backend: str, cache: EngineCache) -> None:
    probe = backends.get(backend)().probe()
    if probe.builds:
        pytest.skip("it can build here")
    with pytest.raises(BackendUnavailable) as caught:
        build_engine("demo", small(backend), cache=cache)
    assert caught.value.advice


def test_auto_without_any_candidate_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(QualityError, match="nothing that runs here passes"):
        fastest(
            healthy_small("hifigan"), small("auto", precision=Precision("fp32"), gate_db=500.0, device="cpu"), Quiet()
        )


IGNORED: dict[str, BuildConfig] = {
    "targets": small("onnxruntime", targets=("sm86",)),
    "workspace bytes": small("openvino", workspace_bytes=1 << 30),
    "strip weights": small("onnxruntime", strip_weights=True),
    "hardware compatible": small("tensorrt-rtx", hardware_compatible=True),
    "protected layers": small("onnxruntime", precision=Precision("fp16", ("no_such_layer*",))),
}


@pytest.mark.parametrize("name", IGNORED)
def test_what_would_be_ignored_is_refused(name: str, cache: EngineCache) -> None:
    with pytest.raises(ConfigError, match=name):
        build_engine("demo", IGNORED[name], cache=cache)


# Requests.


def test_the_processor_in_few_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request, "processor", lambda: ["model name\t: Some CPU @ 3 GHz", "flags\t\t: fpu avx2"])
    with_avx2 = request.processor_mark()
    monkeypatch.setattr(request, "processor", lambda: ["model name\t: Some CPU @ 3 GHz", "flags\t\t: fpu avx512f"])
    assert with_avx2.startswith("Some CPU @ 3 GHz (") and len(with_avx2) < 40
    assert with_avx2 != request.processor_mark()


def test_a_request_sees_everything_that_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "voice"
    shutil.copytree(DEMO_FOLDER, folder)
    settings = small("onnxruntime")

    def seen(**options: Any) -> str:
        return json.dumps(request_for(folder, options.pop("settings", settings), **options), sort_keys=True)

    found = [seen(), seen(family="nsf_hifigan"), seen(source="mini"), seen(config="pc_nsf_hifigan_44k")]
    found.append(seen(settings=replace(settings, gate_db=50.0)))
    found.append(seen(settings=replace(settings, precision=Precision("fp16", ("ups.*",)))))
    monkeypatch.setattr(request, "versions", lambda: {"torch": "9"})
    found.append(seen())
    monkeypatch.setattr(request, "machine_marks", lambda: {"gpu": ["RTX 9090"]})
    found.append(seen())
    monkeypatch.setattr(request, "own_code", lambda: "edited")
    found.append(seen())
    config = folder / "config.json"
    config.write_text(config.read_text().replace("44100", "48000"))
    found.append(seen())
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    found.append(seen())
    assert len(set(found)) == len(found)
    monkeypatch.setattr(request, "machine_marks", lambda: None)
    assert request_for(folder, settings) is None


def test_the_machine_shows_in_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    marks = request.machine_marks()
    assert marks is None or marks["cpu"], "the processor's model and flags"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert request.machine_marks() != marks


def test_a_second_call_needs_no_torch(engine_folder: Path) -> None:
    build = [sys.executable, "-m", "trt_svc", "build-engine", "demo", "--backend", "onnxruntime", "--json"]
    first = subprocess.run(build, capture_output=True, text=True, check=True, timeout=300)
    assert json.loads(first.stdout)["cache_hit"] is False
    code = (
        "import sys\nfrom trt_svc.cli.main import app\n"
        f"app({build[3:]!r}, standalone_mode=False)\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["cache_hit"] is True


# Settings.


@pytest.mark.parametrize("path", sorted((config_folder() / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_that_ships_loads(path: Path) -> None:
    settings = config_from_recipe(read_recipe(path), path.name)
    for family in families.names():
        assert settings.for_family(family).profiles
    assert settings.backend == "auto" or settings.backend in backends.names()


def test_recipes_ship() -> None:
    assert len(list((config_folder() / "recipes").glob("*.yaml"))) >= 5


def test_the_defaults_of_the_families() -> None:
    opts = {family: [r.opt for r in default_frames(family)] for family in families.names()}
    assert opts["bigvgan"] == [468, 934]
    assert opts["gptsovits_generator"] == [500, 1000]
    assert [str(r) for r in default_frames("sovits_dec")] == ["1:500:2000"]
    (waveglow,) = default_frames("waveglow")
    assert 154 in waveglow and 833 in waveglow
    assert 8 in default_batch("hifigan")


BAD_RECIPES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"precison": "fp16"}, "Did you mean 'precision'"),
    "no such precision": ({"precision": "fp8"}, "there is none of that name"),
    "bf16": ({"precision": "bf16"}, "allow-bf16"),
    "falling range": ({"frames": "500:32:2000"}, "must rise"),
    "zero frames": ({"frames": "0:32:2000"}, "must rise"),
    "words": ({"frames": "many"}, "MIN:OPT:MAX"),
    "twice": ({"frames": ["1:2:3", "1:2:3"]}, "listed twice"),
    "no such gpu": ({"gpu": "sm99"}, "Did you mean"),
    "no size": ({"workspace": "lots"}, "1GiB or 512MiB"),
    "tiny workspace": ({"workspace": "1KiB"}, "256MiB"),
    "level": ({"optimization_level": 9}, "optimization_level"),
    "device": ({"device": "tpu"}, "device"),
    "endless": ({"frames": "1:500:900000000"}, "Chunk longer input"),
    "gate": ({"min_snr_db": "nan"}, "no number of dB"),
    "absurd size": ({"workspace": "9" * 400}, "1GiB or 512MiB"),
    "list": ({"protected": "ups"}, "protected"),
}


@pytest.mark.parametrize("name", BAD_RECIPES)
def test_bad_recipes_are_explained(name: str) -> None:
    data, message = BAD_RECIPES[name]
    with pytest.raises(ConfigError, match=message):
        config_from_recipe(data)


def test_unquoted_ranges_in_a_recipe_are_no_sexagesimal_numbers(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("backend: openvino\nframes: 1:32:50\nbatch: 1:1:4\nmin_snr_db: 90\nworkspace: ~\n")
    settings = config_from_recipe(read_recipe(tmp_path / "r.yaml"))
    assert settings.frames == (ShapeRange(1, 32, 50),)
    assert settings.batch == ShapeRange(1, 1, 4)
    assert settings.gate_db == 90 and settings.workspace_bytes is None
    (tmp_path / "r.yaml").write_text("frames: 500\nversion_compatible: true\noptimization_level: 3\n")
    settings = config_from_recipe(read_recipe(tmp_path / "r.yaml"))
    assert settings.frames == (ShapeRange(500, 500, 500),)
    assert settings.version_compatible is True and settings.optimization_level == 3


@pytest.mark.parametrize("text", ["- a\n- b", "{", "\x00", "just words"])
def test_recipe_files_that_are_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"recipe r\.yaml"):
        read_recipe(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_recipe(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("text", "size"), [("1GiB", 2**30), ("512 MiB", 2**29), ("1GB", 10**9), ("7", 7), ("1.5KiB", 1536)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


def test_ranges() -> None:
    assert parse_ranges("1:2:3,7") == (ShapeRange(1, 2, 3), ShapeRange(7, 7, 7))
    assert 2 in ShapeRange(1, 2, 3) and 4 not in ShapeRange(1, 2, 3)


def test_interleaved_timing_drops_the_hopeless() -> None:
    calls = {"quick": 0, "slow": 0}

    def slow() -> None:
        import time

        calls["slow"] += 1
        time.sleep(0.02)

    def quick() -> None:
        calls["quick"] += 1

    found = interleaved_seconds({"quick": quick, "slow": slow}, rounds=4)
    assert found["quick"] < found["slow"]
    assert calls == {"quick": 2 + 3 * 4, "slow": 2}
