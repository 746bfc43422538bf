"""How sums, searches and look-ups along an axis are written in ONNX."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trt_svc.graph.traced import Shape, Traced
from trt_svc.graph.writing import Operand, axes_of, axis_of, cast, operand, refused, traced, tracer_of, writes


def _reduced(shape: Shape, axes: list[int], keepdim: bool) -> Shape:
    return tuple(1 if axis in axes else n for axis, n in enumerate(shape) if keepdim or axis not in axes)


def _reduction(op: str, x: Traced, dims: int | Iterable[int] | None, keepdim: bool) -> Traced:
    axes = axes_of(dims, len(x.shape))
    shape = _reduced(x.shape, axes, keepdim)
    return x.tracer.node(op, [x.name, x.tracer.integers(axes)], x.dtype, shape, keepdims=int(keepdim))


@writes(torch.sum, torch.Tensor.sum)
def sum_of(x: Traced, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Traced:
    # As torch does, counts are whole numbers.
    own = x.dtype if x.dtype.is_floating_point else torch.int64
    return _reduction("ReduceSum", cast(x, dtype or own), dim, keepdim)


@writes(torch.mean, torch.Tensor.mean)
def mean(x: Traced, dim: Any = None, keepdim: bool = False, dtype: torch.dtype | None = None) -> Traced:
    return _reduction("ReduceMean", cast(x, dtype or x.dtype), dim, keepdim)


@writes(torch.amax, torch.Tensor.amax)
def amax(x: Traced, dim: Any = (), keepdim: bool = False) -> Traced:
    return _reduction("ReduceMax", x, dim, keepdim)


@writes(torch.amin, torch.Tensor.amin)
def amin(x: Traced, dim: Any = (), keepdim: bool = False) -> Traced:
    return _reduction("ReduceMin", x, dim, keepdim)


def _place_of_extreme(op: str) -> Callable[..., Traced]:
    def write(x: Traced, dim: int | None = None, keepdim: bool = False) -> Traced:
        if dim is None:
            advice = "Name the axis, or flatten the tensor."
            raise refused(f"torch.{op.lower()}", "it names no axis.", advice)
        axis = axis_of(dim, len(x.shape))
        shape = _reduced(x.shape, [axis], keepdim)
        return x.tracer.node(op, [x.name], torch.int64, shape, axis=axis, keepdims=int(keepdim))

    return write


writes(torch.argmin, torch.Tensor.argmin)(_place_of_extreme("ArgMin"))
writes(torch.argmax, torch.Tensor.argmax)(_place_of_extreme("ArgMax"))


@writes(torch.topk, torch.Tensor.topk)
def topk(x: Traced, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:  # noqa: A002
    """Always sorted, which `sorted=False` allows."""
    axis = axis_of(dim, len(x.shape))
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    outputs = [(x.dtype, shape), (torch.int64, shape)]
    made = x.tracer.split_node("TopK", [x.name, x.tracer.integers([k])], outputs, axis=axis, largest=int(largest))
    return torch.return_types.topk(made)  # type: ignore[arg-type]


@writes(F.embedding)
def embedding(
    input: Traced | Tensor,  # noqa: A002 - torch's name
    weight: Traced | Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Traced:
    """Rows by number. Options that matter in training only are ignored; `max_norm` changes the rows themselves."""
    if max_norm is not None:
        raise refused("F.embedding", "it limits the norm of rows (max_norm).", "Limit the table's rows beforehand.")
    if input.dtype != torch.int64:
        raise refused("F.embedding", f"its row numbers are {input.dtype}.", "Make them int64 (.long()).")
    tracer = tracer_of(input, weight)
    table, table_shape = operand(tracer, weight.dtype, weight)
    rows, rows_shape = operand(tracer, torch.int64, input)
    return tracer.node("Gather", [table, rows], weight.dtype, (*rows_shape, *table_shape[1:]), axis=0)


@writes(torch.Tensor.size)
def size(x: Traced, dim: int | None = None) -> Any:
    """Known lengths as numbers, others (batch and time) as whole numbers of the graph."""
    if dim is None:
        return tuple(size(x, axis) for axis in range(len(x.shape)))
    axis = axis_of(dim, len(x.shape))
    if x.shape[axis] is not None:
        return x.shape[axis]
    length = x.tracer.node("Shape", [x.name], torch.int64, (1,), start=axis, end=axis + 1)
    return length.tracer.node("Squeeze", [length.name, length.tracer.integers([0])], torch.int64, ())


@writes(torch.arange)
def arange(
    start: Operand,
    end: Operand | None = None,
    step: Operand = 1,
    *,
    dtype: torch.dtype | None = None,
    device: Any = None,
    **_: Any,
) -> Traced:
    """Numbers up to a length of the graph, `x.size(dim)`. Lengths known while tracing never come here."""
    first, last = (0, start) if end is None else (start, end)
    tracer = tracer_of(first, last, step)
    common = traced(next(v for v in (first, last, step) if isinstance(v, Traced))).dtype
    if any(isinstance(v, float) or (isinstance(v, Traced) and v.dtype != torch.int64) for v in (first, last, step)):
        raise refused("torch.arange", "its bounds are not all whole numbers.", "Count in int64, then scale.")
    names = [operand(tracer, common, value)[0] for value in (first, last, step)]
    return cast(tracer.node("Range", names, common, (None,)), dtype or common)
