"""A half-precision graph for runtimes that compute in float32: every value that is half is rounded to half.

ONNX Runtime's CPU provider computes most operators of a half-precision graph in float32 and leaves out the rounding in
between, so that what a GPU would lose, or overflow, never shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import TensorProto, helper, inliner

from trt_svc.errors import GraphError
from trt_svc.graph.model import tensor_types

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
MOVERS = {
    "Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Tile",
    "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
"""They pass on what was rounded before. Whatever is not listed is rounded once more, which changes nothing."""
TYPED = {"Cast", "Constant", "ConstantOfShape"}
"""They give halves by themselves, in whatever type they compute."""


def has_halves(model: onnx.ModelProto) -> bool:
    """Is anything in half precision? A graph in float32 has no such weight and no cast to it."""
    casts = (node for node in model.graph.node if node.op_type == "Cast")
    return any(tensor.data_type == HALF for tensor in model.graph.initializer) or any(
        attribute.name == "to" and attribute.i == HALF for node in casts for attribute in node.attribute
    )


def rounding_written_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model in float32, each value that was half behind a cast to half and back."""
    model = _own_copy(model)
    types, body = tensor_types(model), model.graph
    _refuse_what_is_not_seen(body, types)
    constants = [tensor for tensor in body.initializer if tensor.data_type == HALF]
    nodes = [_widened(tensor.name) for tensor in constants]
    nodes += [written for node in body.node for written in _rounded(node, types)]
    for tensor in constants:
        tensor.name = f"{tensor.name}:stored"
    outputs = [_in_float32(value) for value in body.output]
    kept = helper.make_graph(nodes, body.name, body.input, outputs, initializer=body.initializer)
    return helper.make_model(kept, opset_imports=model.opset_import, ir_version=model.ir_version)


def _own_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """With its functions written out."""
    if model.functions:
        return inliner.inline_local_functions(model)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _refuse_what_is_not_seen(body: onnx.GraphProto, types: Mapping[str, int]) -> None:
    """A value that is rounded on a GPU and not here would look better than it is."""
    untyped = [name for node in body.node for name in node.output if name and not types.get(name)]
    inner = [node.name for node in body.node for attribute in node.attribute if attribute.HasField("g")]
    inputs = [value.name for value in body.input if types[value.name] == HALF]
    found = [
        *(f"the type of {name} is not known" for name in untyped),
        *(f"{name} has a graph inside" for name in inner),
    ]
    found += [f"the input {name} is half" for name in inputs]
    if found:
        raise GraphError(
            f"the half-precision graph {body.name} on a CPU", f"{found[0]}.", "Measure its quality on a GPU."
        )


def _rounded(node: onnx.NodeProto, types: Mapping[str, int]) -> Iterator[onnx.NodeProto]:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    halves = [] if node.op_type in MOVERS else [i for i, name in enumerate(node.output) if types.get(name) == HALF]
    for place in halves:
        copy.output[place] = f"{node.output[place]}:exact"
    yield copy
    for place in halves:
        exact, name = copy.output[place], node.output[place]
        rounded = exact if node.op_type in TYPED else f"{name}:rounded"
        if rounded != exact:
            yield helper.make_node("Cast", [exact], [rounded], to=HALF)
        yield helper.make_node("Cast", [rounded], [name], to=FLOAT)


def _widened(constant: str) -> onnx.NodeProto:
    """Weights stay half in the model: the largest would pass the 2 GB that a file may have."""
    return helper.make_node("Cast", [f"{constant}:stored"], [constant], to=FLOAT)


def _in_float32(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    if copy.type.tensor_type.elem_type == HALF:
        copy.type.tensor_type.elem_type = FLOAT
    return copy
