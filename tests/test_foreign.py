"""ONNX files that users bring, in half precision by conversion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tests.nets import healthy_small, inputs_of_any_length
from trt_svc.difference import difference
from trt_svc.errors import GraphError
from trt_svc.graph.foreign import read_onnx, to_half
from trt_svc.graph.vocoder import graph_from_vocoder


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def test_a_foreign_vocoder_keeps_its_sound(tmp_path: Path) -> None:
    net = healthy_small("hifigan")
    graph = graph_from_vocoder(net)
    (tmp_path / "声.onnx").write_bytes(graph.to_bytes())
    model = read_onnx(tmp_path / "声.onnx")
    half = to_half(model)
    inputs = {name: value.numpy() for name, value in inputs_of_any_length(net, 1, 40).items()}
    assert difference(run(half, inputs), run(model, inputs)).snr_db > 45
    halves = sum(1 for tensor in half.graph.initializer if tensor.data_type == TensorProto.FLOAT16)
    assert halves > 20


def test_a_foreign_phase_stays_float32() -> None:
    weight = np.full((1, 1, 1), 0.5, np.float32)
    nodes = [
        helper.make_node("CumSum", ["f0", "axis"], ["phase"]),
        helper.make_node("Sin", ["phase"], ["tone"]),
        helper.make_node("Conv", ["tone", "w"], ["audio"]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, "t"]) for n in ("f0", "audio")]
    constants = [
        helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.tobytes(), raw=True),
        helper.make_tensor("axis", TensorProto.INT64, [], [2]),
    ]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], initializer=constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    inputs = {"f0": np.full((1, 1, 100_000), 0.3, np.float32)}
    assert difference(run(to_half(model), inputs), run(model, inputs)).snr_db > 60


def test_a_file_that_is_no_onnx(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"hello")
    with pytest.raises(GraphError, match=r"x\.onnx"):
        read_onnx(tmp_path / "x.onnx")
