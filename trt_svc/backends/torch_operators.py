"""What the operators of our graphs are in torch: each gets a node's attributes and its inputs, None for absent ones.

Whole numbers that say how (lengths, axes, sizes) stay on the host: a GPU never has to be waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional as F

Attributes = Mapping[str, Any]
Operator = Callable[..., Any]
"""(attributes, *inputs) -> the output, or all of them."""

TYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.BOOL: torch.bool,
}
OPERATORS: dict[str, Operator] = {}


def computes(*names: str) -> Callable[[Operator], Operator]:
    """Files an operator under its ONNX names."""

    def file_it(operator: Operator) -> Operator:
        for name in names:
            OPERATORS[name] = operator
        return operator

    return file_it


def together(*values: Tensor) -> tuple[Tensor, ...]:
    """Values on one device: counts that a graph made on the host join what is on the GPU."""
    where = next((value.device for value in values if value.device.type != "cpu"), None)
    return values if where is None else tuple(value.to(where) for value in values)


# Convolutions.


@computes("Conv")
def convolution(said: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    axes = weight.dim() - 2
    x, padding = _evenly_padded(x, said.get("pads", [0] * 2 * axes))
    run = (F.conv1d, F.conv2d)[axes - 1]
    strides, dilations = said.get("strides", [1] * axes), said.get("dilations", [1] * axes)
    return run(x, weight, bias, strides, padding, dilations, said.get("group", 1))


def _evenly_padded(x: Tensor, pads: Sequence[int]) -> tuple[Tensor, list[int]]:
    """What torch takes is the same at both ends; the rest is padded here."""
    axes = len(pads) // 2
    first, last = list(pads[:axes]), list(pads[axes:])
    if first == last:
        return x, first
    return F.pad(x, _from_the_back(first, last)), [0] * axes


def _from_the_back(first: Sequence[int], last: Sequence[int]) -> list[int]:
    return [n for pair in zip(reversed(first), reversed(last), strict=True) for n in pair]


@computes("ConvTranspose")
def transposed_convolution(said: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    axes = weight.dim() - 2
    run = (F.conv_transpose1d, F.conv_transpose2d)[axes - 1]
    behind, dilations = said.get("output_padding", [0] * axes), said.get("dilations", [1] * axes)
    padding = list(said.get("pads", [0] * 2 * axes))[:axes]
    return run(x, weight, bias, said.get("strides", [1] * axes), padding, behind, said.get("group", 1), dilations)


@computes("MaxPool")
def max_pool(said: Attributes, x: Tensor) -> Tensor:
    run = (F.max_pool1d, F.max_pool2d)[x.dim() - 3]
    kernel = said["kernel_shape"]
    padding = list(said.get("pads", [0] * 2 * len(kernel)))[: len(kernel)]
    return run(x, kernel, said.get("strides", [1] * len(kernel)), padding, said.get("dilations", [1] * len(kernel)))


@computes("AveragePool")
def average_pool(said: Attributes, x: Tensor) -> Tensor:
    run = (F.avg_pool1d, F.avg_pool2d)[x.dim() - 3]
    kernel = said["kernel_shape"]
    padding = list(said.get("pads", [0] * 2 * len(kernel)))[: len(kernel)]
    strides = said.get("strides", [1] * len(kernel))
    return run(x, kernel, strides, padding, count_include_pad=bool(said.get("count_include_pad", 0)))


# Single values.

for _name, _function in {
    "Tanh": torch.tanh,
    "Sigmoid": torch.sigmoid,
    "Exp": torch.exp,
    "Log": torch.log,
    "Sqrt": torch.sqrt,
    "Abs": torch.abs,
    "Sin": torch.sin,
    "Neg": torch.neg,
    "Relu": torch.relu,
    "Not": torch.logical_not,
}.items():
    computes(_name)(lambda said, x, run=_function: run(x))

for _name, _joining in {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Equal": torch.eq,
    "Max": torch.maximum,
    "Min": torch.minimum,
    "MatMul": torch.matmul,
}.items():
    computes(_name)(lambda said, a, b, run=_joining: run(*together(a, b)))


@computes("Div")
def division(said: Attributes, a: Tensor, b: Tensor) -> Tensor:
    a, b = together(a, b)
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@computes("Where")
def where(said: Attributes, condition: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    condition, chosen, other = together(condition, chosen, other)
    return torch.where(condition, chosen, other)


@computes("LeakyRelu")
def leaky_relu(said: Attributes, x: Tensor) -> Tensor:
    return F.leaky_relu(x, said.get("alpha", 0.01))


@computes("Gelu")
def gelu(said: Attributes, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=said.get("approximate", b"none").decode())


@computes("Clip")
def clip(said: Attributes, x: Tensor, least: Tensor | None = None, most: Tensor | None = None) -> Tensor:
    return torch.clamp(x, least, most)


@computes("Cast")
def cast(said: Attributes, x: Tensor) -> Tensor:
    return x.to(TYPES[said["to"]])


# Places.


@computes("Pad")
def pad(said: Attributes, x: Tensor, pads: Tensor, value: Tensor | None = None) -> Tensor:
    widths = [int(n) for n in pads.tolist()]
    mode = {"edge": "replicate"}.get(said.get("mode", b"constant").decode(), said.get("mode", b"constant").decode())
    around = _from_the_back(widths[: x.dim()], widths[x.dim() :])
    if mode == "constant":
        return F.pad(x, around, value=0.0 if value is None else float(value))
    while around[-2:] == [0, 0]:  # torch takes the other modes for the last axes only
        around = around[:-2]
    return F.pad(x, around, mode=mode) if around else x


@computes("Slice")
def taken(
    said: Attributes, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    first, last = starts.tolist(), ends.tolist()
    which = range(len(first)) if axes is None else axes.tolist()
    every = [1] * len(first) if steps is None else steps.tolist()
    index = [slice(None)] * x.dim()
    for axis, start, end, step in zip(which, first, last, every, strict=True):
        if step > 0:
            index[axis] = slice(start, end, step)
        else:
            places = range(x.shape[axis])[max(start, -x.shape[axis] - 1) : max(end, -x.shape[axis] - 1) : step]
            x = x.index_select(axis, torch.tensor(list(places), device=x.device, dtype=torch.int64))
    return x[tuple(index)]


@computes("Split")
def split(said: Attributes, x: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.split(x, sizes.tolist(), said.get("axis", 0)))


@computes("Concat")
def concatenated(said: Attributes, *parts: Tensor) -> Tensor:
    return torch.cat(together(*parts), said["axis"])


@computes("Reshape")
def reshape(said: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    return x.reshape([x.shape[axis] if n == 0 else n for axis, n in enumerate(shape.tolist())])


@computes("Transpose")
def transpose(said: Attributes, x: Tensor) -> Tensor:
    return x.permute(said["perm"])


@computes("Squeeze")
def squeeze(said: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes.tolist()))


@computes("Unsqueeze")
def unsqueeze(said: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    rank = x.dim() + axes.numel()
    for axis in sorted(n % rank for n in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


@computes("Shape")
def shape_of(said: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[said.get("start", 0) : said.get("end")], dtype=torch.int64)


@computes("Expand")
def expand(said: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    wanted = torch.broadcast_shapes(x.shape, shape.tolist())  # type: ignore[no-untyped-call]
    return x.expand(wanted)


@computes("Gather")
def gather(said: Attributes, table: Tensor, places: Tensor) -> Tensor:
    axis = said.get("axis", 0)
    found = table.index_select(axis, places.reshape(-1).to(table.device))
    return found.reshape([*table.shape[:axis], *places.shape, *table.shape[axis + 1 :]])


@computes("Range")
def numbers(said: Attributes, start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


@computes("Trilu")
def triangle(said: Attributes, x: Tensor, diagonal: Tensor | None = None) -> Tensor:
    cut = torch.triu if said.get("upper", 1) else torch.tril
    return cut(x, 0 if diagonal is None else int(diagonal))


# Along an axis.

for _name, _reduce in {
    "ReduceSum": torch.sum,
    "ReduceMean": torch.mean,
    "ReduceMax": torch.amax,
    "ReduceMin": torch.amin,
}.items():
    computes(_name)(lambda said, x, axes, run=_reduce: run(x, dim=axes.tolist(), keepdim=bool(said.get("keepdims", 1))))

for _name, _search in {"ArgMax": torch.argmax, "ArgMin": torch.argmin}.items():
    computes(_name)(lambda said, x, run=_search: run(x, dim=said.get("axis", 0), keepdim=bool(said.get("keepdims", 1))))


@computes("TopK")
def topk(said: Attributes, x: Tensor, count: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.topk(x, int(count), said.get("axis", -1), bool(said.get("largest", 1))))


@computes("Softmax")
def softmax(said: Attributes, x: Tensor) -> Tensor:
    return torch.softmax(x, said.get("axis", -1))


@computes("LayerNormalization")
def layer_norm(said: Attributes, x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    along = list(x.shape[said.get("axis", -1) :])
    return F.layer_norm(x, along, scale.expand(along), shift, said.get("epsilon", 1e-5))


@computes("InstanceNormalization")
def instance_norm(said: Attributes, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Over one position the variance is zero, which torch refuses; a group norm of single channels is the same."""
    return F.group_norm(x, x.shape[1], scale, shift, said.get("epsilon", 1e-5))
