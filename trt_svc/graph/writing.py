"""What writers of torch functions share: filing them, types and shapes of results, names of operands."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from trt_svc.errors import GraphError
from trt_svc.graph.traced import FUNCTIONS, ONNX_TYPES, Shape, Traced, Tracer

Operand = Traced | Tensor | float | int


def writes(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Files a writer under the torch functions it translates."""

    def file_it(writer: Callable[..., Any]) -> Callable[..., Any]:
        for function in functions:
            FUNCTIONS[function] = writer
        return writer

    return file_it


def refused(function: str, found: str, advice: str) -> GraphError:
    """The error of a function that is called in a way that has no translation."""
    return GraphError(f"exporting a call of {function}", found, advice)


def traced(value: Any) -> Traced:
    """The value, which is known to be one of the graph's."""
    assert isinstance(value, Traced)
    return value


def tracer_of(*values: Any) -> Tracer:
    """The graph under construction, from the first operand that belongs to it."""
    return next(value.tracer for value in values if isinstance(value, Traced))


# Shapes of results.


def broadcast(a: Shape, b: Shape) -> Shape:
    """Known lengths of a broadcast result; an unknown length next to 1 or None stays unknown."""
    rank = max(len(a), len(b))
    a, b = (1,) * (rank - len(a)) + tuple(a), (1,) * (rank - len(b)) + tuple(b)
    return tuple(y if x == 1 else x for x, y in zip(a, b, strict=True))


def axis_of(dim: int, rank: int) -> int:
    """The axis, counted from the front."""
    if not -rank <= dim < rank:
        found = f"it asks for axis {dim} of a tensor with {rank} axes."
        raise GraphError("exporting a module", found, "Run the module on a tensor first: torch refuses this too.")
    return dim % rank


def axes_of(dims: int | Iterable[int] | None, rank: int) -> list[int]:
    """Axes counted from the front; None and no axis at all mean every axis, as in torch's sums."""
    listed = [dims] if isinstance(dims, int) else list(dims or ())
    return [axis_of(dim, rank) for dim in listed] or list(range(rank))


# Types of results.


def cast(x: Traced, dtype: torch.dtype) -> Traced:
    """`x` in another type."""
    if dtype == x.dtype:
        return x
    if dtype not in ONNX_TYPES:
        found = f"graphs here hold no {dtype}."
        raise refused("a cast", found, f"Use one of {', '.join(str(known) for known in ONNX_TYPES)}.")
    return x.tracer.node("Cast", [x.name], dtype, x.shape, to=ONNX_TYPES[dtype])


def promoted(*values: Operand) -> list[Operand]:
    """Operands with the graph's ones cast to the type torch would compute in: graphs are strongly typed.

    Numbers and constants never change a float type: constants kept in float32 follow the layer's precision.
    """
    types = [value.dtype for value in values if isinstance(value, Traced)]
    if not types:
        return list(values)
    common = functools.reduce(torch.promote_types, types)
    if not common.is_floating_point:
        constants = [value for value in values if not isinstance(value, Traced)]
        common = functools.reduce(torch.promote_types, map(_type_of_constant, constants), common)
    return [cast(value, common) if isinstance(value, Traced) else value for value in values]


def _type_of_constant(value: Tensor | float | int) -> torch.dtype:
    if isinstance(value, Tensor) and value.dim() > 0:
        return value.dtype
    number = value.item() if isinstance(value, Tensor) else value
    return torch.float32 if isinstance(number, float) else torch.bool if isinstance(number, bool) else torch.int64


def operand(tracer: Tracer, dtype: torch.dtype, value: Operand) -> tuple[str, Shape]:
    """The name and shape of an operand in the graph; numbers and constants take the type."""
    if isinstance(value, Traced):
        return value.name, value.shape
    constant = value if isinstance(value, Tensor) else torch.tensor(value, dtype=dtype)
    if constant.dtype != dtype:
        constant = constant.to(dtype)
    return tracer.constant(constant), tuple(constant.shape)


def check_type(x: Traced | Tensor, *others: Traced | Tensor | None) -> None:
    """Refuses operands of other types than the first, where torch does."""
    for other in others:
        if other is not None and other.dtype != x.dtype:
            tracer = tracer_of(x, other)
            raise GraphError(
                f"exporting {'/'.join(tracer.scope)}",
                f"a {x.dtype} input meets {other.dtype} weights.",
                "Cast the input in front of the layer: graphs are strongly typed.",
            )


def weights_of(x: Traced, *tensors: Tensor | None) -> list[str]:
    """Names of a layer's weights, of those that there are."""
    check_type(x, *tensors)
    return [x.tracer.constant(tensor) for tensor in tensors if tensor is not None]
