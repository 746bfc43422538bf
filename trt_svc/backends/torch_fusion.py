"""Finds in a graph what one kernel can do: whole activations, and the tails between convolutions.

A network's convolutions stay as they are. Everything between them is bound by memory, so each pass that is saved
counts: what several layers compute of the same value is computed once, an anti-aliased snake is one pass instead of
ten, sums of branches are one pass, and leaky ReLUs are written together with the sum in front of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from trt_svc.graph.model import tensor_types
from trt_svc.graph.traced import array_of
from trt_svc.vocoders.antialias import kaiser_lowpass

SNAKE, ALIAS_FREE = "Snake", "AntialiasedSnake"
TAIL = "Tail"
"""The sum of its inputs, scaled, and the leaky ReLU of that: the sum too where somebody needs it."""
BIASED_TAIL = "BiasedTail"
"""The same of two, with the bias of a convolution in front of it."""
MOST_BRANCHES = 4
UP_PADS, DOWN_PADS = (5, 5), (5, 6)
Nodes = list[onnx.NodeProto]


@dataclass(frozen=True)
class Found:
    """A pattern: the nodes that it takes the place of, and the one node that does."""

    old: tuple[onnx.NodeProto, ...]
    new: onnx.NodeProto


class Lookup:
    """Who makes a value and who uses it."""

    def __init__(self, model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
        self.nodes = nodes
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._outputs = {value.name for value in model.graph.output}
        self._makers = {name: node for node in nodes for name in node.output}
        self._users: dict[str, Nodes] = {}
        for node in nodes:
            for name in dict.fromkeys(node.input):
                self._users.setdefault(name, []).append(node)

    def maker(self, name: str, op: str) -> onnx.NodeProto | None:
        """The node of this kind that makes a value."""
        node = self._makers.get(name)
        return node if node is not None and node.op_type == op else None

    def users(self, name: str) -> Nodes:
        return self._users.get(name, [])

    def only_within(self, name: str, nodes: Sequence[onnx.NodeProto]) -> bool:
        """Does nobody else need the value?"""
        return name not in self._outputs and all(any(user is node for node in nodes) for user in self.users(name))

    def value(self, name: str) -> np.ndarray[Any, Any] | None:
        """A constant."""
        return array_of(self.constants[name]) if name in self.constants else None


def fused(model: onnx.ModelProto, biases: bool = True) -> Nodes:
    """The nodes of a graph with the kernels' own nodes among them (`trt_svc.backends.torch_fused`).

    `biases`: those of convolutions go into the tails behind them.
    """
    types = tensor_types(model)
    nodes = without_twins(model.graph.node)
    for find in (_alias_free, _plain_snakes):
        nodes = _replaced(nodes, find(Lookup(model, nodes)))
    nodes = _replaced(nodes, _in_half(Lookup(model, nodes), types))
    nodes = _replaced(nodes, _tails(Lookup(model, nodes)))
    nodes = _with_biases(Lookup(model, nodes)) if biases else nodes
    return needed(nodes, [value.name for value in model.graph.output])


def _replaced(nodes: Nodes, found: Iterator[Found]) -> Nodes:
    """Each pattern's node stands where the first of its outputs was made: somebody may need that one next."""
    gone: dict[int, onnx.NodeProto | None] = {}
    places = {id(node): place for place, node in enumerate(nodes)}
    for pattern in found:
        where = [places[id(node)] for node in pattern.old]
        if gone.keys() & set(where):
            continue  # another pattern has taken some of them
        made = [places[id(node)] for node in pattern.old if set(node.output) & set(pattern.new.output)]
        gone |= dict.fromkeys(where, None) | {min(made): pattern.new}
    kept = [gone.get(place, node) for place, node in enumerate(nodes)]
    return [node for node in kept if node is not None]


def needed(nodes: Nodes, outputs: Sequence[str]) -> Nodes:
    """Those that the outputs depend on."""
    wanted, kept = set(outputs), Nodes()
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    return kept[::-1]


def without_twins(nodes: Sequence[onnx.NodeProto]) -> Nodes:
    """Each value is computed once: the blocks of a stage all bend the same signal first."""
    known: dict[tuple[Any, ...], onnx.NodeProto] = {}
    names: dict[str, str] = {}
    kept = Nodes()
    for original in nodes:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
        said = tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute))
        twin = known.setdefault((node.op_type, tuple(node.input), said), node)
        if twin is node:
            kept.append(node)
        else:
            names |= dict(zip(node.output, twin.output, strict=True))
    return kept


# Snakes.


