"""Half precision on a CPU: values between layers are rounded as they are where halves are stored."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.nets import healthy_small, inputs_of_any_length
from trt_svc.backends.torch_operators import OPERATORS
from trt_svc.backends.torch_program import Program
from trt_svc.build_config import Precision
from trt_svc.difference import difference
from trt_svc.errors import GraphError
from trt_svc.graph.check import reference_audio, run_on_cpu
from trt_svc.graph.half import in_half
from trt_svc.graph.model import Graph
from trt_svc.graph.rounding import rounding_written_out
from trt_svc.graph.vocoder import graph_from_vocoder

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def scaled(*factors: float) -> Graph:
    """A graph that multiplies by these, one after the other, in half precision."""
    nodes = [helper.make_node("Cast", ["x"], ["v0"], to=HALF)]
    nodes += [helper.make_node("Mul", [f"v{i}", f"f{i}"], [f"v{i + 1}"]) for i in range(len(factors))]
    nodes += [helper.make_node("Cast", [f"v{len(factors)}"], ["y"], to=FLOAT)]
    constants = [numpy_helper.from_array(np.float16(factor).reshape(1), f"f{i}") for i, factor in enumerate(factors)]
    ends = [helper.make_tensor_value_info(name, FLOAT, ["n"]) for name in "xy"]
    body = helper.make_graph(nodes, "scaled", ends[:1], ends[1:], initializer=constants)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return Graph(model, (), {})


def test_every_step_is_rounded() -> None:
    given = np.random.default_rng(0).normal(size=500).astype(np.float32)
    expected = given.astype(np.float16)
    for factor in (1.1, 0.7, 3.3):
        expected = expected * np.float16(factor)
    assert np.array_equal(run_on_cpu(scaled(1.1, 0.7, 3.3), {"x": given}), expected.astype(np.float32))


def test_what_a_half_cannot_hold_is_heard() -> None:
    made = run_on_cpu(scaled(1000, 0.001), {"x": np.array([1, 100], np.float32)})
    assert np.isfinite(made).tolist() == [True, False]


def test_the_graph_that_was_given_stays() -> None:
    graph = scaled(2.0)
    before = graph.to_bytes()
    rounding_written_out(graph.model)
    assert graph.to_bytes() == before


def graph_of(*nodes: onnx.NodeProto, **constants: np.ndarray) -> Graph:
    """From x (1, 2, n) to y in float32."""
    ends = [helper.make_tensor_value_info(name, FLOAT, [1, 2, "n"]) for name in "xy"]
    kept = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    body = helper.make_graph(nodes, "some", ends[:1], ends[1:], initializer=kept)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("elsewhere", 1)]
    return Graph(helper.make_model(body, opset_imports=opsets, ir_version=9), (), {})


def test_graphs_that_cast_by_themselves() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="layer/conv"),
        helper.make_node("Exp", ["c"], ["e"], name="layer/exp"),
        helper.make_node("Relu", ["c"], ["r"], name="layer/relu"),
        helper.make_node("Add", ["e", "r"], ["y"], name="layer/add"),
    ]
    given = np.random.default_rng(1).normal(size=(1, 2, 40)).astype(np.float32)
    plain = graph_of(*nodes, w=np.array([[[0.3], [0.7]], [[-0.2], [0.1]]], np.float32))
    found = difference(run_on_cpu(in_half(plain), {"x": given}), run_on_cpu(plain, {"x": given}))
    assert 60 < found.snr_db < 90


def test_what_cannot_be_rounded_is_refused() -> None:
    cast = helper.make_node("Cast", ["x"], ["h"], to=HALF)
    with pytest.raises(GraphError, match="the type of u is not known"):
        run_on_cpu(graph_of(cast, helper.make_node("Unknown", ["h"], ["u"], domain="elsewhere")), {})
    inner = graph_of(helper.make_node("Identity", ["x"], ["y"])).model.graph
    with pytest.raises(GraphError, match="loop has a graph inside"):
        run_on_cpu(graph_of(cast, helper.make_node("Loop", ["", "", "x"], ["y"], name="loop", body=inner)), {})


@pytest.mark.parametrize("name", ["hifigan", "nsf_hifigan", "waveglow"])
def test_networks_lose_what_torch_in_half_loses(name: str) -> None:
    net = healthy_small(name)
    graph = graph_from_vocoder(net, Precision("fp16"))
    inputs = inputs_of_any_length(net, 1, 48)
    arrays = {spec.name: inputs[spec.name].numpy() for spec in graph.inputs}
    expected = reference_audio(net, inputs)
    ours = difference(run_on_cpu(graph, arrays), expected).snr_db
    program = Program(graph.model, list(graph.model.graph.node), OPERATORS)
    with torch.inference_mode():
        made = program(*(inputs[spec.name] for spec in program.core_inputs())).numpy()
    assert ours == pytest.approx(difference(made, expected).snr_db, abs=3)


def test_functions_of_our_own_are_rounded_at_their_ends() -> None:
    net = healthy_small("bigvgan")
    inputs = inputs_of_any_length(net, 1, 24)
    found = []
    for forms in (("fold-snake",), ("fold-snake", "plugin-snake")):
        graph = graph_from_vocoder(net, Precision("fp16"), forms)
        arrays = {spec.name: inputs[spec.name].numpy() for spec in graph.inputs}
        found.append(difference(run_on_cpu(graph, arrays), reference_audio(net, inputs)).snr_db)
    assert min(found) > 45 and max(found) - min(found) < 6
