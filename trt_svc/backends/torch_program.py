"""A graph as a list of torch calls: what the torch-cuda backend runs, and records as CUDA graphs.

The graph says the types, so every precision and rewrite is computed as it was checked; no code is loaded from a file.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor

from trt_svc.backends.torch_operators import OPERATORS, Operator
from trt_svc.errors import UnsupportedOperator
from trt_svc.graph.traced import array_of

CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class InputName:
    """An input, as networks tell theirs."""

    name: str


@dataclass(frozen=True)
class Call:
    """One operator: where its inputs lie, where its outputs go, and which values nobody needs behind it."""

    operator: Operator
    said: dict[str, Any]
    inputs: tuple[int | None, ...]
    outputs: tuple[int, ...]
    free: tuple[int, ...]


class Program:
    """The calls of a graph in order; constants lie on its device. Calls may overlap: it keeps nothing between them.

    `kernels` says how the weights of convolutions lie there.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        nodes: Sequence[onnx.NodeProto],
        operators: dict[str, Operator],
        kernels: Callable[[Tensor], Tensor] = lambda weight: weight,
    ) -> None:
        refuse_unknown(nodes, operators)
        self._names = [value.name for value in model.graph.input]
        used = {name for node in nodes for name in node.input}
        # A pad's value is a number of the call: read from a GPU it would have to be waited for.
        self._on_host = {node.input[2] for node in nodes if node.op_type == "Pad" and len(node.input) > 2}
        weights = {node.input[1] for node in nodes if node.op_type in CONVOLUTIONS}
        self._constants = {
            t.name: kernels(tensor_of(t)) if t.name in weights else tensor_of(t)
            for t in model.graph.initializer
            if t.name in used
        }
        places = _Places([*self._names, *self._constants])
        last = {name: number for number, node in enumerate(nodes) for name in (*node.input, *node.output)}
        (output,) = [value.name for value in model.graph.output]
        kept = {output, *self._constants}
        self._calls = [
            Call(
                operators[node.op_type],
                {a.name: helper.get_attribute_value(a) for a in node.attribute},
                tuple(places[name] if name else None for name in node.input),
                tuple(places[name] for name in node.output),
                tuple(places[name] for name in _names_of(node) if last[name] == number and name not in kept),
            )
            for number, node in enumerate(nodes)
        ]
        self._output, self._size = places[output], len(places)

    def core_inputs(self) -> tuple[InputName, ...]:
        """As for a network."""
        return tuple(InputName(name) for name in self._names)

    def to(self, device: torch.device) -> Program:
        """The same with its constants on a device; counts stay on the host."""
        there = copy.copy(self)
        there._constants = {
            name: value.to(device) if self._is_signal(name, value) else value for name, value in self._constants.items()
        }
        return there

    def _is_signal(self, name: str, value: Tensor) -> bool:
        return name not in self._on_host and (value.is_floating_point() or value.dtype == torch.bool)

    def __call__(self, *tensors: Tensor) -> Tensor:
        values: list[Any] = [*tensors, *self._constants.values()]
        values += [None] * (self._size - len(values))
        for call in self._calls:
            made = call.operator(call.said, *[None if place is None else values[place] for place in call.inputs])
            if len(call.outputs) == 1:
                values[call.outputs[0]] = made
            else:
                for place, value in zip(call.outputs, made, strict=True):
                    values[place] = value
            for place in call.free:
                values[place] = None
        audio: Tensor = values[self._output].float()
        return audio


class _Places(dict[str, int]):
    """Numbers for names, in the order in which they are asked for."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__((name, number) for number, name in enumerate(names))

    def __missing__(self, name: str) -> int:
        self[name] = len(self)
        return self[name]


def _names_of(node: onnx.NodeProto) -> list[str]:
    return [name for name in dict.fromkeys((*node.input, *node.output)) if name]


def refuse_unknown(nodes: Iterable[onnx.NodeProto], operators: dict[str, Operator] = OPERATORS) -> None:
    """Raises for the first operator that torch is not told how to compute."""
    for node in nodes:
        if node.op_type not in operators:
            raise UnsupportedOperator(
                f"running {node.op_type} ({node.name}) with torch",
                "the torch-cuda backend has no such operator.",
                "Use another backend for this network.",
            )


def tensor_of(proto: onnx.TensorProto) -> Tensor:
    """A constant of a graph."""
    if proto.data_type == TensorProto.BFLOAT16:  # NumPy has no such type
        bits = torch.frombuffer(bytearray(proto.raw_data), dtype=torch.int16)
        return bits.view(torch.bfloat16).reshape(tuple(proto.dims))
    return torch.from_numpy(array_of(proto).copy())
