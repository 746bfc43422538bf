"""torch module -> ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import nn

from trt_svc.graph.custom import functions_of, opsets_of
from trt_svc.graph.model import Graph, GraphInput, with_metadata
from trt_svc.graph.traced import BF16_OPSET, IR_VERSION, ONNX_TYPES, OPSET, Traced, Tracer, trace


def export(
    module: nn.Module,
    inputs: Sequence[GraphInput],
    output: str,
    output_axes: Sequence[str],
    metadata: Mapping[str, Any],
) -> Graph:
    """The graph of a module with float32 inputs and one float32 output."""
    kinds = {spec.name: (torch.float32, spec.traced_shape()) for spec in inputs}
    tracer, made = trace(module, kinds)
    (result,) = made
    _rename(tracer, result, output)
    values = [helper.make_tensor_value_info(s.name, TensorProto.FLOAT, ["batch", s.channels, s.axis()]) for s in inputs]
    outputs = [helper.make_tensor_value_info(output, ONNX_TYPES[result.dtype], list(output_axes))]
    nodes, constants = _used(tracer, output)
    graph = helper.make_graph(nodes, "trt_svc", values, outputs, initializer=constants)
    has_bf16 = any(tensor.data_type == TensorProto.BFLOAT16 for tensor in constants)
    opset = BF16_OPSET if has_bf16 else OPSET
    model = helper.make_model(
        graph,
        functions=functions_of(nodes, opset),
        opset_imports=opsets_of(nodes, opset),
        ir_version=IR_VERSION,
        producer_name="trt_svc",
    )
    described = {
        **metadata,
        "inputs": [{"name": s.name, "channels": s.channels, "per_frame": str(s.per_frame)} for s in inputs],
    }
    with_metadata(model, described)
    onnx.checker.check_model(model, full_check=True)
    return Graph(model, tuple(inputs), described, module)


def _rename(tracer: Tracer, result: Traced, name: str) -> None:
    for node in tracer.nodes:
        for names in (node.input, node.output):
            for i, old in enumerate(names):
                if old == result.name:
                    names[i] = name


def _used(tracer: Tracer, output: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes and constants that the output depends on, in order."""
    needed = {output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(tracer.nodes):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    return kept[::-1], [tensor for name, tensor in tracer.constants.items() if name in needed]
