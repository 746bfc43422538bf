"""Products in bfloat16 between float32: which layers, what they cost, and what a CPU makes of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

from tests.nets import healthy_short
from trt_svc.backends.base import backends
from trt_svc.build import build_engine
from trt_svc.build_config import BuildConfig, Precision, ShapeRange
from trt_svc.cache import EngineCache
from trt_svc.errors import ConfigError
from trt_svc.features.f0.networks.crepe import Crepe
from trt_svc.features.f0.networks.crepe_spectral import SpectralCrepe
from trt_svc.features.f0.networks.norm import StoredNorm
from trt_svc.graph.check import run_on_cpu
from trt_svc.graph.mixed import in_mixed, product_layers
from trt_svc.graph.model import tensor_types
from trt_svc.mixed_layers import RoundingCost, protected_layers, rounding_costs, worth_rounding
from trt_svc.progress import Quiet
from trt_svc.svc.engine_building import StageBuilder, chose_torch
from trt_svc.svc.f0_stages import CrepeStage
from trt_svc.svc.stage import StageNet
from trt_svc.svc.stage_graphs import graph_of, stage_graph
from trt_svc.vocoders.base import CoreInput

ov = pytest.importorskip("openvino")
multiplies_bfloat16 = "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
on_bfloat16 = pytest.mark.skipif(not multiplies_bfloat16, reason="this CPU does not multiply in bfloat16")


class Branches(nn.Module):
    """A few convolutions around a residual connection."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv1d(channels, channels, 3, padding=1)
        self.second = nn.Conv1d(channels, channels, 7, padding=3)
        self.last = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.last(x + self.second(torch.relu(self.first(x))))
        return made


def stage(name: str = "denoiser") -> StageNet:
    torch.manual_seed(0)

    def examples(batch: int, length: int, seed: int) -> dict[str, np.ndarray]:
        drawn = np.random.default_rng(seed).standard_normal((batch, 32, length))
        return {"x": drawn.astype(np.float32)}

    module = Branches().eval().requires_grad_(False)
    return StageNet(name, module, (CoreInput("x", 32),), examples, ShapeRange(4, 40, 64))


def product_types(model: onnx.ModelProto) -> Counter[tuple[str, int]]:
    types = tensor_types(model)
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    return Counter((node.name.rpartition("/")[0], types[node.output[0]]) for node in nodes)


def test_only_the_layers_that_are_not_named_multiply_in_bfloat16() -> None:
    graph = graph_of(stage())
    assert product_layers(graph) == ("first", "second", "last")
    mixed = in_mixed(graph, ["l*"])
    assert product_types(mixed.model) == {
        ("first", TensorProto.BFLOAT16): 1, ("second", TensorProto.BFLOAT16): 1, ("last", TensorProto.FLOAT): 1
    }  # fmt: skip
    others = [node for node in mixed.model.graph.node if node.op_type in ("Add", "Relu")]
    types = tensor_types(mixed.model)
    assert others and all(types[node.output[0]] == TensorProto.FLOAT for node in others)


def test_costs_count_multiplications_and_leave_the_network_as_it_was() -> None:
    whole = stage()
    heard = torch.from_numpy(whole.examples(2, 10, 0)["x"])
    before = whole.module(heard)
    costs = list(rounding_costs(whole.module, lambda: whole.module(heard).numpy(), ["first", "second", "last"], ["l*"]))
    assert [(c.layer, c.multiplications) for c in costs] == [
        ("first", 2 * 10 * 32 * 32 * 3),
        ("second", 2 * 10 * 32 * 32 * 7),
    ]
    assert all(1e-7 < c.noise < 1e-4 for c in costs)
    assert torch.equal(whole.module(heard), before)


def test_noise_is_spent_where_it_buys_most() -> None:
    costs = [RoundingCost("dear", 10, 5e-6), RoundingCost("cheap", 100, 5e-6), RoundingCost("large", 1000, 1e-3)]
    assert worth_rounding(costs, 40.0) == ("cheap", "dear")
    assert worth_rounding(costs, 52.0) == ("cheap",)
    assert worth_rounding(costs, 90.0) == ()


