"""How torch functions are written in ONNX. One function each; `@writes` files it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trt_svc.errors import GraphError
from trt_svc.graph.traced import FUNCTIONS, ONNX_TYPES, Shape, Traced

Operand = Traced | Tensor | float | int


def writes(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Files a writer under the torch functions it translates."""

    def file_it(writer: Callable[..., Any]) -> Callable[..., Any]:
        for function in functions:
            FUNCTIONS[function] = writer
        return writer

    return file_it


# Elementwise.


def _broadcast(a: Shape, b: Shape) -> Shape:
    """Known lengths of a broadcast result; an unknown length next to 1 or None stays unknown."""
    rank = max(len(a), len(b))
    a, b = (1,) * (rank - len(a)) + tuple(a), (1,) * (rank - len(b)) + tuple(b)
    return tuple(y if x == 1 else x for x, y in zip(a, b, strict=True))


def _promoted(*values: Operand) -> list[Operand]:
    """Tensors of mixed float types, cast to the one torch would compute in: graphs are strongly typed."""
    types = [value.dtype for value in values if isinstance(value, Traced)]
    common = functools.reduce(torch.promote_types, types)
    return [_traced(cast(value, common)) if isinstance(value, Traced) else value for value in values]


def _operand(x: Traced, other: Operand) -> tuple[str, Shape]:
    """The graph name of the other operand, a number taking the type of `x`."""
    if isinstance(other, Traced):
        return other.name, other.shape
    value = other if isinstance(other, Tensor) else torch.tensor(other, dtype=x.dtype)
    if value.dtype != x.dtype:
        value = value.to(x.dtype)
    return x.tracer.constant(value), tuple(value.shape)


def _binary(op: str) -> Callable[..., Traced]:
    def write(a: Operand, b: Operand, **_: Any) -> Traced:
        a, b = _promoted(a, b)
        if isinstance(a, Traced):
            name, shape = _operand(a, b)
            return a.tracer.node(op, [a.name, name], a.dtype, _broadcast(a.shape, shape))
        assert isinstance(b, Traced)
        name, shape = _operand(b, a)
        return b.tracer.node(op, [name, b.name], b.dtype, _broadcast(shape, b.shape))

    return write


for _op, _functions in {
    "Add": (torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__),
    "Mul": (torch.mul, torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.__rmul__),
    "Sub": (torch.sub, torch.Tensor.sub, torch.Tensor.__sub__),
    "Div": (torch.div, torch.Tensor.div, torch.Tensor.__truediv__),
    "Max": (torch.maximum, torch.Tensor.maximum),
}.items():
    writes(*_functions)(_binary(_op))


def _unary(op: str) -> Callable[..., Traced]:
    return lambda x, **_: x.tracer.node(op, [x.name], x.dtype, x.shape)


for _op, _functions in {
    "Tanh": (torch.tanh, torch.Tensor.tanh),
    "Sigmoid": (torch.sigmoid, torch.Tensor.sigmoid),
    "Exp": (torch.exp, torch.Tensor.exp),
    "Sin": (torch.sin, torch.Tensor.sin),
    "Neg": (torch.neg, torch.Tensor.neg),
    "Relu": (F.relu, torch.relu),
}.items():
    writes(*_functions)(_unary(_op))


@writes(F.leaky_relu)
def leaky_relu(x: Traced, negative_slope: float = 0.01, inplace: bool = False) -> Traced:
    return x.tracer.node("LeakyRelu", [x.name], x.dtype, x.shape, alpha=float(negative_slope))


@writes(torch.clamp, torch.Tensor.clamp)
def clamp(x: Traced, min: float, max: float) -> Traced:  # noqa: A002 - torch's names
    bounds = [x.tracer.constant(torch.tensor(bound, dtype=x.dtype)) for bound in (min, max)]
    return x.tracer.node("Clip", [x.name, *bounds], x.dtype, x.shape)


