"""How the parts of transformers are written in ONNX: linear layers, norms, attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trt_svc.graph.traced import Shape, Traced
from trt_svc.graph.writing import (
    axis_of,
    broadcast,
    cast,
    check_type,
    operand,
    refused,
    traced,
    tracer_of,
    weights_of,
    writes,
)

# Products.


@writes(torch.matmul, torch.bmm, torch.Tensor.matmul, torch.Tensor.bmm, torch.Tensor.__matmul__)
def matmul(a: Traced | Tensor, b: Traced | Tensor) -> Any:
    # Vectors as matrices: onnxruntime 1.31 multiplies a transposed tensor with a vector wrongly.
    if len(b.shape) == 1:
        return torch.matmul(a, torch.unsqueeze(b, 1)).squeeze(-1)  # type: ignore[arg-type]
    if len(a.shape) == 1:
        return torch.matmul(torch.unsqueeze(a, 0), b).squeeze(-2)  # type: ignore[arg-type]
    check_type(a, b)
    tracer = tracer_of(a, b)
    (a_name, a_shape), (b_name, b_shape) = operand(tracer, a.dtype, a), operand(tracer, a.dtype, b)
    shape = (*broadcast(a_shape[:-2], b_shape[:-2]), a_shape[-2], b_shape[-1])
    return tracer.node("MatMul", [a_name, b_name], a.dtype, shape)


@writes(torch.Tensor.__rmatmul__)
def matmul_reflected(b: Tensor, a: Traced) -> Any:
    return matmul(a, b)


@writes(F.linear)
def linear(x: Traced, weight: Tensor, bias: Tensor | None = None) -> Any:
    check_type(x, weight, bias)
    made = matmul(x, weight.t().contiguous())
    return made if bias is None else made + bias


# Norms.


@writes(F.layer_norm)
def layer_norm(
    x: Traced, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Traced:
    given = torch.ones(tuple(normalized_shape), dtype=x.dtype) if weight is None else weight
    axis = len(x.shape) - len(normalized_shape)
    names = [x.name, *weights_of(x, given, bias)]
    return x.tracer.node("LayerNormalization", names, x.dtype, x.shape, axis=axis, epsilon=float(eps))


@writes(F.group_norm)
def group_norm(
    x: Traced, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Any:
    """A group of one channel each is a norm over time, for which there is an operation; others are laid out so."""
    channels = x.shape[1]
    if channels is None:
        raise refused("F.group_norm", "the number of channels is not known.", "Normalise a known number of channels.")
    check_type(x, weight, bias)
    scale = torch.ones(channels, dtype=x.dtype) if weight is None else weight
    shift = torch.zeros(channels, dtype=x.dtype) if bias is None else bias
    if num_groups == channels and len(x.shape) > 2:
        return _norm_over_time(x, scale, shift, eps)
    grouped = _reshaped(x, x.tracer.integers([0, num_groups, -1]), (x.shape[0], num_groups, None))
    plain = torch.ones(num_groups, dtype=x.dtype), torch.zeros(num_groups, dtype=x.dtype)
    normed = _reshaped(_norm_over_time(grouped, *plain, eps), _shape_name(x), x.shape)
    along = (channels, *[1] * (len(x.shape) - 2))
    return normed * scale.reshape(along) + shift.reshape(along)


def _norm_over_time(x: Traced, scale: Tensor, shift: Tensor, eps: float) -> Traced:
    names = [x.name, *weights_of(x, scale, shift)]
    return x.tracer.node("InstanceNormalization", names, x.dtype, x.shape, epsilon=float(eps))


def _reshaped(x: Traced, target: str, shape: Shape) -> Traced:
    return x.tracer.node("Reshape", [x.name, target], x.dtype, shape)


def _shape_name(x: Traced) -> str:
    """A Reshape's target for the shape of `x`: constants where they can say it."""
    rest = x.shape[1:]
    if rest.count(None) < 2:
        return x.tracer.integers([0, *(-1 if n is None else n for n in rest)])
    return x.tracer.node("Shape", [x.name], torch.int64, (len(x.shape),)).name


# Attention.


@writes(F.gelu)
def gelu(x: Traced, approximate: str = "none") -> Traced:
    return x.tracer.node("Gelu", [x.name], x.dtype, x.shape, approximate=approximate)


@writes(torch.softmax, torch.Tensor.softmax)
def softmax(x: Traced, dim: int, dtype: torch.dtype | None = None) -> Traced:
    x = cast(x, dtype or x.dtype)
    return x.tracer.node("Softmax", [x.name], x.dtype, x.shape, axis=axis_of(dim, len(x.shape)))


@writes(F.softmax)
def softmax_function(x: Traced, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Any:
    if dim is None:
        raise refused("F.softmax", "it names no axis.", "Name the axis.")
    return softmax(x, dim, dtype)


@writes(F.scaled_dot_product_attention)
def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Written out, in the form compilers recognise. Queries that may see nothing answer zero under a bool mask only."""
    asked = "F.scaled_dot_product_attention"
    if dropout_p:
        raise refused(
            asked, f"it drops {dropout_p:.0%} of the weights.", "Leave dropout out: graphs are for inference."
        )
    if enable_gqa:
        raise refused(asked, "its heads share keys (enable_gqa).", "Repeat keys and values for every head.")
    if is_causal and attn_mask is not None:
        raise refused(asked, "it has a mask and is causal.", "Put the causal part into the mask: torch refuses both.")
    if scale is None and query.shape[-1] is None:
        raise refused(asked, "the channels of a head are not known.", "Give the scale.")
    # On the queries, which are fewer than the scores, and before they could overflow in half precision.
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = torch.matmul(query * factor, torch.transpose(key, -2, -1))
    if is_causal:
        weights = torch.softmax(scores + _hidden_future(scores), -1)  # type: ignore[arg-type]
    elif attn_mask is None:
        weights = torch.softmax(scores, -1)
    elif attn_mask.dtype == torch.bool:
        weights = torch.softmax(torch.where(attn_mask, scores, -math.inf), -1)
        weights = torch.where(attn_mask, weights, 0.0)
    else:
        weights = torch.softmax(scores + attn_mask, -1)
    return torch.matmul(weights, value)


def _hidden_future(scores: Any) -> Traced:
    """(queries, keys): minus infinity where the key is later than the query, zero elsewhere."""
    tracer, dtype = scores.tracer, scores.dtype
    square = scores.shape[-2:]
    lengths = tracer.node("Shape", [scores.name], torch.int64, (2,), start=len(scores.shape) - 2)
    nothing = tracer.constant(torch.tensor(-math.inf, dtype=dtype))
    everywhere = tracer.node("Expand", [nothing, lengths.name], dtype, square)
    first = tracer.constant(torch.tensor(1, dtype=torch.int64))
    return traced(tracer.node("Trilu", [everywhere.name, first], dtype, square, upper=1))