def test_layers_are_protected_until_the_measured_quality_is_reached() -> None:
    costs = [RoundingCost(name, 100, noise) for name, noise in {"a": 3e-7, "b": 5e-7, "c": 6e-7}.items()]
    asked: list[tuple[str, ...]] = []

    def measured_db(protected: tuple[str, ...]) -> float:
        asked.append(protected)
        return 50.0 + 3.2 * len(protected)

    assert protected_layers(["a", "b", "c", "norm"], costs, 56.0, measured_db) == ("c", "norm")
    assert asked[0] == ("norm",)
    assert protected_layers(["a", "b", "c", "norm"], costs, 56.0, lambda _: 20.0) == ("a", "b", "c", "norm")


@on_bfloat16
def test_an_engine_multiplies_in_bfloat16_where_the_graph_says_so() -> None:
    mixed = in_mixed(graph_of(stage()), ["last"])
    core = ov.Core()
    compiled = core.compile_model(core.read_model(mixed.to_bytes(), b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    said = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    convolutions = [info for info in said if info["layerType"].astype(str) == "Convolution"]
    assert sorted(info["runtimePrecision"].astype(str) for info in convolutions) == ["bf16", "bf16", "f32"]


@on_bfloat16
@pytest.mark.parametrize("gate_db", [48.0, 55.0])
def test_a_mixed_stage_keeps_its_gate_with_bfloat16_in_it(
    gate_db: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path))
    config = BuildConfig(backend="openvino", precision=Precision("mixed"), gate_db=gate_db)
    engine = StageBuilder(config, EngineCache(), Quiet()).engine(stage())
    assert not chose_torch(engine)
    assert gate_db <= engine.quality["snr_db"] < 80.0, "something is rounded, but not too much"
    again = StageBuilder(config, EngineCache(), Quiet()).engine(stage())
    assert again.cache_hit and again.entry.manifest["key"] == engine.entry.manifest["key"]


@on_bfloat16
def test_a_higher_gate_gets_an_engine_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path))
    for gate_db in (40.0, 55.0):
        config = BuildConfig(backend="openvino", precision=Precision("mixed"), gate_db=gate_db)
        engine = StageBuilder(config, EngineCache(), Quiet()).engine(stage())
        assert engine.quality["snr_db"] >= gate_db and not engine.cache_hit


@on_bfloat16
def test_stages_that_take_little_time_stay_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path))
    config = BuildConfig(backend="openvino", precision=Precision("mixed"))
    engine = StageBuilder(config, EngineCache(), Quiet()).engine(stage("f0"))
    assert engine.quality["snr_db"] > 100.0


@on_bfloat16
def test_a_mixed_vocoder_passes_its_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path))
    config = BuildConfig(backend="openvino", precision=Precision("mixed"), frames=(ShapeRange(1, 24, 64),))
    engine = build_engine(healthy_short("nsf_hifigan"), config)
    assert 53.0 <= engine.quality["snr_db"] < 80.0
    assert engine.entry.manifest["key"]["precision"]["protected"], "some layers are too dear"


def test_a_backend_without_bfloat16_refuses_mixed() -> None:
    with pytest.raises(ConfigError, match="mixed"):
        backends.get("onnxruntime")().settled(BuildConfig(backend="onnxruntime", precision=Precision("mixed")))


def test_crepe_in_the_spectrum_answers_as_by_convolution() -> None:
    torch.manual_seed(1)
    net = Crepe((12, 6, 5, 7, 8, 4)).eval().requires_grad_(False)
    for norm in [part for part in net.modules() if isinstance(part, StoredNorm)]:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
    windows = torch.randn(3, 1024)
    expected, spectral = net(windows), SpectralCrepe(net).eval()
    assert expected.std() > 0.01
    torch.testing.assert_close(spectral(windows), expected, rtol=1e-5, atol=1e-6)
    graph = stage_graph(CrepeStage(spectral), (CoreInput("windows", 1024),), "salience")
    made = run_on_cpu(graph, {"windows": windows.numpy()[:, :, None]})
    np.testing.assert_allclose(made[:, :, 0], expected.numpy(), rtol=1e-5, atol=1e-6)