def _alias_free(graph: Lookup) -> Iterator[Found]:
    for node in graph.nodes:
        if node.op_type == "Conv" and _has_filter(graph, node):
            found = _alias_free_at(graph, node)
            if found is not None:
                yield found


def _has_filter(graph: Lookup, node: onnx.NodeProto) -> bool:
    """A depthwise half-band filter by two, without bias."""
    said, taps = _said(node), graph.value(node.input[1])
    if taps is None or len(node.input) > 2 or said.get("strides") != [2] or said.get("group", 1) != taps.shape[0]:
        return False
    plain = kaiser_lowpass().numpy()
    return taps.shape[1:] == (1, plain.size) and bool(np.array_equal(taps, np.broadcast_to(plain, taps.shape)))


def _alias_free_at(graph: Lookup, down: onnx.NodeProto) -> Found | None:
    """Walks back from the filter on the way down to the one on the way up."""
    behind = graph.maker(down.input[0], "Pad")
    bent = graph.maker(behind.input[0], "Add") if behind is not None else None
    snake = _snake_at(graph, bent) if bent is not None else None
    if behind is None or snake is None or not _replicates(graph, behind, DOWN_PADS):
        return None
    double = graph.maker(snake.new.input[0], "Mul")
    cut = graph.maker(double.input[0], "Slice") if double is not None else None
    up = graph.maker(cut.input[0], "ConvTranspose") if cut is not None else None
    before = graph.maker(up.input[0], "Pad") if up is not None else None
    if double is None or cut is None or up is None or before is None:
        return None
    edges = [graph.value(name) for name in cut.input[1:3]]
    fits = graph.value(double.input[1]) == 2 and [None if e is None else e.tolist() for e in edges] == [[15], [-15]]
    if not (fits and _has_filter(graph, up) and _replicates(graph, before, UP_PADS)):
        return None
    old = (before, up, cut, double, *snake.old, behind, down)
    return _if_closed(graph, old, _activation(ALIAS_FREE, down, [before.input[0], *snake.new.input[1:]]))


def _replicates(graph: Lookup, node: onnx.NodeProto, pads: tuple[int, int]) -> bool:
    widths = graph.value(node.input[1])
    along = None if widths is None else [int(n) for n in widths]
    return _said(node).get("mode") == b"edge" and along == [0, 0, pads[0], 0, 0, pads[1]]


def _plain_snakes(graph: Lookup) -> Iterator[Found]:
    for node in graph.nodes:
        found = _snake_at(graph, node) if node.op_type == "Add" else None
        if found is not None:
            yield found


def _snake_at(graph: Lookup, add: onnx.NodeProto) -> Found | None:
    """x + inverse * sin(a x)^2, in any order."""
    for x, part in (tuple(add.input), tuple(add.input)[::-1]):
        scaled = graph.maker(part, "Mul")
        for square_name, inverse in _orders(scaled):
            square = graph.maker(square_name, "Mul")
            sine = graph.maker(square.input[0], "Sin") if square is not None else None
            inner = graph.maker(sine.input[0], "Mul") if sine is not None else None
            if scaled is None or square is None or sine is None or inner is None:
                continue
            factors = [a for y, a in _orders(inner) if y == x and _per_channel(graph, a)]
            if square.input[0] == square.input[1] and factors and _per_channel(graph, inverse):
                old = (inner, sine, square, scaled, add)
                return _if_closed(graph, old, _activation(SNAKE, add, [x, factors[0], inverse]))
    return None


def _orders(node: onnx.NodeProto | None) -> list[tuple[str, ...]]:
    return [] if node is None else [tuple(node.input), tuple(node.input)[::-1]]


def _per_channel(graph: Lookup, name: str) -> bool:
    value = graph.value(name)
    return value is not None and value.ndim == 3 and value.shape[0] == value.shape[2] == 1


def _activation(kind: str, last: onnx.NodeProto, inputs: Sequence[str]) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), list(last.output), name=last.name)


def _if_closed(graph: Lookup, old: tuple[onnx.NodeProto, ...], new: onnx.NodeProto) -> Found | None:
    """Only if nobody outside needs what is made on the way."""
    inner = [name for node in old for name in node.output if name not in new.output]
    return Found(old, new) if all(graph.only_within(name, old) for name in inner) else None


