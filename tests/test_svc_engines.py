"""Every stage as an engine: equal to torch, built once, given up when it fails, at any length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import golden_svc
from tests.parity_svc.voice import golden_voice
from tests.test_svc_front_graphs import encoder, f0_stage_of, stage_of
from tests.test_svc_pitch import NEURAL
from trt_svc.backends.base import Built, Runner, backends
from trt_svc.build_config import BuildConfig, Precision, ShapeRange
from trt_svc.cache import EngineCache
from trt_svc.difference import difference
from trt_svc.errors import BuildError, RunError
from trt_svc.graph.check import run_on_cpu
from trt_svc.graph.model import HALF_TYPES, tensor_types
from trt_svc.svc.clusters import read_clusters
from trt_svc.svc.diffusion import Diffusion, Sampling, seeded_draws
from trt_svc.svc.engine_building import gate_shapes
from trt_svc.svc.engine_stages import EngineStages, StageRun
from trt_svc.svc.networks.unit2mel import Unit2Mel
from trt_svc.svc.retrieval import read_retrieval
from trt_svc.svc.stage import StageNet, in_torch
from trt_svc.svc.stage_graphs import graph_of
from trt_svc.svc.voice_stages import (
    cluster_stage,
    denoiser_for,
    denoiser_stage,
    flow_stage,
    pitch_stage,
    retrieval_stage,
    voice_encoder_stage,
)
from trt_svc.types import Array
from trt_svc.vocoders.base import CoreInput

KMEANS = golden_svc.FOLDER / "kmeans_10000.pt"
PICKLE = golden_svc.FOLDER / "feature_and_index.pkl"


@pytest.fixture(autouse=True)
def _engines_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path / "engines"))


def shortened(stage: StageNet) -> StageNet:
    """With little to measure."""
    return replace(stage, lengths=ShapeRange(stage.lengths.min, 40, 64))


@cache
def unit2mel() -> Unit2Mel:
    sizes = golden_svc.meta("unit2mel")["cfg"]
    net = Unit2Mel(
        sizes["input_channel"], sizes["out_dims"], sizes["n_layers"], sizes["n_chans"], sizes["n_hidden"],
        sizes["n_spk"] or 1, sizes["use_pitch_aug"],
    )  # fmt: skip
    data = golden_svc.arrays("unit2mel")
    net.load_state_dict({key[3:]: torch.from_numpy(value) for key, value in data.items() if key.startswith("sd.")})
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StageNet]:
    """One of every kind, of the golden networks."""
    plain, transformers = (
        golden_voice(name, tmp_path_factory.mktemp(name)).net for name in ("v256", "v768_vol_transflow")
    )
    clusters = read_clusters(KMEANS)
    made = {
        "encoder": voice_encoder_stage(plain),
        "encoder with volume": voice_encoder_stage(transformers),
        "pitch": pitch_stage(plain),
        "flow": flow_stage(plain),
        "flow of a mix": flow_stage(plain, by_frame=True),
        "transformer flow": flow_stage(transformers),
        "denoiser": denoiser_stage(unit2mel().denoiser),
        "clusters": cluster_stage(clusters.of(next(iter(clusters.speakers)))),
        "retrieval": retrieval_stage(read_retrieval(PICKLE)),
    }
    return {name: shortened(stage) for name, stage in made.items()}


KINDS = (
    "encoder", "encoder with volume", "pitch", "flow", "flow of a mix", "transformer flow", "denoiser",
    "clusters", "retrieval",
)  # fmt: skip


def settings(backend: str, precision: str = "fp32", **others: Any) -> BuildConfig:
    return BuildConfig(backend, precision=Precision(precision), **others)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "native"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_equals_torch(kind: str, backend: str, stages: dict[str, StageNet]) -> None:
    if not backends.get(backend)().probe().runs:
        pytest.skip(f"{backend} is not here")
    opener, stage = EngineStages(settings(backend)), stages[kind]
    run = opener(stage)
    for batch, frames in ((1, 1), (1, 64), (5, 17)):
        given = stage.examples(batch, frames, 3)
        made, expected = run(given), in_torch(stage)(given)
        assert made.shape == expected.shape and made.dtype == np.float32
        assert difference(made, expected).snr_db > 100
    (note,) = opener.report()
    # Ours says by itself what it has no kernels for.
    made_by = {backend, backends.get(backend).stand_in} - {""}
    assert note.backend in made_by and (note.precision, note.cached) == ("fp32", False), note
    assert note.quality_db is not None and note.quality_db >= 100


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_in_half_precision(kind: str, stages: dict[str, StageNet]) -> None:
    """Inputs and output stay float32, products are half, and the gate of 45 dB is passed by a wide margin."""
    stage = stages[kind]
    graph = graph_of(stage, Precision("fp16"))
    types = tensor_types(graph.model)
    assert {types[value.name] for value in [*graph.model.graph.input, *graph.model.graph.output]} == {1}
    halves = [node.op_type for node in graph.model.graph.node if types[node.output[0]] in HALF_TYPES]
    assert bool({"Conv", "MatMul"} & set(halves)) != stage.whole_float32
    assert not {"Exp", "LayerNormalization", "Softmax"} & set(halves)
    given = stage.examples(2, 33, 1)
    assert difference(run_on_cpu(graph, given), in_torch(stage)(given)).snr_db > (100 if stage.whole_float32 else 55)


@pytest.mark.parametrize("kind", KINDS)
def test_nvidias_compiler_takes_a_stage(kind: str, stages: dict[str, StageNet]) -> None:
    if not backends.get("tensorrt-rtx")().probe().builds:
        pytest.skip("TensorRT-RTX is not here")
    config = settings("tensorrt-rtx", "fp16", targets=("sm86", "sm89", "sm120"))
    engine = EngineStages(config).built(stages[kind])
    assert engine.bytes > 10_000 and engine.quality["snr_db"] > 45


FRONT_LENGTHS = {"audio": ShapeRange(720, 7920, 16000), "mel": ShapeRange(1, 64, 96)}


def front_stage(name: str, folder: Path) -> StageNet:
    """A small content encoder or f0 network, with little to measure."""
    stage = f0_stage_of(name, folder) if name in NEURAL else stage_of(encoder(name, folder))
    (heard,) = stage.inputs
    fixed = stage.lengths.min == stage.lengths.max
    return stage if fixed else replace(stage, lengths=FRONT_LENGTHS[heard.name])


@pytest.mark.parametrize("name", ["hubertsoft", "wavlmbase+", "whisper-ppg", "crepe", "rmvpe", "fcpe"])
def test_what_listens_to_the_recording(name: str, tmp_path: Path) -> None:
    """Content encoders and f0 networks go the same ways."""
    stage, quality = front_stage(name, tmp_path), {}
    for config in (
        settings("onnxruntime"),
        settings("openvino"),
        settings("tensorrt-rtx", "fp16", targets=("sm86", "sm89", "sm120")),
    ):
        if backends.get(config.backend)().probe().builds:
            quality[config.backend] = EngineStages(config).built(stage).quality["snr_db"]
    assert quality["onnxruntime"] > 100
    assert quality.get("openvino", 200) > 100 and quality.get("tensorrt-rtx", 200) > 48


# The cache.


def test_a_second_opening_builds_nothing(stages: dict[str, StageNet], monkeypatch: pytest.MonkeyPatch) -> None:
    first = EngineStages(settings("onnxruntime"))
    first(stages["flow"])

    def refuse(*_: object) -> Built:
        raise AssertionError("it was built again")

    monkeypatch.setattr(backends.get("onnxruntime"), "build", refuse)
    again = EngineStages(settings("onnxruntime"))
    given = stages["flow"].examples(1, 20, 0)
    made = again(stages["flow"])(given)
    assert difference(made, in_torch(stages["flow"])(given)).snr_db > 100
    (before,), (after,) = first.report(), again.report()
    assert (before.cached, after.cached) == (False, True)
    assert after == replace(before, cached=True)


def test_another_code_finds_the_same_engine(stages: dict[str, StageNet], monkeypatch: pytest.MonkeyPatch) -> None:
    """The short way is closed by any edit of the package; the engine's own key is not."""
    EngineStages(settings("onnxruntime"))(stages["flow"])
    monkeypatch.setattr("trt_svc.svc.engine_building.own_code", lambda: "edited")
    opener = EngineStages(settings("onnxruntime"))
    opener(stages["flow"])
    assert opener.report()[0].cached


