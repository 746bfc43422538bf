"""NVIDIA's real compiler (TensorRT-RTX, whose builder needs no GPU) on a small network of every family."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from tests.nets import SMALL, healthy_small
from trt_svc.backends.base import backends
from trt_svc.backends.tensorrt import PLAN
from trt_svc.backends.trt_api import PlanOptions as Options
from trt_svc.backends.trt_api import TrtApi, check_header, explained, fused_kernels, plan_version
from trt_svc.build import default_rewrites
from trt_svc.build_config import BuildConfig, Precision, ShapeRange
from trt_svc.errors import BuildCancelled, BuildError, EngineError, OutOfMemory, UnsupportedOperator
from trt_svc.graph.model import Graph, GraphInput
from trt_svc.graph.vocoder import graph_from_vocoder
from trt_svc.hardware import first_gpu
from trt_svc.progress import Quiet
from trt_svc.vocoders.base import VocoderNet

CEILINGS = Path(__file__).parent / "data" / "fused_kernels.json"
"""Fused kernels per family in the plans of these small networks; a change of the graph may lower them only."""
TARGETS = ("sm86", "sm89", "sm120")

without_gpu = pytest.mark.skipif(first_gpu() is not None, reason="asks what happens where no GPU is")


def settings_for(net: VocoderNet, **changes: Any) -> BuildConfig:
    settings = BuildConfig(
        backend="tensorrt-rtx",
        precision=Precision("fp16"),
        frames=(ShapeRange(1, 32, 64),),
        batch=ShapeRange(1, 1, 2),
        targets=TARGETS,
    )
    return BuildConfig(**{**settings.__dict__, **changes}).for_family(net.family)


def build(net: VocoderNet, progress: Any = None, **changes: Any) -> Any:
    backend = backends.get("tensorrt-rtx")()
    settings = settings_for(net, **changes)
    graph = graph_from_vocoder(net, settings.precision, default_rewrites(backend, net))
    return backend.build(graph, settings, progress or Quiet())


@pytest.mark.parametrize("name", SMALL)
def test_every_family_compiles_in_fp16_for_three_generations(name: str) -> None:
    built = build(healthy_small(name))
    plan = built.files[PLAN]
    check_header(plan)
    assert plan_version(plan).startswith("1.")
    ceiling = json.loads(CEILINGS.read_text())[name]
    assert 0 < len(fused_kernels(plan)) <= ceiling, "a change of the graph splits what the compiler fused before"
    assert built.notes["layers"] > 10


def test_several_profiles_in_one_engine() -> None:
    one = build(healthy_small("hifigan"))
    two = build(healthy_small("hifigan"), frames=(ShapeRange(1, 32, 64), ShapeRange(65, 96, 128)))
    assert two.notes["fused_kernels"] > one.notes["fused_kernels"]


def test_progress_is_reported() -> None:
    class Seen(Quiet):
        stages: list[str] = []
        steps: list[tuple[int, int]] = []

        def stage(self, name: str) -> None:
            self.stages.append(name)

        def step(self, done: int, total: int) -> None:
            self.steps.append((done, total))

    seen = Seen()
    build(healthy_small("hifigan"), seen)
    assert seen.stages
    assert any(total > 1 for _, total in seen.steps)


def test_a_build_can_be_stopped() -> None:
    stop = Quiet()
    threading.Timer(0.05, stop.cancel).start()
    with pytest.raises(BuildCancelled, match="Nothing was stored"):
        build(healthy_small("bigvgan"), stop, frames=tuple(ShapeRange(i, i + 5, i + 9) for i in range(1, 200, 10)))


def test_too_little_workspace_is_out_of_memory() -> None:
    with pytest.raises(OutOfMemory, match=r"workspace: 1 MiB; \d+ MiB.*free.*Raise --workspace"):
        build(healthy_small("waveglow"), workspace_bytes=1 << 20, frames=(ShapeRange(1, 500, 2000),))


def test_a_target_the_compiler_does_not_know() -> None:
    with pytest.raises(BuildError, match=r"sm90.*data-centre"):
        build(healthy_small("hifigan"), targets=("sm90",))


@without_gpu
def test_weights_cannot_be_left_out_without_a_gpu() -> None:
    with pytest.raises(BuildError, match="needs a GPU"):
        build(healthy_small("hifigan"), strip_weights=True)


@without_gpu
def test_opening_without_a_driver_says_so() -> None:
    built = build(healthy_small("hifigan"))
    with pytest.raises(EngineError, match="driver"):
        TrtApi.load("tensorrt_rtx").engine(built.files[PLAN])


@pytest.mark.parametrize("damage", ["empty", "short", "foreign", "longer"])
def test_a_damaged_plan_never_reaches_the_runtime(damage: str) -> None:
    plan = b"vtrt" + bytes(12) + (200).to_bytes(8, "little") + bytes(176)
    check_header(plan)
    damaged = {"empty": b"", "short": plan[:150], "foreign": b"\x00" * 200, "longer": plan + b"x"}[damage]
    with pytest.raises(EngineError, match="plan"):
        TrtApi.load("tensorrt_rtx").engine(damaged)


def one_node(node: onnx.NodeProto) -> Graph:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 4, "frames"]) for n in ("mel", "audio")]
    model = helper.make_model(helper.make_graph([node], "g", values[:1], values[1:]), ir_version=9)
    model.opset_import[0].version = 18
    model.opset_import.append(helper.make_opsetid("made.up", 1))
    return Graph(model, (GraphInput("mel", 4),), {})


def test_an_unsupported_operator_is_named() -> None:
    node = helper.make_node("Wobble", ["mel"], ["audio"], name="the_odd_one", domain="made.up")
    settings = settings_for(healthy_small("hifigan"))
    with pytest.raises(UnsupportedOperator, match="the_odd_one"):
        TrtApi.load("tensorrt_rtx").build(one_node(node), settings.profiles, Options(TARGETS), Quiet())


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        ("[optimizer.cpp::x] Error Code 10: OutOfMemory (Requested size was 123456789 bytes.)", "OutOfMemory"),
        ("Could not find any implementation for node {ForeignNode[a...b]}", "OutOfMemory"),
        ("CUDA initialization failure with error: 35", "BuildError"),
        (
            "Could not infer output types for operation:  4371: deconv: ups.0/ConvTranspose | x(bf16",
            "UnsupportedOperator",
        ),
        ("Network must have at least one optimization profile", "ShapeRangeError"),
        ("something else altogether", "BuildError"),
    ],
)
def test_what_the_log_says_becomes_a_typed_error(log: str, kind: str) -> None:
    assert type(explained([log], Options())).__name__ == kind
