"""A float32 graph with its products in half precision: for networks whose layers are not wrapped one by one.

The types are explicit in the graph, as in a vocoder's (`trt_svc.precision`), and follow one rule per operator:

* convolutions and matrix products take and give half precision;
* norms, softmax, exponentials, logarithms, sums and whatever else adds up or bends strongly computes in float32;
* everything else, gates among it, goes on in the type of its operands, in float32 where they differ.

Inputs and output stay float32, and so does every layer that is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trt_svc.graph.model import Graph, tensor_types, with_metadata
from trt_svc.graph.traced import array_of

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
PRODUCTS = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
FOLLOWING = {
    "Add", "Sub", "Mul", "Max", "Min", "Neg", "Abs", "Relu", "LeakyRelu", "PRelu", "Tanh", "Sigmoid", "Clip", "Gelu",
    "Concat", "Slice", "Split", "Pad", "Where", "Gather", "Expand", "Tile",
    "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "MaxPool",
}  # fmt: skip
"""Operators that give no more than they take: they go on in the type of their operands."""
ASIDE = {"Shape"}
"""What looks at a value without computing with it."""
SHARES = {"Softmax"}
"""Computed in float32, but what they give lies within 0 and 1 and goes back to half where it came from there."""
HALF_LARGEST, HALF_SMALLEST = 65504.0, 2.0**-24


def in_half(graph: Graph, float32: Iterable[str] = ()) -> Graph:
    """The same graph in half precision, but for the layers whose module names match a pattern of `float32`."""
    writer = _Writer(graph.model, tuple(float32))
    nodes = writer.written()
    used = {name for node in nodes for name in node.input}
    constants = [tensor for name, tensor in writer.constants.items() if name in used]
    said = graph.model
    body = helper.make_graph(nodes, said.graph.name, said.graph.input, said.graph.output, initializer=constants)
    model = helper.make_model(
        body, opset_imports=said.opset_import, ir_version=said.ir_version, producer_name=said.producer_name
    )
    with_metadata(model, graph.metadata)
    onnx.checker.check_model(model, full_check=True)
    return replace(graph, model=model, module=None)  # the module still computes in float32


def layer_of(node: onnx.NodeProto) -> str:
    """The module that a node was written by."""
    return str(node.name.rpartition("/")[0])


class _Writer:
    """Goes through the nodes in order and remembers the type of every value."""

    def __init__(self, model: onnx.ModelProto, float32: tuple[str, ...]) -> None:
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._model = model
        self._float32 = float32
        self._types = tensor_types(model)
        self._now = {name: kind for name, kind in self._types.items() if name in self.constants}
        self._now |= {value.name: FLOAT for value in model.graph.input}
        self._nodes: list[onnx.NodeProto] = []
        self._made: dict[tuple[str, int], str] = {}
        """Values in another type than they were made in."""

    def written(self) -> list[onnx.NodeProto]:
        for node in self._model.graph.node:
            self._add(node)
        (output,) = self._model.graph.output
        if self._now[output.name] == HALF:
            self._end_in_float32(output.name)
        return self._nodes

    def _add(self, node: onnx.NodeProto) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        self._now |= {name: self._types.get(name, FLOAT) for name in node.output}
        if node.op_type in ASIDE:
            self._nodes.append(copy)
            return
        kind = self._kind_of(node)
        returns = kind == FLOAT and node.op_type in SHARES and self._now[node.input[0]] == HALF
        returns = returns and not self._is_protected(node)
        for place, name in enumerate(node.input):
            if self._is_float(name):
                copy.input[place] = self._as(name, kind)
        self._nodes.append(copy)
        self._now |= {name: kind for name in node.output if self._is_float(name)}
        if returns:
            (name,) = node.output
            copy.output[0] = self._made[name, FLOAT] = f"{name}:float32"
            self._nodes.append(helper.make_node("Cast", [copy.output[0]], [name], name=f"{name}:half", to=HALF))
            self._now[name] = HALF

    def _is_protected(self, node: onnx.NodeProto) -> bool:
        return any(fnmatchcase(layer_of(node), pattern) for pattern in self._float32)

    def _kind_of(self, node: onnx.NodeProto) -> int:
        """The type of a node's floats."""
        if self._is_protected(node):
            return int(FLOAT)
        if node.op_type in PRODUCTS:
            return int(HALF)
        if node.op_type not in FOLLOWING and not self._divides_by_a_number(node):
            return int(FLOAT)
        floats = [name for name in node.input if self._is_float(name)]
        values = [self._now[name] for name in floats if name not in self.constants]
        fits = all(_fits(self.constants[name]) for name in floats if name in self.constants)
        return int(HALF if values and fits and set(values) == {HALF} else FLOAT)

    def _divides_by_a_number(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "Div" and node.input[1] in self.constants

    def _is_float(self, name: str) -> bool:
        return self._types.get(name) == FLOAT

    def _as(self, name: str, kind: int) -> str:
        """The name of a value in a type."""
        if self._now[name] == kind:
            return name
        if (name, kind) not in self._made:
            new = f"{name}:{'half' if kind == HALF else 'float32'}"
            self._made[name, kind] = new
            if name in self.constants:
                self.constants[new] = numpy_helper.from_array(array_of(self.constants[name]).astype(np.float16), new)
            else:
                self._nodes.append(helper.make_node("Cast", [name], [new], name=new, to=kind))
        return self._made[name, kind]

    def _end_in_float32(self, output: str) -> None:
        inner = f"{output}:half"
        _renamed(self._nodes, output, inner)
        self._nodes.append(helper.make_node("Cast", [inner], [output], name=f"{output}:cast", to=FLOAT))


def _fits(constant: onnx.TensorProto) -> bool:
    """Can half precision hold it, but for rounding?"""
    sizes = np.abs(array_of(constant))
    return bool(np.all((sizes <= HALF_LARGEST) & ((sizes == 0) | (sizes >= HALF_SMALLEST))))


def _renamed(nodes: Sequence[onnx.NodeProto], old: str, new: str) -> None:
    for node in nodes:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new