def test_on_a_machine_without_a_name_nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have another GPU than before; the engine's own key still finds what fits."""
    monkeypatch.setattr("trt_svc.svc.engine_building.machine_marks", lambda: None)
    first = EngineStages(settings("onnxruntime")).built(small_stage())
    monkeypatch.setattr(EngineCache, "recall", lambda *_: pytest.fail("it was recalled"))
    again = EngineStages(settings("onnxruntime")).built(small_stage())
    assert again.cache_hit and again.key == first.key


@pytest.mark.parametrize("change", ["weight", "attribute", "precision", "float32", "lengths"])
def test_what_changes_an_engine(change: str) -> None:
    stage = small_stage()
    before = EngineStages(settings("onnxruntime", "fp16")).built(stage)
    other, precision = small_stage(), "fp16"
    if change == "weight":
        other.module.conv.weight[0, 0, 0] += 0.01  # type: ignore[union-attr,index,operator]
    elif change == "attribute":
        other.module.gain = 3.0  # type: ignore[assignment]
    elif change == "precision":
        precision = "fp32"
    elif change == "float32":
        other = replace(other, float32=("conv",))
    else:
        other = replace(other, lengths=ShapeRange(1, 8, 20))
    after = EngineStages(settings("onnxruntime", precision)).built(other)
    assert before.key != after.key and not after.cache_hit
    assert EngineStages(settings("onnxruntime", "fp16")).built(small_stage()).key == before.key


