"""How functions of single values are written in ONNX: sums of two, comparisons, curves, types."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from trt_svc.graph.traced import Traced
from trt_svc.graph.writing import Operand, broadcast, cast, operand, promoted, refused, traced, tracer_of, writes

# Two operands.


def _joined(op: str, a: Operand, b: Operand, dtype: torch.dtype | None = None) -> Traced:
    """The node of two operands, brought to one type; its result has that type unless another is named."""
    a, b = promoted(a, b)
    tracer = tracer_of(a, b)
    common = (a if isinstance(a, Traced) else traced(b)).dtype
    (a_name, a_shape), (b_name, b_shape) = operand(tracer, common, a), operand(tracer, common, b)
    return tracer.node(op, [a_name, b_name], dtype or common, broadcast(a_shape, b_shape))


def _binary(op: str) -> Callable[..., Traced]:
    def write(a: Operand, b: Operand, *, alpha: float = 1) -> Traced:
        """`alpha`: of torch.add and torch.sub."""
        return _joined(op, a, b if alpha == 1 else b * alpha)

    return write


for _op, _functions in {
    "Add": (torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__),
    "Mul": (torch.mul, torch.Tensor.mul, torch.Tensor.__mul__, torch.Tensor.__rmul__),
    "Sub": (torch.sub, torch.Tensor.sub, torch.Tensor.__sub__),
    "Max": (torch.maximum, torch.Tensor.maximum),
    "Min": (torch.minimum, torch.Tensor.minimum),
}.items():
    writes(*_functions)(_binary(_op))


@writes(torch.div, torch.Tensor.div, torch.Tensor.__truediv__)
def div(a: Operand, b: Operand, *, rounding_mode: str | None = None) -> Traced:
    if rounding_mode is not None:
        raise refused("torch.div", f"it rounds ({rounding_mode}).", "Divide, then round.")
    # ONNX divides whole numbers without fractions.
    a, b = (cast(v, torch.float32) if isinstance(v, Traced) and not v.dtype.is_floating_point else v for v in (a, b))
    return _joined("Div", a, b)


def _comparison(op: str) -> Callable[..., Traced]:
    return lambda a, b: _joined(op, a, b, torch.bool)


for _op, _functions in {
    "Less": (torch.lt, torch.Tensor.lt, torch.Tensor.__lt__),
    "LessOrEqual": (torch.le, torch.Tensor.le, torch.Tensor.__le__),
    "Greater": (torch.gt, torch.Tensor.gt, torch.Tensor.__gt__),
    "GreaterOrEqual": (torch.ge, torch.Tensor.ge, torch.Tensor.__ge__),
    "Equal": (torch.eq, torch.Tensor.eq, torch.Tensor.__eq__),
}.items():
    writes(*_functions)(_comparison(_op))


@writes(torch.ne, torch.Tensor.ne, torch.Tensor.__ne__)
def differs(a: Operand, b: Operand) -> Traced:
    equal = _joined("Equal", a, b, torch.bool)
    return equal.tracer.node("Not", [equal.name], torch.bool, equal.shape)


@writes(torch.where)
def where(condition: Traced | Tensor, chosen: Operand, other: Operand) -> Traced:
    tracer = tracer_of(condition, chosen, other)
    chosen, other = promoted(chosen, other)
    dtype = next((v.dtype for v in (chosen, other) if isinstance(v, Traced)), None)
    dtype = torch.result_type(chosen, other) if dtype is None else dtype  # type: ignore[arg-type]
    asked = [operand(tracer, torch.bool, condition), operand(tracer, dtype, chosen), operand(tracer, dtype, other)]
    shape = broadcast(broadcast(asked[0][1], asked[1][1]), asked[2][1])
    return tracer.node("Where", [name for name, _ in asked], dtype, shape)


@writes(torch.Tensor.where)
def where_method(chosen: Operand, condition: Traced | Tensor, other: Operand) -> Traced:
    return traced(where(condition, chosen, other))


@writes(torch.masked_fill, torch.Tensor.masked_fill)
def masked_fill(x: Traced, mask: Traced | Tensor, value: Operand) -> Traced:
    return traced(where(mask, value, x))


# One operand.


def _unary(op: str) -> Callable[..., Traced]:
    return lambda x, **_: x.tracer.node(op, [x.name], x.dtype, x.shape)


for _op, _functions in {
    "Tanh": (torch.tanh, torch.Tensor.tanh),
    "Sigmoid": (torch.sigmoid, torch.Tensor.sigmoid),
    "Exp": (torch.exp, torch.Tensor.exp),
    "Log": (torch.log, torch.Tensor.log),
    "Sqrt": (torch.sqrt, torch.Tensor.sqrt),
    "Abs": (torch.abs, torch.Tensor.abs),
    "Sin": (torch.sin, torch.Tensor.sin),
    "Neg": (torch.neg, torch.Tensor.neg),
    "Relu": (F.relu, torch.relu),
}.items():
    writes(*_functions)(_unary(_op))


@writes(torch.square, torch.Tensor.square)
def square(x: Traced) -> Traced:
    return x * x


@writes(F.leaky_relu)
def leaky_relu(x: Traced, negative_slope: float = 0.01, inplace: bool = False) -> Traced:
    return x.tracer.node("LeakyRelu", [x.name], x.dtype, x.shape, alpha=float(negative_slope))


@writes(F.silu)
def silu(x: Traced, inplace: bool = False) -> Traced:
    return traced(x * torch.sigmoid(x))  # type: ignore[arg-type]


@writes(torch.clamp, torch.Tensor.clamp)
def clamp(x: Traced, min: float | None = None, max: float | None = None) -> Traced:  # noqa: A002 - torch's names
    x = traced(promoted(x, *(bound for bound in (min, max) if bound is not None))[0])
    bounds = ["" if b is None else x.tracer.constant(torch.tensor(b, dtype=x.dtype)) for b in (min, max)]
    return x.tracer.node("Clip", [x.name, *(bounds if max is not None else bounds[:1])], x.dtype, x.shape)


writes(torch.Tensor.to, torch.Tensor.type)(cast)
for _method, _dtype in {
    torch.Tensor.float: torch.float32,
    torch.Tensor.half: torch.float16,
    torch.Tensor.long: torch.int64,
    torch.Tensor.bool: torch.bool,
}.items():
    writes(_method)(lambda x, dtype=_dtype: cast(x, dtype))
