"""Graphs: equal to their modules at every shape, self-describing, linted."""

from __future__ import annotations

import io

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from tests.nets import SMALL, healthy_short, healthy_small, inputs_of_any_length, small_config
from trt_svc.build_config import Precision
from trt_svc.difference import difference
from trt_svc.errors import GraphError
from trt_svc.graph.check import compare_with_module, reference_audio
from trt_svc.graph.export import export
from trt_svc.graph.lint import lint
from trt_svc.graph.model import GraphInput, metadata_of
from trt_svc.graph.vocoder import graph_from_vocoder, weights_sha256
from trt_svc.vocoders.base import families
from trt_svc.vocoders.healthy import healthy_net

FRAMES = (1, 2, 3, 31, 32, 33, 512, 2000)
BATCHES = (1, 3, 8)


def session_of(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", SMALL)
def test_float32_graph_equals_the_network_at_every_shape(name: str) -> None:
    net = healthy_short(name)
    graph = graph_from_vocoder(net)
    session = session_of(graph.to_bytes())
    for batch in BATCHES:
        for frames in FRAMES:
            inputs = inputs_of_any_length(net, batch, frames)
            made = session.run(None, {spec.name: inputs[spec.name].numpy() for spec in graph.inputs})[0]
            expected = reference_audio(net, inputs)
            assert made.shape == expected.shape
            assert np.abs(expected).max() > 1e-4
            assert difference(made, expected).snr_db >= 100, (batch, frames)


@pytest.mark.parametrize("name", SMALL)
def test_a_graph_describes_itself(name: str) -> None:
    net = healthy_small(name)
    model = onnx.load_model_from_string(graph_from_vocoder(net, Precision("fp16")).to_bytes())
    found = metadata_of(model)
    assert found["family"] == net.family
    assert found["spec"]["sample_rate"] == net.spec.sample_rate
    assert found["receptive_field"] == list(net.receptive_field)
    assert found["weights_sha256"] == weights_sha256(net)
    assert found["precision"]["name"] == "fp16"
    assert [i["name"] for i in found["inputs"]] == [value.name for value in model.graph.input]
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"
        assert value.type.tensor_type.shape.dim[-1].dim_param, "the time axis is dynamic"
    names = [node.op_type for node in model.graph.node]
    assert "CumSum" not in names and "Mod" not in names, "the source stays outside"
    assert not any("weight_g" in tensor.name for tensor in model.graph.initializer)


def test_the_hash_sees_weights_constants_forms_and_types() -> None:
    one, other = healthy_small("nsf_hifigan"), healthy_small("nsf_hifigan", seed=1)
    assert weights_sha256(one) != weights_sha256(other)
    graphs = [graph_from_vocoder(one), graph_from_vocoder(other), graph_from_vocoder(one, Precision("fp16"))]
    graphs.append(graph_from_vocoder(one, rewrites=("fold-mean",)))
    assert len({graph.sha256() for graph in graphs}) == len(graphs)
    assert graph_from_vocoder(one).sha256() == graphs[0].sha256()


@pytest.mark.parametrize("change", [{"snake_logscale": False}, {"sampling_rate": 22050}, {"fmax": 8000}])
def test_equal_weights_under_another_config_are_another_graph(change: dict[str, object]) -> None:
    family, config, _ = small_config("bigvgan")
    first = healthy_small("bigvgan")
    second = families.get(family).from_config({**config, **change}, {}).eval().requires_grad_(False)
    second.load_state_dict(first.state_dict())
    assert weights_sha256(first) == weights_sha256(second)
    assert graph_from_vocoder(first).sha256() != graph_from_vocoder(second).sha256()


def test_graphs_are_reproducible() -> None:
    net = healthy_small("bigvgan")
    assert graph_from_vocoder(net).to_bytes() == graph_from_vocoder(net).to_bytes()


def test_healthy_nets_are_seeded_and_healthy() -> None:
    for name in SMALL:
        net = healthy_small(name)
        inputs = inputs_of_any_length(net, 1, 40)
        audio = reference_audio(net, inputs)
        assert 0.02 < np.sqrt(np.mean(audio**2)) < 0.7, name
        assert np.abs(audio).max() <= 1.5, name
    family, config, _ = small_config("hifigan")
    assert weights_sha256(healthy_net(family, config, seed=3)) == weights_sha256(healthy_net(family, config, seed=3))


class Odd(nn.Module):
    """Something that has no ONNX form here."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.i0(x)


def test_an_operation_without_onnx_form_is_named() -> None:
    with pytest.raises(GraphError, match="i0"):
        export(Odd(), [GraphInput("mel", 4)], "audio", ["batch", "frames"], {})


def test_a_wrong_graph_is_found_out() -> None:
    net = healthy_small("hifigan")
    graph = graph_from_vocoder(healthy_small("hifigan", seed=1))
    assert compare_with_module(graph, net, [(1, 8)]).snr_db < 20


def _model(nodes: list[onnx.NodeProto], inputs: int = 1) -> onnx.ModelProto:
    names = [f"x{i}" for i in range(inputs)]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["b", 4, "t"]) for n in names]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph(nodes, "g", values, [out]), opset_imports=[helper.make_opsetid("", 18)])


def _cast(source: str, target: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=to)


@pytest.mark.parametrize("half", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
@pytest.mark.parametrize("operation", ["Sin", "Cos", "CumSum", "Mod"])
def test_lint_refuses_a_phase_that_was_rounded(operation: str, half: int) -> None:
    extra = ["x1"] if operation in ("CumSum", "Mod") else []
    nodes = [
        _cast("x0", "h", half),
        helper.make_node("Mul", ["h", "h"], ["m"]),
        _cast("m", "f", TensorProto.FLOAT),
        helper.make_node(operation, ["f", *extra], ["y"], name="phase"),
    ]
    with pytest.raises(GraphError, match=f"{operation} phase.*cast_h"):
        lint(_model(nodes, 2))


def test_lint_refuses_a_sine_in_half() -> None:
    nodes = [_cast("x0", "h", TensorProto.FLOAT16), helper.make_node("Sin", ["h"], ["y"], name="s")]
    with pytest.raises(GraphError, match="itself computes in half"):
        lint(_model(nodes))


def test_lint_accepts_a_sine_behind_a_learned_layer() -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT16, [4, 4, 1], np.zeros(16, np.float16).tobytes(), raw=True)
    nodes = [
        _cast("x0", "h", TensorProto.FLOAT16),
        helper.make_node("Conv", ["h", "w"], ["c"]),
        _cast("c", "f", TensorProto.FLOAT),
        helper.make_node("Sin", ["f"], ["y"]),
    ]
    model = _model(nodes)
    model.graph.initializer.append(weight)
    lint(model)


@pytest.mark.parametrize("name", SMALL)
def test_half_graphs_pass_the_lint_and_hold_half_weights(name: str) -> None:
    net = healthy_small(name)
    graph = graph_from_vocoder(net, Precision("fp16"))  # lints
    sizes = {TensorProto.FLOAT16: 0, TensorProto.FLOAT: 0}
    for tensor in graph.model.graph.initializer:
        if tensor.data_type in sizes:
            sizes[tensor.data_type] += int(np.prod(tensor.dims))
    assert sizes[TensorProto.FLOAT16] > 5 * sizes[TensorProto.FLOAT]
    assert io.BytesIO(graph.to_bytes()).getbuffer().nbytes < 0.7 * len(graph_from_vocoder(net).to_bytes())
