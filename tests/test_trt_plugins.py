"""The anti-aliased snake as a plugin of classic TensorRT, as far as it goes without its libraries and a GPU.

Shown: the graph with one node per activation and its plain form for other runtimes; what the plugin answers to the
questions of `tensorrt.plugin` in the real bindings of 10.x and 11.x; the kernel in Triton's interpreter; its shipped
PTX through the real assembler for every GPU. Not shown: that TensorRT builds an engine with it, and that it runs.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.nets import healthy_small
from tests.test_trt_api import WHEELS, with_stand_ins
from trt_svc.backends import trt_plugins
from trt_svc.backends.base import backends
from trt_svc.backends.plugin_kernels import building, kernel_for, manifest
from trt_svc.backends.tensorrt import TensorRT
from trt_svc.backends.trt_api import TrtApi, _log_of
from trt_svc.build import forms
from trt_svc.build_config import BuildConfig, Precision
from trt_svc.difference import difference
from trt_svc.errors import ConfigError, UnsupportedOperator
from trt_svc.graph.check import compare_with_module
from trt_svc.graph.custom import ANTIALIASED_SNAKE, DOMAIN, functions_of, opsets_of
from trt_svc.graph.model import Graph
from trt_svc.graph.rewrites.plugin_snake import PluginSnake
from trt_svc.graph.vocoder import graph_from_vocoder, stage_graphs
from trt_svc.optional import is_installed
from trt_svc.vocoders.antialias import AntiAliasedSnake

ROOT = Path(__file__).parents[1]
DTYPES = ("fp32", "fp16", "bf16")
SHAPES = [(1, 1, 1), (2, 3, 2), (1, 2, 16), (3, 1, 17), (2, 2, 65)]
on_linux = pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() != "x86_64", reason="the wheels are for Linux"
)


def snake(channels: int, seed: int = 0) -> AntiAliasedSnake:
    torch.manual_seed(seed)
    made = AntiAliasedSnake(channels, logscale=True, has_beta=True).requires_grad_(False)
    assert made.act.beta is not None
    torch.nn.init.normal_(made.act.alpha, 0.0, 0.5)
    torch.nn.init.normal_(made.act.beta, 0.0, 0.5)
    return made


# The form on torch.


@pytest.mark.parametrize("shape", SHAPES)
def test_it_equals_upstreams_form(shape: tuple[int, int, int]) -> None:
    original, x = snake(shape[1]), torch.randn(shape)
    torch.testing.assert_close(PluginSnake(original)(x), original(x), rtol=0, atol=1e-5)


def test_half_precision_is_on_the_way_in_and_out_only() -> None:
    original = snake(3)
    form, x = PluginSnake(original).half(), torch.randn(2, 3, 50).half()
    assert form.a.dtype == form.inverse.dtype == torch.float32
    made = form(x)
    assert made.dtype == torch.float16
    assert torch.equal(made, PluginSnake(original)(x.float()).half())


# The graph.


def one_node(original: AntiAliasedSnake, kind: int) -> onnx.ModelProto:
    form = PluginSnake(original)
    weights = [numpy_helper.from_array(getattr(form, name).numpy(), name) for name in ("a", "inverse")]
    node = helper.make_node(
        ANTIALIASED_SNAKE, ["x", "a", "inverse"], ["y"], domain=DOMAIN, plugin_namespace=DOMAIN, aot=1
    )
    axes = ["batch", len(form.a), "samples"]
    ends = [[helper.make_tensor_value_info(name, kind, axes)] for name in ("x", "y")]
    graph = helper.make_graph([node], "one", *ends, initializer=weights)
    return helper.make_model(
        graph, functions=functions_of([node], 20), opset_imports=opsets_of([node], 20), ir_version=10
    )


@pytest.mark.parametrize(("kind", "floor_db"), [(TensorProto.FLOAT, 120.0), (TensorProto.FLOAT16, 60.0)])
def test_the_plain_form_runs_in_place_of_the_kernel(kind: int, floor_db: float) -> None:
    original = snake(3)
    model = one_node(original, kind)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch, samples in [(1, 1), (2, 2), (1, 33), (3, 64)]:
        x = torch.randn(batch, 3, samples)
        (made,) = session.run(None, {"x": x.numpy().astype(helper.tensor_dtype_to_np_dtype(kind))})
        assert made.shape == x.shape
        assert difference(made.astype(np.float32), original(x).numpy()).snr_db > floor_db


@pytest.mark.parametrize("name", ["bigvgan", "sovits_snake"])
def test_one_node_for_each_activation_and_no_casts_around(name: str) -> None:
    net = healthy_small(name)
    activations = sum(type(module) is AntiAliasedSnake for module in net.modules())
    plain, made = (graph_from_vocoder(net, Precision("fp16"), [form]) for form in ("two-phase-conv", "plugin-snake"))
    assert made.op_counts()[ANTIALIASED_SNAKE] == activations
    assert [function.name for function in made.model.functions] == [ANTIALIASED_SNAKE]
    assert plain.op_counts()["Cast"] - made.op_counts()["Cast"] >= 2 * activations - 2
    types = {t.name: t.data_type for t in made.model.graph.initializer}
    nodes = [node for node in made.model.graph.node if node.domain == DOMAIN]
    assert {types[name] for node in nodes for name in node.input[1:]} == {TensorProto.FLOAT}
    assert compare_with_module(made, net, [(1, 1), (2, 7)]).snr_db > 55


def test_stages_have_it_too() -> None:
    net = healthy_small("bigvgan")
    made = stage_graphs(net, Precision("fp16"), ["plugin-snake"])
    whole = graph_from_vocoder(net, Precision("fp16"), ["plugin-snake"])
    assert sum(graph.op_counts()[ANTIALIASED_SNAKE] for graph in made) == whole.op_counts()[ANTIALIASED_SNAKE]


def test_a_protected_layer_stays_float32() -> None:
    net = healthy_small("bigvgan")
    made = graph_from_vocoder(net, Precision("fp16", protected=("activation_post",)), ["plugin-snake"])
    inferred = onnx.shape_inference.infer_shapes(made.model)
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    kinds = Counter(types[node.output[0]] for node in made.model.graph.node if node.domain == DOMAIN)
    assert kinds[TensorProto.FLOAT] == 1


def test_nvidias_parser_takes_the_function_where_there_is_no_plugin() -> None:
    """TensorRT-RTX, which has no plugins, reads the same graphs."""
    api = TrtApi.load("tensorrt_rtx")
    with_function = one_node(snake(3), TensorProto.FLOAT16)
    bare = onnx.ModelProto()
    bare.CopyFrom(with_function)
    del bare.functions[:]
    log = _log_of(api.trt)
    builder = api.trt.Builder(log)
    network = builder.create_network(api.strongly_typed)
    api._parse(network, Graph(with_function, (), {}), log)
    assert network.num_layers > 10
    assert network.get_output(0).dtype == api.trt.DataType.HALF
    with pytest.raises(UnsupportedOperator, match=r"[Pp]lugin not found"):
        api._parse(builder.create_network(api.strongly_typed), Graph(bare, (), {}), log)


# Who may have it.


def test_only_classic_tensorrt_is_offered_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trt_plugins._WHY_NOT, "tensorrt", "")
    net = healthy_small("bigvgan")
    offered = {}
    for name, kind in backends:
        backend = kind()
        offered[name] = any("plugin-snake" in some for some in forms(backend, net, BuildConfig()))
        if name != "tensorrt":
            with pytest.raises(ConfigError, match="takes no kernels from outside"):
                backend.settled(BuildConfig(backend=name, rewrites=("plugin-snake",)))
    assert {name for name, is_offered in offered.items() if is_offered} == {"tensorrt"}
    asked = BuildConfig(backend="tensorrt", rewrites=("plugin-snake",))
    assert TensorRT().settled(asked).rewrites == ("plugin-snake",)


def test_where_plugins_are_missing_the_plain_form_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert trt_plugins.why_not("tensorrt_rtx") == "tensorrt_rtx has no module for plugins"
    monkeypatch.setitem(trt_plugins._WHY_NOT, "tensorrt", "tensorrt has no module for plugins")
    assert ("plugin-snake",) not in TensorRT().competing()
    assert "goes without plugins: tensorrt has no module for plugins" in caplog.text
    graph = graph_from_vocoder(healthy_small("bigvgan"), Precision("fp16"), ["plugin-snake"])
    kept, note = TensorRT().with_plugins(graph)
    assert kept is graph
    assert note == {"plugins": "none: tensorrt has no module for plugins; plain forms instead"}
    monkeypatch.setitem(trt_plugins._WHY_NOT, "tensorrt", "")
    bare, note = TensorRT().with_plugins(graph)
    assert not bare.model.functions
    assert graph.model.functions, "the graph itself keeps its function"
    assert note == {"plugins": ANTIALIASED_SNAKE}


def test_another_kernel_is_another_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        version, has_targets = "11.4", False

    monkeypatch.setattr(TensorRT, "api", lambda self: Api())
    plain, plugged = (
        TensorRT().identity(BuildConfig(rewrites=some)) for some in (("two-phase-conv",), ("plugin-snake",))
    )
    assert set(plugged) - set(plain) == {"plugins"}
    assert plugged["plugins"] == manifest()["sources"][:16]


# In the bindings.


@on_linux
@pytest.mark.parametrize("major", [10, 11])
def test_the_plugin_answers_what_tensorrt_asks(major: int, tmp_path: Path) -> None:
    assert WHEELS.is_dir(), "run `make setup`, which brings the bindings"
    folder = with_stand_ins(major, tmp_path)
    command = [sys.executable, str(Path(__file__).with_name("plugins_with_bindings.py")), str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)  # and nothing else is written there
    assert answers["why_not"] == ["", ""], "registered once, asked twice"
    assert answers["plugin"] == [ANTIALIASED_SNAKE, DOMAIN, "1"]
    for kind, dtype in trt_plugins.TYPES.items():
        said, kernel = answers[kind], kernel_for(dtype)
        assert (said["given"], said["shape"]) == (kind, [2, 24, 1001])
        offers = [said["offered"][i : i + 4] for i in range(0, 12, 4)]
        expected = [
            [[samples, "LINEAR"], *[["FLOAT", "LINEAR"]] * 2, [samples, "LINEAR"]] for samples in trt_plugins.TYPES
        ]
        assert offers == expected
        segments = -(-1001 // kernel.samples)
        lanes = 2 * 24 * segments
        assert said["extra"] == [lanes, 1001, segments, 24]
        assert said["launch"] == {
            **dict.fromkeys(("grid_y", "grid_z", "block_y", "block_z"), 1),
            "grid_x": -(-lanes // kernel.lanes),
            "block_x": kernel.threads,
            "shared_mem": kernel.shared_bytes,
        }
        assert (said["name"], said["ptx"]) == (kernel.name, kernel.ptx)


# The kernel.

IN_INTERPRETER = """
import sys, torch
from trt_svc.kernels.programs.plugin_snake import antialiased_snake_plugin
from trt_svc.graph.rewrites.plugin_snake import antialiased_snake
from trt_svc.kernels import antialiased_snake as fused
from trt_svc.kernels.variants import ALIGNMENT
from trt_svc.difference import difference

