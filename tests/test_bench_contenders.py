"""Every contender that can run here, on a small network: opened, its figures, its audio; the others say why not."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.nets import healthy_short
from trt_svc.backends.base import Probe, TensorRunner
from trt_svc.backends.ort import OnnxRuntimeCuda, OrtTensorRunner
from trt_svc.backends.torch_tensorrt import _ProgramRunner
from trt_svc.bench.contenders.base import Track, contenders
from trt_svc.bench.contenders.engines import EngineContender
from trt_svc.bench.cost import cost_of
from trt_svc.bench.energy import joules_per_call
from trt_svc.bench.entries import Entry, open_entry, starters_of, track_for
from trt_svc.bench.memory import Watch
from trt_svc.bench.peaks import Probes
from trt_svc.bench.recipe import NetworkCase, Recipe, read_recipe, recipe_from, shipped_recipes
from trt_svc.bench.subjects import Subject, is_checkpoint, opened_subject
from trt_svc.build_config import Precision, ShapeRange
from trt_svc.cache import EngineCache
from trt_svc.checkpoints.describe import gflop_per_second
from trt_svc.checkpoints.presets import presets
from trt_svc.difference import difference
from trt_svc.errors import ConfigError, EngineError, InputError
from trt_svc.graph.check import reference_audio
from trt_svc.graph.vocoder import graph_from_vocoder
from trt_svc.hardware import Gpu
from trt_svc.vocoders.base import families

HERE = [name for name in contenders.names() if not contenders.get(name).why_not("cpu", "fp32")]
FRAMES, BATCH = 40, 2


def subject_of(name: str, folder: Path) -> Subject:
    return Subject(name, healthy_short(name), None, "random weights", EngineCache(folder), "0" * 64)


def test_what_runs_here() -> None:
    assert {"torch", "onnxruntime", "openvino", "auto"} <= set(HERE)
    for name in set(contenders.names()) - set(HERE):
        assert contenders.get(name).why_not("cpu", "fp32")


def test_contenders_for_cpus_stay_out_of_a_race_on_a_gpu() -> None:
    for name in ("onnxruntime", "openvino"):
        assert "CPU" in contenders.get(name).why_not("cuda:0", "fp32")
    assert not contenders.get("torch").why_not("cuda:0", "tf32")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler warns of torch's own parts
@pytest.mark.parametrize("name", HERE)
def test_a_contender_sounds_like_the_reference(name: str, tmp_path: Path) -> None:
    subject = subject_of("hifigan", tmp_path)
    track = Track("cpu", (ShapeRange(8, 8, FRAMES),), ShapeRange(1, 1, BATCH))
    contender = contenders.get(name)
    for forms in contender.forms(subject, ["plain", "usual"]):
        entry = Entry(name, "fp32", forms)
        open_entry(entry, subject, track, BATCH, FRAMES)
        assert not entry.failure
        assert entry.entrant is not None
        given = subject.inputs(BATCH, FRAMES).draw()
        made = entry.entrant.audio(entry.entrant.run(entry.entrant.placed(given)))
        reference = reference_audio(subject.net, {key: torch.from_numpy(value) for key, value in given.items()})
        assert difference(made, reference).snr_db > 90
        opening = entry.opening
        assert opening.first_call_s is not None and opening.first_call_s > 0
        if opening.engine_key is not None:
            assert opening.build_s is not None and opening.engine_bytes is not None and opening.load_s is not None
        else:
            assert opening.load_s is None, "the network was in memory already"


def test_an_engine_that_the_cache_has_lost_is_a_failure(tmp_path: Path) -> None:
    subject = subject_of("hifigan", tmp_path)
    ready = contenders.get("onnxruntime").prepare(
        subject, Track("cpu", (ShapeRange(8, 8, 8),), ShapeRange(1, 1, 1)), "fp32", ()
    )
    shutil.rmtree(tmp_path)
    with pytest.raises(EngineError, match="lost"):
        ready()


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "auto"])
def test_half_precision_on_a_cpu_is_no_row(name: str) -> None:
    assert "comput" in contenders.get(name).why_not("cpu", "fp16")
    assert not contenders.get(name).why_not("cpu", "fp32")


def test_half_precision_runs_in_float32_kernels_of_onnxruntime(tmp_path: Path) -> None:
    graph = graph_from_vocoder(healthy_short("hifigan"), Precision("fp16"))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(graph.to_bytes(), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(options.optimized_model_filepath)
    weights = {value.name: value.data_type for value in optimised.graph.initializer}
    kernels = [node for node in optimised.graph.node if node.op_type in ("Conv", "FusedConv", "ConvTranspose")]
    assert kernels
    assert {weights[node.input[1]] for node in kernels} == {onnx.TensorProto.FLOAT}


class Capable(OnnxRuntimeCuda):
    """As on a machine where it builds and runs."""

    def probe(self) -> Probe:
        return Probe(True, True, "onnxruntime on a GPU")


def test_half_precision_on_a_gpu_is_a_row() -> None:
    contender = EngineContender(Capable)
    assert not contender.why_not("cuda:0", "fp16")
    assert contender.why_not("cpu", "fp16") == "it needs a GPU"


def test_engines_for_other_gpus_are_left_out_with_that_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Gpu("NVIDIA H200", "sm90", 1, 1, "580")
    monkeypatch.setattr("trt_svc.backends.tensorrt.first_gpu", lambda: here)
    monkeypatch.setattr("trt_svc.backends.tensorrt.available_drivers", lambda: ["torch"])
    monkeypatch.setattr("trt_svc.backends.tensorrt_rtx.first_gpu", lambda: here)
    reason = contenders.get("tensorrt-rtx").why_not("cuda:0", "fp32")
    assert reason == "its engines are built for sm86, sm89, sm120; this GPU is sm90"
    monkeypatch.setattr("trt_svc.backends.tensorrt_rtx.first_gpu", lambda: replace(here, capability="sm89"))
    assert not contenders.get("tensorrt-rtx").why_not("cuda:0", "fp32")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnxruntime_reads_tensors_where_they_are(precision: str) -> None:
    graph = graph_from_vocoder(healthy_short("hifigan"), Precision(precision))
    provider = "CPUExecutionProvider"
    runner = OrtTensorRunner(graph.to_bytes(), [provider], provider, "cpu")
    assert isinstance(runner, TensorRunner)
    mel = np.random.default_rng(0).standard_normal((2, 80, 9)).astype(np.float32)
    expected = [runner.run({"mel": mel * gain}) for gain in (1, 2, 3)]
    made = [runner.run_tensors({"mel": torch.from_numpy(mel * np.float32(gain))}) for gain in (1, 2, 3)]
    for wave, right in zip(made, expected, strict=True):
        np.testing.assert_array_equal(wave.numpy(), right)
    odd = torch.from_numpy(mel).double().transpose(1, 2).contiguous().transpose(1, 2)
    np.testing.assert_array_equal(runner.run_tensors({"mel": odd}).numpy(), expected[0])


def test_a_stored_program_reads_tensors_where_they_are() -> None:
    runner = _ProgramRunner(torch.nn.Softplus(), "cpu")
    assert isinstance(runner, TensorRunner)
    assert runner.device == "cpu"
    mel = np.linspace(-1, 1, 30, dtype=np.float32).reshape(2, 3, 5)
    wave = runner.run_tensors({"mel": torch.from_numpy(mel).requires_grad_()})
    assert not wave.requires_grad
    np.testing.assert_array_equal(wave.numpy(), runner.run({"mel": mel}))
    with pytest.raises(TypeError):
        runner.run_tensors({})
    runner.run({"mel": mel})  # a failure leaves its turn


def test_memory_is_counted_from_the_watch_on() -> None:
    watch = Watch("cpu")
    before = watch.rss_added()
    if before is None:
        pytest.skip("this system does not tell")
    taken = np.ones(96 << 20, np.uint8)
    added = watch.rss_added()
    assert added is not None
    assert 90 << 20 < added - before < 110 << 20
    assert watch.device_bytes() is None
    assert taken.size == 96 << 20


def test_energy_that_cannot_be_counted_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise RuntimeError("lost")

    monkeypatch.setattr("trt_svc.bench.energy._counter", lambda device: broken)
    assert joules_per_call(lambda: None, "cuda:0") is None
    assert joules_per_call(lambda: None, "cpu") is None


def full_gpu(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))


def test_probes_shrink_to_what_a_gpu_has_free(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []

    def probe(size: int) -> float:
        tried.append(size)
        if size > 100:
            raise torch.OutOfMemoryError("full")
        return float(size)

    full_gpu(monkeypatch, free=1000)
    assert Probes("cuda:0")._fitting(probe, 400, needs=2000) == 100
    assert tried == [100], "half of the free memory"
    full_gpu(monkeypatch, free=1 << 20)
    assert Probes("cuda:0")._fitting(probe, 400, needs=2000) == 100
    assert tried[1:] == [400, 200, 100], "others took it meanwhile"
    full_gpu(monkeypatch, free=0)
    assert Probes("cuda:0")._fitting(probe, 400, needs=2000) == 0


def test_a_contender_that_breaks_does_not_stop_the_others(tmp_path: Path) -> None:
    subject = subject_of("hifigan", tmp_path)
    entry = Entry("onnxruntime", "fp32", ("no-such-rewrite",))
    open_entry(entry, subject, Track("cpu", (ShapeRange(8, 8, 8),), ShapeRange(1, 1, 1)), 1, 8)
    assert entry.entrant is None
    assert "none of that name" in entry.failure


def test_the_usual_forms_are_beside_the_graph_as_exported(tmp_path: Path) -> None:
    subject = subject_of("bigvgan", tmp_path)
    found = contenders.get("openvino").forms(subject, ["plain", "usual"])
    assert found[0] == ()
    assert len(found) == 2 and found[1]
    assert contenders.get("torch").forms(subject, ["plain", "usual"]) == [None]


def test_upstream_always_starts_and_nobody_twice() -> None:
    recipe = Recipe(networks=(NetworkCase(network="demo"),), contenders=("onnxruntime", "all", "torch"))
    starters = starters_of(recipe, recipe.networks[0], "cpu")
    names = [(contender.name, precision) for contender, precision in starters.rows]
    assert names[0] == ("torch", "fp32")
    assert len(set(names)) == len(names)
    assert "auto" not in {name for name, _ in names}
    assert {"tensorrt", "torch-cuda-graphs"} <= {left.contender for left in starters.left_out}
    assert all(left.reason for left in starters.left_out)


def test_a_precision_somebody_asked_for_is_answered() -> None:
    recipe = Recipe(networks=(NetworkCase(network="demo"),), contenders=("openvino",), precisions=("tf32",))
    starters = starters_of(recipe, recipe.networks[0], "cpu")
    assert [left.contender for left in starters.left_out] == ["openvino"]
    assert "tf32" in starters.left_out[0].reason


def test_checkpoints_use_the_engines_that_are_there(tmp_path: Path) -> None:
    with opened_subject("demo") as subject:
        assert track_for(subject, [86, 500], [1], "cpu").frames == ()
        assert track_for(subject, [86, 5000], [1], "cpu").frames == (ShapeRange(86, 86, 5000),)
        assert track_for(subject, [86], [1, 64], "cpu").batch == ShapeRange(1, 1, 64)


def test_random_weights_are_only_for_published_configs() -> None:
    assert is_checkpoint("demo")
    assert is_checkpoint("some/where.pth")
    assert not is_checkpoint("hifigan_v1")


def test_random_weights_leave_no_engines_behind() -> None:
    with opened_subject("hifigan_v3") as subject:
        root = subject.cache.root
        assert root.exists()
        assert not subject.trained
    assert not root.exists()


@pytest.mark.parametrize("name", sorted(presets()))
def test_the_cost_is_torch_own_count(name: str) -> None:
    preset = presets()[name]
    with torch.device("meta"):
        net = families.get(preset.family).from_config(preset.config, {}, preset.source)
    found = cost_of(net, 2, 64)
    seconds = 64 / net.spec.frames_per_second
    assert found.gflop / 2 / seconds == pytest.approx(gflop_per_second(net), rel=1e-9)
    assert found.traffic_bytes > 4 * sum(p.numel() for n, p in net.named_parameters() if p.ndim == 3)


def test_the_roofline_is_the_slower_of_work_and_traffic() -> None:
    found = cost_of(healthy_short("hifigan"), 1, 32)
    assert found.least_s(1e9, 10) == pytest.approx(found.traffic_bytes / 10e9)
    assert found.least_s(10, 1e9) == pytest.approx(found.gflop / 10)
    assert found.least_s(10, 10) >= max(found.least_s(1e9, 10), found.least_s(10, 1e9))
    assert found.least_s(1e9, 10, bytes_per_value=2) == pytest.approx(found.least_s(1e9, 10) / 2)


def test_counting_leaves_the_network_alone() -> None:
    net = healthy_short("hifigan")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    cost_of(net, 1, 32)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_peaks_only_rise() -> None:
    probes = Probes("cpu")
    probes.look()
    first = probes.as_peaks()
    probes.look()
    second = probes.as_peaks()
    assert 0 < first.gflops["fp32"] <= second.gflops["fp32"]
    assert 0 < first.copy_gb_per_s <= second.copy_gb_per_s
    assert len(second.gflops_seen) == 2
    assert probes.highest("fp16") >= second.gflops["fp32"]


# Recipes.


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_fit_the_schema(name: str) -> None:
    recipe = read_recipe(name)
    assert recipe.about
    for case in recipe.networks:
        assert case.network == "demo" or case.network in presets()
        for contender in case.contenders or recipe.contenders:
            assert contender == "all" or contender in contenders.names()


def test_the_reference_cases_are_whole() -> None:
    waveglow = read_recipe("reference-waveglow").networks[0]
    assert waveglow.frames == (154, 164, 443, 490, 651, 699, 723, 760, 832, 833)
    assert waveglow.batch == (1, 4, 8, 16)
    assert read_recipe("reference-hifigan").networks[0].batch == (1, 8)
    everything = {case.network for case in read_recipe("gpu").networks}
    assert {read_recipe(n).networks[0].network for n in shipped_recipes() if n.startswith("reference")} <= everything


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ({}, "networks"),
        ({"networks": []}, "networks"),
        ({"networks": [{"network": "demo", "frame": [3]}]}, "frames"),
        ({"networks": [{"network": "demo", "frames": [0]}]}, "frames"),
        ({"networks": [{"network": "demo", "frames": [3], "seconds": [1]}]}, "not both"),
        ({"networks": [{"network": "demo"}], "min_rounds": 9, "max_rounds": 3}, "min_rounds"),
        ({"networks": [{"network": "demo"}], "forms": ["odd"]}, "forms"),
        ({"networks": [{"network": "demo"}], "budget": 3}, "budget_s"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_key(data: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        recipe_from(data, "a recipe")


def test_recipe_files(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("networks:\n  - network: demo\n    seconds: [1, 2.5]\n", "utf-8")
    found = read_recipe(tmp_path / "mine.yaml")
    assert found.name == "mine"
    assert found.networks[0].lengths(100.0) == [100, 250]
    (tmp_path / "list.yaml").write_text("- 3\n", "utf-8")
    with pytest.raises(ConfigError, match="list"):
        read_recipe(tmp_path / "list.yaml")
    with pytest.raises(ConfigError, match="quick"):
        read_recipe("quik")


def test_an_unknown_contender_is_named() -> None:
    recipe = Recipe(networks=(NetworkCase(network="demo"),), contenders=("onnxruntme",))
    with pytest.raises(InputError, match="onnxruntime"):
        starters_of(recipe, recipe.networks[0], "cpu")


def test_examples_repeat_without_end() -> None:
    with opened_subject("demo") as subject:
        drawn = subject.inputs(3, 700).draw()
    assert drawn["mel"].shape == (3, 128, 700)
    assert drawn["source"].shape == (3, 1, 700 * 512)
    assert all(np.isfinite(value).all() for value in drawn.values())