def test_the_quickest_is_chosen_once(stages: dict[str, StageNet], monkeypatch: pytest.MonkeyPatch) -> None:
    opener = EngineStages(BuildConfig("auto", device="cpu"))
    opener(stages["encoder"])
    (note,) = opener.report()
    measured = opener.built(stages["encoder"]).notes["measured"]
    assert {"torch", "onnxruntime"} <= set(measured["seconds"])
    assert note.backend in measured["seconds"] and not note.cached
    monkeypatch.setattr("trt_svc.svc.engine_building.interleaved_seconds", None)
    again = EngineStages(BuildConfig("auto", device="cpu"))
    again(stages["encoder"])
    assert replace(again.report()[0], cached=False) == note and again.report()[0].cached


def test_torch_may_be_the_quickest(stages: dict[str, StageNet], monkeypatch: pytest.MonkeyPatch) -> None:
    """That is remembered as well."""
    times = iter([lambda runs, *_: {name: 1.0 + (name != "torch") for name in runs}])
    monkeypatch.setattr("trt_svc.svc.engine_building.interleaved_seconds", lambda *given: next(times)(*given))
    given = stages["flow"].examples(1, 9, 0)
    for cached in (False, True):
        opener = EngineStages(BuildConfig("auto", device="cpu"))
        np.testing.assert_array_equal(opener(stages["flow"])(given), in_torch(stages["flow"])(given))
        (note,) = opener.report()
        assert (note.backend, note.note, note.cached, note.quality_db) == ("torch", "quickest here", cached, None)


# What goes wrong.


class SmallNet(torch.nn.Module):
    """A stage that can be made to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(2, 3, 3, padding=1)
        self.gain = 2.0
        with torch.no_grad():
            self.conv.weight.copy_(torch.linspace(-1, 1, 18).reshape(3, 2, 3))
            self.conv.bias.zero_()  # type: ignore[union-attr]
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gain * torch.tanh(self.conv(x))


def small_stage(**changes: Any) -> StageNet:
    def examples(batch: int, length: int, seed: int) -> dict[str, Array]:
        return {"x": np.random.default_rng(seed).standard_normal((batch, 2, length)).astype(np.float32)}

    stage = StageNet("small", SmallNet(), (CoreInput("x", 2),), examples, ShapeRange(1, 8, 16))
    return replace(stage, **changes)


def test_lengths_and_rows_beyond_the_profile() -> None:
    """Longer input is torch's own answer, more rows go through in several runs."""
    stage, opener = small_stage(), EngineStages(settings("onnxruntime"))
    run = opener(stage)
    assert isinstance(run, StageRun)
    for batch, length in ((1, 17), (3, 500)):
        given = stage.examples(batch, length, 0)
        np.testing.assert_array_equal(run(given), in_torch(stage)(given))
    given = stage.examples(11, 16, 0)
    assert difference(run(given), in_torch(stage)(given)).snr_db > 100
    assert opener.report()[0].backend == "onnxruntime"