@writes(torch.Tensor.to, torch.Tensor.type)
def cast(x: Traced, dtype: torch.dtype) -> Traced:
    if dtype == x.dtype:
        return x
    return x.tracer.node("Cast", [x.name], dtype, x.shape, to=ONNX_TYPES[dtype])


@writes(torch.Tensor.float)
def to_float(x: Traced) -> Traced:
    return _traced(cast(x, torch.float32))


@writes(torch.Tensor.half)
def to_half(x: Traced) -> Traced:
    return _traced(cast(x, torch.float16))


# Convolutions.


def _first(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]


def _geometry(weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> dict[str, Any]:
    return {
        "kernel_shape": [weight.shape[2]],
        "strides": [_first(stride)],
        "pads": [_first(padding)] * 2,
        "dilations": [_first(dilation)],
        "group": groups,
    }


@writes(torch.conv1d, F.conv1d)
def conv1d(
    x: Traced,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Traced:
    shape = (x.shape[0], weight.shape[0], None)
    geometry = _geometry(weight, stride, padding, dilation, groups)
    return x.tracer.node("Conv", [x.name, *_weights(x, weight, bias)], x.dtype, shape, **geometry)


@writes(torch.conv_transpose1d, F.conv_transpose1d)
def conv_transpose1d(
    x: Traced,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Traced:
    shape = (x.shape[0], weight.shape[1] * groups, None)
    geometry = _geometry(weight, stride, padding, dilation, groups) | {"output_padding": [_first(output_padding)]}
    return x.tracer.node("ConvTranspose", [x.name, *_weights(x, weight, bias)], x.dtype, shape, **geometry)


def _weights(x: Traced, *tensors: Tensor | None) -> list[str]:
    for tensor in tensors:
        if tensor is not None and tensor.dtype != x.dtype:
            raise GraphError(
                f"exporting {'/'.join(x.tracer.scope)}",
                f"a {x.dtype} input meets {tensor.dtype} weights.",
                "Cast the input in front of the layer: graphs are strongly typed.",
            )
    return [x.tracer.constant(tensor) for tensor in tensors if tensor is not None]


@writes(F.pad)
def pad(x: Traced, pad: Any, mode: str = "constant", value: float | None = None) -> Traced:
    before = [0] * len(x.shape)
    after = [0] * len(x.shape)
    for i in range(len(pad) // 2):
        before[-1 - i], after[-1 - i] = pad[2 * i], pad[2 * i + 1]
    kinds = {"constant": "constant", "replicate": "edge", "reflect": "reflect"}
    shape = tuple(None if n is None else n + b + a for n, b, a in zip(x.shape, before, after, strict=True))
    return x.tracer.node("Pad", [x.name, x.tracer.integers(before + after)], x.dtype, shape, mode=kinds[mode])


# Shapes.


END = 2**62


@writes(torch.Tensor.__getitem__)
def getitem(x: Traced, index: Any) -> Traced:
    """Slices only: `x[:, :3]`, `x[..., 15:-15]`, `x[:, :, ::2]`."""
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in index:
        at = index.index(Ellipsis)
        index = (*index[:at], *[slice(None)] * (len(x.shape) - len(index) + 1), *index[at + 1 :])
    axes = [axis for axis, part in enumerate(index) if part != slice(None)]
    if not axes:
        return x
    parts = [index[axis] for axis in axes]
    starts, stops = [part.start or 0 for part in parts], [END if part.stop is None else part.stop for part in parts]
    steps = [part.step or 1 for part in parts]
    shape = list(x.shape)
    for axis, part in zip(axes, parts, strict=True):
        known = shape[axis]
        shape[axis] = None if known is None else len(range(*part.indices(known)))
    names = [x.tracer.integers(values) for values in (starts, stops, axes, steps)]
    return x.tracer.node("Slice", [x.name, *names], x.dtype, tuple(shape))


@writes(torch.cat, torch.concat)
def cat(tensors: Any, dim: int = 0) -> Traced:
    tensors = [_traced(t) for t in _promoted(*tensors)]
    x = tensors[0]
    lengths = [t.shape[dim] for t in tensors]
    shape = list(x.shape)
    shape[dim] = None if None in lengths else sum(lengths)
    return _traced(x.tracer.node("Concat", [t.name for t in tensors], x.dtype, tuple(shape), axis=dim % len(shape)))


def _traced(value: Any) -> Traced:
    assert isinstance(value, Traced)
    return value


@writes(torch.split, torch.Tensor.split)
def split(x: Traced, split_size_or_sections: Any, dim: int = 0) -> list[Traced]:
    length = x.shape[dim]
    assert length is not None, "only known lengths can be split"
    size = split_size_or_sections
    sizes = list(size) if not isinstance(size, int) else [min(size, length - i) for i in range(0, length, size)]
    shapes = [tuple(n if axis == dim % len(x.shape) else old for axis, old in enumerate(x.shape)) for n in sizes]
    return x.tracer.split_node("Split", [x.name, x.tracer.integers(sizes)], [(x.dtype, s) for s in shapes], axis=dim)


@writes(torch.chunk, torch.Tensor.chunk)
def chunk(x: Traced, chunks: int, dim: int = 0) -> list[Traced]:
    length = x.shape[dim]
    assert length is not None, "only known lengths can be cut into chunks"
    return list(split(x, -(-length // chunks), dim))


@writes(torch.transpose, torch.Tensor.transpose)
def transpose(x: Traced, dim0: int, dim1: int) -> Traced:
    order = list(range(len(x.shape)))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return x.tracer.node("Transpose", [x.name], x.dtype, tuple(x.shape[i] for i in order), perm=order)


@writes(torch.squeeze, torch.Tensor.squeeze)
def squeeze(x: Traced, dim: int) -> Traced:
    shape = tuple(n for axis, n in enumerate(x.shape) if axis != dim % len(x.shape))
    return x.tracer.node("Squeeze", [x.name, x.tracer.integers([dim])], x.dtype, shape)


@writes(torch.unsqueeze, torch.Tensor.unsqueeze)
def unsqueeze(x: Traced, dim: int) -> Traced:
    shape = list(x.shape)
    shape.insert(dim if dim >= 0 else len(shape) + 1 + dim, 1)
    return x.tracer.node("Unsqueeze", [x.name, x.tracer.integers([dim])], x.dtype, tuple(shape))


@writes(torch.unflatten, torch.Tensor.unflatten)
def unflatten(x: Traced, dim: int, sizes: Any) -> Traced:
    dim %= len(x.shape)
    known = x.shape[dim]
    inner = [(None if known is None else known // -_product(sizes)) if n == -1 else n for n in sizes]
    # 0 keeps an axis, as far as it stands where it stood.
    target = [0] * dim + list(sizes) + [n if n is not None else -1 for n in x.shape[dim + 1 :]]
    shape = (*x.shape[:dim], *inner, *x.shape[dim + 1 :])
    return x.tracer.node("Reshape", [x.name, x.tracer.integers(target)], x.dtype, shape)


@writes(torch.flatten, torch.Tensor.flatten)
def flatten(x: Traced, start_dim: int = 0, end_dim: int = -1) -> Traced:
    start_dim, end_dim = start_dim % len(x.shape), end_dim % len(x.shape)
    inner = x.shape[start_dim : end_dim + 1]
    joined = None if None in inner else _product(inner)
    rest = list(x.shape[end_dim + 1 :])
    if [joined, *rest].count(None) > 1:
        raise GraphError("exporting a flatten", "two lengths behind it are unknown.", "Flatten known axes only.")
    target = [0] * start_dim + [-1 if n is None else n for n in [joined, *rest]]
    shape = (*x.shape[:start_dim], joined, *rest)
    return x.tracer.node("Reshape", [x.name, x.tracer.integers(target)], x.dtype, shape)


def _product(values: Any) -> int:
    out = 1
    for value in values:
        out *= value
    return out