def _in_half(graph: Lookup, types: dict[str, int]) -> Iterator[Found]:
    """The kernels compute in float32 whatever they read and write, so casts around them only cost passes."""
    for node in graph.nodes:
        if node.op_type not in (SNAKE, ALIAS_FREE):
            continue
        before, users = graph.maker(node.input[0], "Cast"), graph.users(node.output[0])
        if before is None or len(users) != 1 or users[0].op_type != "Cast":
            continue
        (after,) = users
        if _said(after)["to"] == types[before.input[0]]:
            inputs = [before.input[0], *node.input[1:]]
            found = _if_closed(graph, (node, after), _activation(node.op_type, after, inputs))
            if found is not None:
                yield found


# Tails.


def _tails(graph: Lookup) -> Iterator[Found]:
    """Sums with the leaky ReLU behind them first, then sums of branches alone."""
    bent: set[str] = set()
    for node in graph.nodes:
        found = _bent_tail(graph, node) if node.op_type == "LeakyRelu" else None
        if found is not None:
            bent |= {name for old in found.old for name in old.output}
            yield found
    for node in reversed(graph.nodes):  # the outermost sum takes the others in
        if node.op_type == "Add" and not bent & set(node.output):
            branches, sums = _branches(graph, node)
            if len(branches) > 2:
                yield Found(tuple(sums), _tail(node, branches, (1.0, 1.0), [node.output[0]]))


def _bent_tail(graph: Lookup, leaky: onnx.NodeProto) -> Found | None:
    total, scale, scaling = leaky.input[0], 1.0, Nodes()
    divided = graph.maker(total, "Div")
    by = graph.value(divided.input[1]) if divided is not None else None
    if divided is not None and by is not None and by.size == 1:
        total, scale, scaling = divided.input[0], 1.0 / float(by), [divided]
    add = graph.maker(total, "Add")
    if add is None:
        return None
    branches, sums = _branches(graph, add)
    old = (*sums, *scaling, leaky)
    if len(branches) < 2 or (scaling and not graph.only_within(total, old)):
        return None
    alone = graph.only_within(leaky.input[0], old)
    outputs = [*leaky.output] if alone else [leaky.input[0], *leaky.output]
    return Found(old, _tail(leaky, branches, (scale, _said(leaky).get("alpha", 0.01)), outputs))


def _branches(graph: Lookup, add: onnx.NodeProto) -> tuple[list[str], Nodes]:
    """What a sum adds up, and the nodes that add it; the left side is taken apart first, as sums are written."""
    if any(name in graph.constants for name in add.input):
        return [], [add]
    terms, sums = list(add.input), [add]
    while len(terms) < MOST_BRANCHES:
        inner = next(((i, node) for i, node in enumerate(_sums(graph, terms)) if node is not None), None)
        if inner is None or not graph.only_within(inner[1].output[0], sums):
            break
        place, node = inner
        terms[place : place + 1] = list(node.input)
        sums.insert(0, node)
    return terms, sums


def _sums(graph: Lookup, names: Sequence[str]) -> list[onnx.NodeProto | None]:
    found = [graph.maker(name, "Add") for name in names]
    return [None if node is None or any(n in graph.constants for n in node.input) else node for node in found]


def _tail(
    last: onnx.NodeProto, branches: Sequence[str], scale_and_slope: tuple[float, float], made: Sequence[str]
) -> onnx.NodeProto:
    scale, slope = scale_and_slope
    keeps = len(made) - 1
    return helper.make_node(TAIL, list(branches), list(made), name=last.name, scale=scale, slope=slope, keeps_sum=keeps)


def _with_biases(graph: Lookup) -> Nodes:
    """torch adds a convolution's bias in a pass of its own; a tail behind it does that in passing."""
    changed: dict[int, onnx.NodeProto] = {}
    for tail in graph.nodes:
        said = _said(tail)
        if tail.op_type != TAIL or len(tail.input) != 2 or said["scale"] != 1 or not said["keeps_sum"]:
            continue
        for x, y in (tuple(tail.input), tuple(tail.input)[::-1]):
            conv = graph.maker(y, "Conv") or graph.maker(y, "ConvTranspose")
            if conv is not None and len(conv.input) == 3 and graph.only_within(y, [tail]):
                bare, biased = onnx.NodeProto(), [x, y, conv.input[2]]
                bare.CopyFrom(conv)
                del bare.input[2]
                with_bias = helper.make_node(BIASED_TAIL, biased, tail.output, name=tail.name, slope=said["slope"])
                changed |= {id(conv): bare, id(tail): with_bias}
                break
    return [changed.get(id(node), node) for node in graph.nodes]


def has_snakes(nodes: Sequence[onnx.NodeProto]) -> bool:
    """Is there an activation whose kernel wants time to lie in a row?"""
    return any(node.op_type in (SNAKE, ALIAS_FREE) for node in nodes)


def _said(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
