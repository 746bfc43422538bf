"""ONNX graph -> steps of the native kernels.

Convolutions take in what surrounds them: the leaky ReLU in front, the sums behind (residuals, sources, speakers, the
branches before), the curve at the end; those of which only parts of the channels go on are cut apart. An operator that
has no step is refused by name, and the backend says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from trt_svc.errors import UnsupportedOperator
from trt_svc.graph.half import layer_of
from trt_svc.graph.model import Graph
from trt_svc.graph.traced import array_of
from trt_svc.native.plan import Plan, Step, View
from trt_svc.native.slots import with_slots
from trt_svc.types import Array

CONVOLUTIONS = ("convolve", "upsample")
MOST_ADDS = 2
TIME_AXIS, CHANNEL_AXIS = 2, 1


class _Value:
    """A value of the graph: channels of a tensor, perhaps behind a leaky ReLU that nothing has computed yet."""

    def __init__(self, view: View, channels: int, single: bool, slope: float = 1.0) -> None:
        self.view = view
        self.channels = channels
        self.single = single
        """One row at any length?"""
        self.slope = slope


def lowered(graph: Graph) -> Plan:
    """The graph as steps; UnsupportedOperator where it has none."""
    return _Lowering(graph).plan()


class _Lowering:
    def __init__(self, graph: Graph) -> None:
        self._graph, self._specs = graph.model.graph, graph.inputs
        self._constants = {tensor.name: array_of(tensor) for tensor in self._graph.initializer}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self._graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._values: dict[str, _Value] = {}
        self._done: set[str] = set()
        """Nodes that an earlier one has taken in."""
        self._channels: list[int] = []
        self._mono: set[int] = set()
        """Tensors of audio, sample by sample."""
        self._steps: list[Step] = []
        self._weights: dict[str, Array] = {}
        self._open: dict[int, str] = {}
        """Tensor of a convolution that may still take something in -> the value it stands for."""
        self._squeezed = False
        self._inputs: list[tuple[str, int]] = []
        for spec in graph.inputs:
            self._values[spec.name] = _Value(View(self._tensor(spec.channels)), spec.channels, not spec.per_frame)
            self._inputs.append((spec.name, self._values[spec.name].view.tensor))
            if spec.channels == 1:
                self._mono.add(self._inputs[-1][1])

    def plan(self) -> Plan:
        for node in self._graph.node:
            if node.name in self._done:
                continue
            writer = _WRITERS.get(node.op_type)
            if writer is None:
                raise _refused(node, "it has no native form")
            writer(self, node)
        output = self._solid(self._graph.output[0].name)
        if not self._is_whole(output):
            output = self._copy(output)
        numbers = dict(self._inputs)
        singles = {value.view.tensor for value in self._values.values() if value.single}
        tensors, steps, number = with_slots(
            self._channels, self._mono, singles, self._steps, list(numbers.values()), output.view.tensor
        )
        inputs = tuple((name, i) for i, (name, _) in enumerate(self._inputs))
        rates = {spec.name: spec.per_frame for spec in self._specs}
        return Plan(tensors, steps, inputs, number, self._squeezed, self._weights, rates)

    # Tensors and steps.

    def _tensor(self, channels: int) -> int:
        self._channels.append(channels)
        return len(self._channels) - 1

    def _step(self, node: onnx.NodeProto, step: Step) -> None:
        self._steps.append(replace(step, layer=layer_of(node)))

    def _names(self, node: onnx.NodeProto, value: _Value, output: int = 0) -> None:
        self._values[node.output[output]] = value

    def _weight(self, name: str, rows: slice | None = None) -> str:
        if not name:
            return ""
        kept = name if rows is None else f"{name}[{rows.start}:{rows.stop}]"
        if kept not in self._weights:
            array = self._constants[name] if rows is None else self._constants[name][rows]
            self._weights[kept] = np.ascontiguousarray(array, dtype=np.float32)
        return kept

    def _solid(self, name: str) -> _Value:
        """The value, computed."""
        value = self._values[name]
        if value.slope == 1.0:
            return value
        made = self._pointwise(None, value, None, value.channels, post="leaky", slope=value.slope)
        self._values[name] = made
        return made

    def _is_whole(self, value: _Value) -> bool:
        """Is it all channels of its tensor?"""
        return value.view.channel == 0 and value.channels == self._channels[value.view.tensor]

    def _copy(self, value: _Value) -> _Value:
        return self._pointwise(None, value, None, value.channels)

    def _pointwise(
        self, node: onnx.NodeProto | None, a: _Value, b: _Value | None, channels: int, **settings: Any
    ) -> _Value:
        if b is not None and a.channels != b.channels:
            raise _refused(node, "it joins one channel with several")
        single = a.single and (b is None or b.single)
        made = _Value(View(self._tensor(channels)), channels, single)
        if a.view.tensor in self._mono:
            self._mono.add(made.view.tensor)
        step = Step("pointwise", a.view, made.view, channels, channels, (b.view,) if b else (), **settings)
        self._steps.append(replace(step, layer=layer_of(node) if node else ""))
        return made

    def _only_reader(self, name: str) -> onnx.NodeProto | None:
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 else None

    def _takes_in(self, name: str) -> int | None:
        """The step of a convolution that nothing but the present node reads, and that can take in more."""
        value = self._values[name]
        if value.slope != 1.0 or self._open.get(value.view.tensor) != name or len(self._readers[name]) != 1:
            return None
        for number in range(len(self._steps) - 1, -1, -1):
            if self._steps[number].to.tensor == value.view.tensor:
                return number
        return None

    # Operators.

    def convolution(self, node: onnx.NodeProto) -> None:
        weight, up = self._constants.get(node.input[1]), node.op_type == "ConvTranspose"
        found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if weight is None or weight.ndim != 3 or found.get("group", 1) != 1:
            raise _refused(node, "its weights are not those of one group over one axis")
        if up and found["dilations"] != [1]:
            raise _refused(node, "it is dilated")
        source = self._values[node.input[0]]
        out, into = (weight.shape[1], weight.shape[0]) if up else weight.shape[:2]
        pads = found["pads"]
        geometry: dict[str, Any] = {
            "kernel": weight.shape[2],
            "stride": found["strides"][0],
            "dilation": found["dilations"][0],
            "pad": pads[0],
            "slope": source.slope,
        }
        if pads[0] != pads[1]:
            raise _refused(node, "it pads its two ends differently")
        if up:
            geometry["crop"] = -found.get("output_padding", [0])[0]
        bias = node.input[2] if len(node.input) > 2 else ""
        kind = "upsample" if up else "convolve"
        for name, rows in self._parts(node, out, up):
            some = out if rows is None else rows.stop - rows.start
            made = _Value(View(self._tensor(some)), some, source.single and kind == "convolve")
            step = Step(kind, source.view, made.view, into, some, **geometry)
            weights, biases = self._weight(node.input[1], rows), self._weight(bias, rows)
            self._step(node, replace(step, weight=weights, bias=biases))
            self._values[name] = made
            self._open[made.view.tensor] = name
            from_channels = self._is_whole(source) and source.view.tensor not in self._mono
            if some == 1 and not up and from_channels and self._is_audio(name):
                self._mono.add(made.view.tensor)

    def _is_audio(self, name: str) -> bool:
        """Does nothing but a curve follow?"""
        reader = self._only_reader(name)
        while reader is not None and reader.op_type in ("Tanh", "Clip", "Squeeze"):
            name = reader.output[0]
            reader = self._only_reader(name)
        return name in self._outputs()

    def _parts(self, node: onnx.NodeProto, channels: int, up: bool) -> list[tuple[str, slice | None]]:
        """Where only parts of the channels go on, each part by itself: the name of its value and its channels."""
        readers = self._readers.get(node.output[0], [])
        parts: list[tuple[str, slice | None]] = []
        for reader in readers:
            cuts = self._cuts(reader, channels) if not up and node.output[0] not in self._outputs() else None
            if cuts is None:
                return [(node.output[0], None)]
            parts += [(name, slice(start, stop)) for name, start, stop in cuts]
        self._done |= {reader.name for reader in readers}
        return parts or [(node.output[0], None)]

    def _outputs(self) -> set[str]:
        return {value.name for value in self._graph.output}

    def _cuts(self, node: onnx.NodeProto, channels: int) -> list[tuple[str, int, int]] | None:
        """Names of a node's outputs and the channels that they are; None for other nodes."""
        if node.op_type == "Split" and _attribute(node, "axis", 0) == CHANNEL_AXIS:
            ends = np.cumsum(self._constants[node.input[1]]).tolist()
            return [(name, start, end) for name, start, end in zip(node.output, [0, *ends], ends, strict=False)]
        cut = self._slice(node)
        if cut is None or cut[0] != CHANNEL_AXIS:
            return None
        start, stop, _ = slice(cut[1], cut[2]).indices(channels)
        return [(node.output[0], start, stop)]

    def _slice(self, node: onnx.NodeProto) -> tuple[int, int, int] | None:
        """Axis, start and stop of a slice along one axis."""
        if node.op_type != "Slice" or not all(name in self._constants for name in node.input[1:]):
            return None
        starts, stops, axes, steps = (self._constants[name].tolist() for name in node.input[1:])
        return (axes[0], starts[0], stops[0]) if len(axes) == 1 and steps == [1] else None

    def cut(self, node: onnx.NodeProto) -> None:
        """A split or slice: views of channels, or rows that an upsampler leaves out."""
        source = self._solid(node.input[0])
        cuts = self._cuts(node, source.channels)
        if cuts is not None:
            for name, start, stop in cuts:
                view = View(source.view.tensor, source.view.channel + start)
                self._values[name] = _Value(view, stop - start, source.single)
            return
        found, number = self._slice(node), self._takes_in(node.input[0])
        if found is None or found[0] != TIME_AXIS or found[1] != 0 or found[2] >= 0 or number is None:
            raise _refused(node, "it cuts something other than channels")
        step = self._steps[number]
        if step.adds:
            raise _refused(node, "it cuts a sum")
        self._steps[number] = replace(step, crop=step.crop - found[2])
        self._values[node.output[0]] = source

    def leaky(self, node: onnx.NodeProto) -> None:
        source = self._solid(node.input[0])
        self._names(node, _Value(source.view, source.channels, source.single, _attribute(node, "alpha", 0.01)))

    def add(self, node: onnx.NodeProto) -> None:
        a, b = (self._operand(node, name) for name in node.input)
        if a is None or b is None:
            raise _refused(node, "it adds a constant")
        names = list(node.input)
        takers = [(n, i) for i, name in enumerate(names) if (n := self._takes_in(name)) is not None]
        takers = [(n, i) for n, i in takers if self._may_add(n, (a, b)[i], (a, b)[1 - i])]
        if names[0] == names[1] or not takers:
            self._names(node, self._pointwise(node, a, b, max(a.channels, b.channels), joint="add"))
            return
        number, place = max(takers)
        mine, other = (a, b)[place], (a, b)[1 - place]
        step = self._steps.pop(number)  # it may have to wait for the other
        self._steps.append(replace(step, adds=(*step.adds, other.view)))
        self._open[mine.view.tensor] = node.output[0]
        self._names(node, mine)

    def _may_add(self, number: int, mine: _Value, other: _Value) -> bool:
        step = self._steps[number]
        room = step.kind in CONVOLUTIONS and len(step.adds) < MOST_ADDS and not step.post
        # A convolution in whose sums the other one is already would wait for itself.
        return room and mine.channels == other.channels and (other.single or not mine.single)

    def _operand(self, node: onnx.NodeProto, name: str) -> _Value | None:
        return None if name in self._constants else self._solid(name)

    def curve(self, node: onnx.NodeProto) -> None:
        post = {"Tanh": "tanh", "Sigmoid": "sigmoid", "Exp": "exp", "Clip": "clip"}[node.op_type]
        if post == "clip" and [self._number(name) for name in node.input[1:]] != [-1.0, 1.0]:
            raise _refused(node, "it bounds to something other than -1 and 1")
        gate = self._gate(node)
        if gate is not None:
            self._done |= {gate[0].name, gate[1].name}
            a, b = self._solid(node.input[0]), self._solid(gate[0].input[0])
            self._names(gate[1], self._pointwise(node, a, b, a.channels, joint="gate"))
            return
        number = self._takes_in(node.input[0])
        if number is not None and not self._steps[number].post:
            self._steps[number] = replace(self._steps[number], post=post)
            self._names(node, self._values[node.input[0]])
            return
        source = self._solid(node.input[0])
        self._names(node, self._pointwise(node, source, None, source.channels, post=post))

    def _number(self, name: str) -> float | None:
        constant = self._constants.get(name)
        return float(constant.reshape(())) if constant is not None and constant.size == 1 else None

    def _gate(self, node: onnx.NodeProto) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
        """tanh(a) * sigmoid(b): the sigmoid and the product, where this is their tanh."""
        product = self._only_reader(node.output[0])
        if node.op_type != "Tanh" or product is None or product.op_type != "Mul":
            return None
        other = next((name for name in product.input if name != node.output[0]), "")
        for sigmoid in self._graph.node:
            if other in sigmoid.output and sigmoid.op_type == "Sigmoid" and self._only_reader(other) is product:
                # A sigmoid that is computed already may have gone into the convolution that it follows.
                ready = sigmoid.input[0] in self._values and other not in self._values
                return (sigmoid, product) if ready else None
        return None

    def arithmetic(self, node: onnx.NodeProto) -> None:
        a, b = (self._operand(node, name) for name in node.input)
        if a is None or b is None:
            self._names(node, self._scaled(node, a, b))
            return
        joint = {"Sub": "subtract", "Mul": "multiply", "Div": "divide"}[node.op_type]
        self._names(node, self._pointwise(node, a, b, max(a.channels, b.channels), joint=joint))

    def _scaled(self, node: onnx.NodeProto, a: _Value | None, b: _Value | None) -> _Value:
        value = a or b
        constant = next(self._constants[name] for name in node.input if name in self._constants)
        if value is None or constant.size != 1 or node.op_type == "Sub" or (node.op_type == "Div" and a is None):
            raise _refused(node, "it joins a signal with constants")
        factor = float(constant.reshape(()))
        factor = 1 / factor if node.op_type == "Div" else factor
        return self._pointwise(node, value, None, value.channels, scale=factor)

    def concat(self, node: onnx.NodeProto) -> None:
        if _attribute(node, "axis", 0) != CHANNEL_AXIS or any(name in self._constants for name in node.input):
            raise _refused(node, "it joins something other than channels")
        parts = [self._solid(name) for name in node.input]
        total = sum(part.channels for part in parts)
        made = _Value(View(self._tensor(total)), total, all(part.single for part in parts))
        start = 0
        for part in parts:
            to = View(made.view.tensor, start)
            self._step(node, Step("pointwise", part.view, to, part.channels, part.channels))
            start += part.channels
        self._names(node, made)

    def squeeze(self, node: onnx.NodeProto) -> None:
        source = self._solid(node.input[0])
        axes = [self._number(name) for name in node.input[1:]]
        if source.channels != 1 or axes != [CHANNEL_AXIS] or node.output[0] not in self._outputs():
            raise _refused(node, "it drops something other than the one channel of the audio")
        self._squeezed = True
        self._names(node, source)

    def reshape(self, node: onnx.NodeProto) -> None:
        """Groups of samples that become channels."""
        turn = self._only_reader(node.output[0])
        back = self._only_reader(turn.output[0]) if turn is not None else None
        shape = self._constants[node.input[1]].tolist()
        fits = turn is not None and back is not None and turn.op_type == "Transpose" and back.op_type == "Reshape"
        if not fits or len(shape) != 4 or _attribute(turn, "perm", []) != [0, 1, 3, 2]:
            raise _refused(node, "it reshapes in a way that has no native form")
        assert turn is not None
        assert back is not None
        source, group = self._solid(node.input[0]), int(shape[3])
        made = _Value(View(self._tensor(source.channels * group)), source.channels * group, False)
        self._step(node, Step("fold", source.view, made.view, source.channels, made.channels, kernel=group))
        self._done |= {turn.name, back.name}
        self._names(back, made)

    def transpose(self, node: onnx.NodeProto) -> None:
        """Channels that become samples again."""
        back = self._only_reader(node.output[0])
        last = back is not None and back.op_type == "Reshape" and back.output[0] in self._outputs()
        if not last or _attribute(node, "perm", []) != [0, 2, 1]:
            raise _refused(node, "it turns axes in a way that has no native form")
        assert back is not None
        source = self._solid(node.input[0])
        made = _Value(View(self._tensor(1)), 1, False)
        self._mono.add(made.view.tensor)
        self._step(node, Step("unfold", source.view, made.view, source.channels, 1))
        self._squeezed = True
        self._done.add(back.name)
        self._names(back, made)

    def pad(self, node: onnx.NodeProto) -> None:
        """The start of an anti-aliased snake in two phases: all its nodes at once."""
        scope = layer_of(node)
        taps = [self._constants.get(f"{scope}.taps{i}") for i in range(4)]
        curve = [self._constants.get(f"{scope}.act.{name}") for name in ("a", "inverse")]
        mine = [n for n in self._graph.node if layer_of(n) in (scope, f"{scope}.act")]
        if any(part is None for part in (*taps, *curve)) or mine[-1].op_type != "Add":
            raise _refused(node, "only the two-phase form of the anti-aliased snake has a native form")
        source = self._solid(node.input[0])
        if source.view.tensor in self._mono:
            raise _refused(node, "it works on audio rather than on channels")
        parts = [c.reshape(-1) for c in curve if c is not None] + [t[0].reshape(-1) for t in taps if t is not None]
        self._weights[f"{scope}.snake"] = np.concatenate(parts).astype(np.float32)
        made = _Value(View(self._tensor(source.channels)), source.channels, source.single)
        settings: dict[str, Any] = {"extra": f"{scope}.snake"}
        self._step(node, Step("snake", source.view, made.view, source.channels, source.channels, **settings))
        self._done |= {n.name for n in mine}
        self._names(mine[-1], made)


_WRITERS: dict[str, Callable[[_Lowering, onnx.NodeProto], None]] = {
    "Conv": _Lowering.convolution,
    "ConvTranspose": _Lowering.convolution,
    "Split": _Lowering.cut,
    "Slice": _Lowering.cut,
    "LeakyRelu": _Lowering.leaky,
    "Add": _Lowering.add,
    **dict.fromkeys(("Tanh", "Sigmoid", "Exp", "Clip"), _Lowering.curve),
    **dict.fromkeys(("Sub", "Mul", "Div"), _Lowering.arithmetic),
    "Concat": _Lowering.concat,
    "Squeeze": _Lowering.squeeze,
    "Reshape": _Lowering.reshape,
    "Transpose": _Lowering.transpose,
    "Pad": _Lowering.pad,
}


def _attribute(node: onnx.NodeProto | None, name: str, default: Any) -> Any:
    for attribute in node.attribute if node is not None else ():
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default


def _refused(node: onnx.NodeProto | None, found: str) -> UnsupportedOperator:
    return UnsupportedOperator(
        f"{node.op_type if node else 'an operator'} in {(node and node.name) or 'the network'} on the native kernels",
        f"{found}.",
        "Use the onnxruntime or openvino backend for this network.",
    )
