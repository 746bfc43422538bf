"""Operations of our own in a graph: one node each, for runtimes that have a kernel for them.

Beside the nodes the model carries an ONNX function per operation: the same computation in plain operators. A runtime
without the kernel puts the function in the node's place, so such a graph runs everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import onnx
from onnx import helper

DOMAIN = "trt_svc"
VERSION = 1
ANTIALIASED_SNAKE = "AntiAliasedSnake"
"""(x, a, inverse) -> x + inverse * sin^2(a x) per channel, bent at twice the rate."""
FUNCTIONS: dict[str, Callable[[int], onnx.FunctionProto]] = {}
"""Operation -> what writes its function in plain operators of an opset."""


def defines(operation: str) -> Callable[[Callable[[int], onnx.FunctionProto]], Callable[[int], onnx.FunctionProto]]:
    """Files the function of an operation."""

    def file_it(write: Callable[[int], onnx.FunctionProto]) -> Callable[[int], onnx.FunctionProto]:
        FUNCTIONS[operation] = write
        return write

    return file_it


def custom_operations(nodes: Iterable[onnx.NodeProto]) -> list[str]:
    """Names of the operations of our own among some nodes."""
    return sorted({node.op_type for node in nodes if node.domain == DOMAIN})


def functions_of(nodes: Iterable[onnx.NodeProto], opset: int) -> list[onnx.FunctionProto]:
    """The functions that a model with these nodes carries."""
    return [FUNCTIONS[operation](opset) for operation in custom_operations(nodes)]


def opsets_of(nodes: Iterable[onnx.NodeProto], opset: int) -> list[onnx.OperatorSetIdProto]:
    """The operator sets that a model with these nodes imports."""
    ours = [helper.make_opsetid(DOMAIN, VERSION)] if custom_operations(nodes) else []
    return [helper.make_opsetid("", opset), *ours]


def without_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model for a runtime that has the kernels: some parsers take a function before they look for a kernel."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.functions[:]
    return bare