def test_a_speaker_by_frame_goes_around_the_engine_of_one_speaker(stages: dict[str, StageNet]) -> None:
    run = EngineStages(settings("onnxruntime"))(stages["flow"])
    given = stages["flow of a mix"].examples(1, 12, 0)
    np.testing.assert_array_equal(run(given), in_torch(stages["flow"])(given))


def test_one_row_serves_all_rows(stages: dict[str, StageNet]) -> None:
    stage = stages["flow"]
    run = EngineStages(settings("onnxruntime"))(stage)
    given = {**stage.examples(3, 12, 0), "speaker": stage.examples(1, 12, 5)["speaker"]}
    assert difference(run(given), in_torch(stage)(given)).snr_db > 100


class Failing:
    """A runner that breaks after a while, in one of several ways."""

    def __init__(self, runner: Runner, how: str) -> None:
        self._runner, self._how, self.runs = runner, how, 0

    def run(self, inputs: Mapping[str, Array]) -> Array:
        self.runs += 1
        made = self._runner.run(inputs)
        if self.runs > 1 and self._how == "raises":
            raise RuntimeError("the driver is gone")
        if self.runs > 1 and self._how == "runs out of memory":
            raise MemoryError("too little")
        return np.full_like(made, np.nan) if self.runs > 1 else made


def broken(how: str) -> tuple[StageNet, Failing, StageRun, EngineStages]:
    stage, opener = small_stage(), EngineStages(settings("onnxruntime"))
    run = opener(stage)
    assert isinstance(run, StageRun)
    failing = Failing(backends.get("onnxruntime")().open(opener.built(stage).entry.files, "auto"), how)
    run._engine = failing.run
    return stage, failing, run, opener


@pytest.mark.parametrize("how", ["raises", "says NaN"])
def test_a_failing_engine_is_given_up_once(how: str) -> None:
    stage, failing, run, opener = broken(how)
    given = stage.examples(1, 8, 0)
    assert difference(run(given), in_torch(stage)(given)).snr_db > 100
    with pytest.warns(RuntimeWarning, match="small on onnxruntime fp32: .* goes on in torch") as seen:
        np.testing.assert_array_equal(run(given), in_torch(stage)(given))
    assert len(seen) == 1
    np.testing.assert_array_equal(run(given), in_torch(stage)(given))
    assert failing.runs == 2
    (note,) = opener.report()
    assert note.backend == "torch" and ("driver is gone" if how == "raises" else "NaN") in note.note


def test_too_little_memory_is_no_reason_to_give_up() -> None:
    stage, failing, run, opener = broken("runs out of memory")
    given = stage.examples(1, 8, 0)
    for _ in range(3):
        assert difference(run(given), in_torch(stage)(given)).snr_db > 100
    assert failing.runs == 3 and opener.report()[0].backend == "onnxruntime"


def test_when_torch_fails_too_the_engine_is_not_to_blame() -> None:
    stage, run = small_stage(), EngineStages(settings("onnxruntime"))(small_stage())
    given = stage.examples(1, 8, 0)
    with pytest.raises(RunError, match=r"small.*NaN"):
        run({"x": np.full_like(given["x"], np.nan)})
    assert difference(run(given), in_torch(stage)(given)).snr_db > 100


