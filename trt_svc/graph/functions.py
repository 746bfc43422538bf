"""How torch functions are written in ONNX. One function each; `@writes` files it.

Here: what moves values about. The others are in modules of their own, which are imported here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from trt_svc.errors import GraphError
from trt_svc.graph import (  # noqa: F401 - they file writers
    functions_attention,
    functions_convolution,
    functions_elementwise,
    functions_rows,
)
from trt_svc.graph.traced import Traced
from trt_svc.graph.writing import axis_of, operand, promoted, refused, traced, writes


@writes(F.pad)
def pad(x: Traced, pad: Any, mode: str = "constant", value: float | None = None) -> Traced:
    before = [0] * len(x.shape)
    after = [0] * len(x.shape)
    for i in range(len(pad) // 2):
        before[-1 - i], after[-1 - i] = pad[2 * i], pad[2 * i + 1]
    kinds = {"constant": "constant", "replicate": "edge", "reflect": "reflect"}
    if mode not in kinds:
        raise refused("F.pad", f"its mode is {mode!r}.", f"Use one of {', '.join(kinds)}.")
    shape = tuple(None if n is None else n + b + a for n, b, a in zip(x.shape, before, after, strict=True))
    names = [x.name, x.tracer.integers(before + after)]
    if value:
        names.append(x.tracer.constant(torch.tensor(value, dtype=x.dtype)))
    return x.tracer.node("Pad", names, x.dtype, shape, mode=kinds[mode])


# Shapes.


END = 2**62


@writes(torch.Tensor.__getitem__)
def getitem(x: Traced, index: Any) -> Any:
    """Slices, single places and new axes: `x[:, :3]`, `x[..., 15:-15]`, `x[:, 0]`, `x[:, None]`."""
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in index:
        at, taken = index.index(Ellipsis), sum(part is not None for part in index)
        index = (*index[:at], *[slice(None)] * (len(x.shape) - taken + 1), *index[at + 1 :])
    made = _sliced(x, [_as_slice(part) for part in index if part is not None])
    # From the back, so that the axes in front keep their numbers.
    single = [axis for axis, part in enumerate(part for part in index if part is not None) if isinstance(part, int)]
    for axis in reversed(single):
        made = squeeze(made, axis)
    kept = [part for part in index if not isinstance(part, int)]
    for axis in (axis for axis, part in enumerate(kept) if part is None):
        made = unsqueeze(made, axis)
    return made


def _as_slice(part: Any) -> slice:
    if isinstance(part, slice):
        return part
    if isinstance(part, int):
        return slice(part, part + 1 if part != -1 else None)
    found = f"it indexes with {type(part).__name__}."
    raise refused("torch.Tensor.__getitem__", found, "Index with slices and numbers, or use F.embedding.")


def _sliced(x: Traced, index: list[slice]) -> Traced:
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
    tensors = promoted(*tensors)
    first = next(t for t in tensors if isinstance(t, Traced))
    parts = [operand(first.tracer, first.dtype, t) for t in tensors]
    axis = axis_of(dim, len(first.shape))
    lengths = [shape[axis] for _, shape in parts]
    whole = None if None in lengths else sum(n for n in lengths if n is not None)
    shape = (*first.shape[:axis], whole, *first.shape[axis + 1 :])
    return first.tracer.node("Concat", [name for name, _ in parts], first.dtype, shape, axis=axis)


@writes(torch.stack)
def stack(tensors: Any, dim: int = 0) -> Traced:
    return traced(cat([torch.unsqueeze(t, dim) for t in tensors], dim))


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


@writes(torch.permute, torch.Tensor.permute)
def permute(x: Traced, *dims: Any) -> Traced:
    order = [axis_of(dim, len(x.shape)) for dim in _listed(dims)]
    return x.tracer.node("Transpose", [x.name], x.dtype, tuple(x.shape[i] for i in order), perm=order)


@writes(torch.flip, torch.Tensor.flip)
def flip(x: Traced, *dims: Any) -> Traced:
    axes = [axis_of(dim, len(x.shape)) for dim in _listed(dims)]
    names = [x.tracer.integers([value] * len(axes)) for value in (-1, -END)]
    steps = x.tracer.integers([-1] * len(axes))
    return x.tracer.node("Slice", [x.name, *names, x.tracer.integers(axes), steps], x.dtype, x.shape)


def _listed(dims: tuple[Any, ...]) -> tuple[int, ...]:
    """Axes that were given one by one, or all together."""
    return dims if dims and isinstance(dims[0], int) else tuple(dims[0])


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
    behind = [n if n is not None else -1 for n in x.shape[dim + 1 :]]
    if -1 in behind:
        sizes = [-1 if n is None else n for n in inner]
    target = [0] * dim + list(sizes) + behind
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
