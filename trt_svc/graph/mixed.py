"""A float32 graph with some of its products in bfloat16: for CPUs that multiply such numbers at twice the rate.

A product rounds what it multiplies and what it gives; everything between products stays float32, so rounding does not
pile up along residual connections. Types are explicit in the graph: a runtime that keeps to them needs no hint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from fnmatch import fnmatchcase

import onnx
from onnx import TensorProto, helper, numpy_helper

from trt_svc.graph.half import PRODUCTS, layer_of
from trt_svc.graph.model import Graph, tensor_types, with_metadata
from trt_svc.graph.traced import BF16_OPSET, array_of

FLOAT, BRAIN = TensorProto.FLOAT, TensorProto.BFLOAT16


def product_layers(graph: Graph) -> tuple[str, ...]:
    """The layers with products, in the order of the graph."""
    return tuple(dict.fromkeys(layer_of(node) for node in graph.model.graph.node if node.op_type in PRODUCTS))


def in_mixed(graph: Graph, float32: Iterable[str] = ()) -> Graph:
    """The same graph with its products in bfloat16, but for layers whose module names match a pattern of `float32`."""
    patterns = tuple(float32)
    rounded = {layer for layer in product_layers(graph) if not any(fnmatchcase(layer, pattern) for pattern in patterns)}
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    writer = _Writer(graph.model, rounded)
    for node in graph.model.graph.node:
        writer.add(node)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(writer.nodes)
    used = {name for node in writer.nodes for name in node.input}
    model.graph.initializer.extend(tensor for name, tensor in writer.constants.items() if name in used)
    del model.opset_import[:], model.graph.value_info[:]
    model.opset_import.append(helper.make_opsetid("", BF16_OPSET))
    with_metadata(model, graph.metadata)
    onnx.checker.check_model(model, full_check=True)
    return replace(graph, model=model, module=None)  # the module still computes in float32


class _Writer:
    """Puts casts around the products of the layers that are rounded."""

    def __init__(self, model: onnx.ModelProto, rounded: Collection[str]) -> None:
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self._types = tensor_types(model)
        self._rounded = rounded
        self._made: set[str] = set()

    def add(self, node: onnx.NodeProto) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        if node.op_type in PRODUCTS and layer_of(node) in self._rounded:
            for place, name in enumerate(node.input):
                if self._types.get(name) == FLOAT:
                    copy.input[place] = self._brain(name)
            (output,) = node.output
            copy.output[0] = f"{output}:product"
            self.nodes += [copy, helper.make_node("Cast", [copy.output[0]], [output], name=output, to=FLOAT)]
        else:
            self.nodes.append(copy)

    def _brain(self, name: str) -> str:
        """The name of a value in bfloat16."""
        new = f"{name}:bfloat16"
        if new not in self._made:
            self._made.add(new)
            if name in self.constants:
                self.constants[new] = _in_bfloat16(self.constants[name], new)
            else:
                self.nodes.append(helper.make_node("Cast", [name], [new], name=new, to=BRAIN))
        return new


def _in_bfloat16(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    kind = helper.tensor_dtype_to_np_dtype(BRAIN)
    return numpy_helper.from_array(array_of(tensor).astype(kind), name)