class Untranslated(SmallNet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.erfinv(0.1 * torch.tanh(x))


def test_what_cannot_be_built_runs_in_torch() -> None:
    stage, opener = small_stage(module=Untranslated()), EngineStages(settings("onnxruntime"))
    with pytest.warns(RuntimeWarning, match="small: no engine .*erfinv"):
        run = opener(stage)
    given = stage.examples(1, 8, 0)
    np.testing.assert_array_equal(run(given), in_torch(stage)(given))
    (note,) = opener.report()
    assert (note.backend, note.quality_db) == ("torch", None) and "erfinv" in note.note


def test_what_misses_the_gate_runs_in_torch() -> None:
    opener = EngineStages(settings("onnxruntime", "fp16", gate_db=150.0))
    with pytest.warns(RuntimeWarning, match="the gate asks for 150 dB"):
        opener(small_stage())
    assert opener.report()[0].backend == "torch"
    assert not list(EngineCache().keys())


def test_an_engine_for_other_machines_is_built_but_not_opened() -> None:
    backend = backends.get("tensorrt-rtx")()
    config = settings("tensorrt-rtx", "fp16", targets=("sm86",))
    if not backend.probe().builds or backend.can_run(backend.settled(config)):
        pytest.skip("this needs TensorRT-RTX on a machine without such a GPU")
    opener = EngineStages(config)
    with pytest.warns(RuntimeWarning, match="small: no engine"):
        opener(small_stage())
    assert not list(EngineCache().keys())
    assert opener.built(small_stage()).backend == "tensorrt-rtx"


def test_bfloat16_is_refused() -> None:
    with pytest.raises(BuildError, match="bf16"):
        graph_of(small_stage(), Precision("bf16", allow_bf16=True))


# Half precision.


def test_named_layers_stay_float32() -> None:
    stage = small_stage(float32=("conv",))
    types = tensor_types(graph_of(stage, Precision("fp16")).model)
    assert not HALF_TYPES & set(types.values())
    assert HALF_TYPES & set(tensor_types(graph_of(small_stage(), Precision("fp16")).model).values())


class Extremes(torch.nn.Module):
    """What half precision cannot hold must not reach it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(2, 2, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[1.0, 0.5], [0.25, 2.0]]).unsqueeze(-1))
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return (y * 1e6 + 1e-9) / 1e6 + torch.softmax(self.conv(y), dim=1) + torch.exp(y)


def test_constants_beyond_half_precision() -> None:
    stage = small_stage(module=Extremes())
    given = stage.examples(2, 9, 0)
    made = run_on_cpu(graph_of(stage, Precision("fp16")), given)
    assert difference(made, in_torch(stage)(given)).snr_db > 55


# Lengths at which engines are measured.


@pytest.mark.parametrize("lengths", [(1, 860, 4096), (400, 160_000, 640_000), (32, 992, 4096), (7, 7, 7), (3, 4, 5)])
def test_the_gate_measures_lengths_that_make_sense(lengths: tuple[int, int, int]) -> None:
    axis = ShapeRange(*lengths)
    shapes = gate_shapes(axis, ShapeRange(1, 1, 4))
    assert all(length in axis and length % axis.min == 0 for _, length in shapes)
    assert {1, 2} == {batch for batch, _ in shapes} and (1, axis.min) in shapes


# The denoiser of shallow diffusion.


def test_diffusion_on_an_engine() -> None:
    """The same mel as in torch, in one piece and in windows."""
    sizes, net = golden_svc.meta("unit2mel")["cfg"], unit2mel()
    steps = (sizes["timesteps"], sizes["k_step_max"])
    run = EngineStages(settings("onnxruntime"))(denoiser_stage(net.denoiser))
    plain, rng = Diffusion(net, *steps), np.random.default_rng(0)
    units = rng.standard_normal((2, 50, net.unit_channels)).astype(np.float32)
    cond = plain.condition(units, np.full((2, 50), 220.0, np.float32), np.full((2, 50), 0.1, np.float32))
    mel = rng.uniform(-10, 0, (2, 50, net.n_mels)).astype(np.float32)
    sampling = Sampling("dpm-solver++", 10)
    expected = plain.refined(mel, cond, 40, sampling, seeded_draws(3))
    for window_frames in (2048, 16):
        engine = Diffusion(net, *steps, denoiser_for=denoiser_for(run, net.denoiser, window_frames))
        made = engine.refined(mel, cond, 40, sampling, seeded_draws(3))
        assert made.shape == expected.shape and difference(made, expected).snr_db > 90