torch.manual_seed(0)
for dtype, name in ((torch.float32, "fp32"), (torch.float16, "fp16")):
    constants = {key: value for key, value in fused.variant(name, True).constants if key != "WHOLE"}
    for batch, channels, length, shift in ((1, 1, 1, 0), (2, 3, 17, 0), (1, 2, 48, 0), (1, 2, 48, 1), (2, 1, 32, 0)):
        count = batch * channels * length
        given, room = torch.randn(count + 8).to(dtype), torch.full((count + 8,), float("nan"), dtype=dtype)
        x, out = (some[shift : shift + count].view(batch, channels, length) for some in (given, room))
        a, inverse = torch.rand(channels) * 3 + 0.1, torch.rand(channels) + 0.1
        segments = -(-length // constants["SAMPLES"])
        lanes = batch * channels * segments
        antialiased_snake_plugin[(-(-lanes // constants["LANES"]),)](
            x, a, inverse, lanes, length, segments, channels, out, **constants, ALIGNMENT=ALIGNMENT
        )
        expected = antialiased_snake(x.float(), a, inverse)
        assert room.isnan().sum() == 8, "writes its own samples only"
        if dtype == torch.float32:
            torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
        assert difference(out.float().numpy(), expected.numpy()).snr_db > 60
"""


@pytest.mark.skipif(not is_installed("triton"), reason="needs triton")
def test_the_kernel_equals_torch_for_every_length_and_address() -> None:
    around = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", IN_INTERPRETER], env=around, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ptx_takes_what_tensorrt_hands_over(dtype: str) -> None:
    kernel = kernel_for(dtype)
    head = re.search(rf"\.entry {kernel.name}\((.*?)\)\s*\.reqntid (\d+)", kernel.ptx, re.DOTALL)
    assert head is not None
    kinds = [line.split()[1] for line in head[1].strip().splitlines()]
    assert kinds == [".u64"] * 3 + [".u32"] * 4 + [".u64"], "inputs, numbers, output: no more"
    assert int(head[2]) == kernel.threads
    assert f".target sm_{kernel.target}\n" in kernel.ptx
    assert ".version 7.8\n" in kernel.ptx, "every driver since CUDA 11.8 reads it"
    assert ".py" not in kernel.ptx, "it names no file of the machine that made it"
    whole, other = kernel.ptx.split("$L__BB0_2:", 1)
    assert len(re.findall(r"and\.b\d+\s+%\w+, %\w+, 15;", whole.split("ld.global")[0])) == 2, "length and addresses"
    assert re.search(r"ld\.global\.v4", whole), "four words at once"
    assert not re.search(r"ld\.global\.v", other), "sample by sample where rows begin anywhere"


def test_what_is_shipped_belongs_to_the_sources() -> None:
    assert manifest()["sources"] == building.sources(), "run `make kernels`"


@pytest.mark.skipif(not is_installed("triton"), reason="needs triton")
def test_the_ptx_assembles_for_every_gpu(tmp_path: Path) -> None:
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    for dtype in DTYPES:
        kernel = kernel_for(dtype)
        source = tmp_path / f"{dtype}.ptx"
        source.write_text(kernel.ptx, "utf-8")
        for target in (75, 80, 86, 89, 90, 100, 120):
            tool = tools / ("ptxas-blackwell" if target >= 100 else "ptxas")
            if target >= kernel.target:
                command = [str(tool), "-v", f"-arch=sm_{target}", str(source), "-o", str(tmp_path / "out.cubin")]
                done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
                assert done.returncode == 0, done.stderr
                assert "0 bytes spill stores, 0 bytes spill loads" in done.stderr
