"""Refuses graphs whose phase has been through half precision.

A phase grows with time, so rounding it to 11 bits turns a tone into noise within a second. A half-precision
tensor must never reach a sine, a running sum or a modulo except through a layer with learned weights (the
snake's sine bends an ordinary signal, which is fine once it is cast up).
"""

from __future__ import annotations

import onnx

from trt_svc.errors import GraphError
from trt_svc.graph.model import HALF_TYPES, tensor_types

PHASE_OPS = {"Sin", "Cos", "CumSum", "Mod"}
LEARNED_OPS = {"Conv", "ConvTranspose", "MatMul", "Gemm"}


def lint(model: onnx.ModelProto) -> None:
    """Raises a GraphError that names the cast and the operation it harms."""
    producer = {name: node for node in model.graph.node for name in node.output}
    types = tensor_types(model)
    for node in model.graph.node:
        if node.op_type not in PHASE_OPS:
            continue
        if types.get(node.input[0]) in HALF_TYPES:
            raise _fault(node, f"{node.op_type} itself computes in half precision")
        cast = _half_cast_upstream(node, producer)
        if cast is not None:
            raise _fault(node, f"a cast to half precision ({cast.name or cast.output[0]}) feeds it")


def _half_cast_upstream(node: onnx.NodeProto, producer: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    todo, seen = list(node.input), set(node.input)
    while todo:
        found = producer.get(todo.pop())
        if found is None or found.op_type in LEARNED_OPS:
            continue
        if found.op_type == "Cast" and any(a.name == "to" and a.i in HALF_TYPES for a in found.attribute):
            return found
        todo += [name for name in found.input if name not in seen]
        seen.update(found.input)
    return None


def _fault(node: onnx.NodeProto, what: str) -> GraphError:
    return GraphError(
        f"graph for {node.op_type} {node.name or node.output[0]}",
        f"{what}: its phase would be rounded to noise.",
        "Keep the harmonic source outside the half-precision graph (input `source`), "
        "or protect the layers in front of it.",
    )
