"""How convolutions over one or two axes, pooling, and the norm and the gate between them are written in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trt_svc.graph.traced import Shape, Traced
from trt_svc.graph.writing import axis_of, check_type, refused, traced, weights_of, writes


def _each(value: Any, axes: int) -> list[int]:
    """The number for each axis, from one for all of them or from a list."""
    return [value] * axes if isinstance(value, int) else list(value)


def _geometry(axes: int, kernel: Any, stride: Any, padding: Any, dilation: Any) -> dict[str, list[int]]:
    return {
        "kernel_shape": _each(kernel, axes),
        "strides": _each(stride, axes),
        "pads": _each(padding, axes) * 2,
        "dilations": _each(dilation, axes),
    }


def _lengths(x: Traced, geometry: dict[str, list[int]]) -> Shape:
    """Lengths of what a window makes, where those of `x` are known."""
    columns = zip(x.shape[2:], *[geometry[name] for name in ("kernel_shape", "strides", "dilations")], strict=True)
    return tuple(
        None if n is None else (n + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1
        for (n, kernel, stride, dilation), pad in zip(columns, geometry["pads"], strict=False)
    )


# Convolutions.


@writes(torch.conv1d, F.conv1d, torch.conv2d, F.conv2d)
def convolution(
    x: Traced,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Traced:
    geometry = _geometry(weight.dim() - 2, weight.shape[2:], stride, padding, dilation)
    shape = (x.shape[0], weight.shape[0], *_lengths(x, geometry))
    return x.tracer.node("Conv", [x.name, *weights_of(x, weight, bias)], x.dtype, shape, **geometry, group=groups)


@writes(torch.conv_transpose1d, F.conv_transpose1d, torch.conv_transpose2d, F.conv_transpose2d)
def transposed_convolution(
    x: Traced,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Traced:
    axes = weight.dim() - 2
    geometry = _geometry(axes, weight.shape[2:], stride, padding, dilation)
    behind = _each(output_padding, axes)
    columns = zip(x.shape[2:], *geometry.values(), behind, strict=False)
    lengths = tuple(
        None if n is None else (n - 1) * step - 2 * pad + dilated * (kernel - 1) + more + 1
        for n, kernel, step, pad, dilated, more in columns
    )
    names, shape = [x.name, *weights_of(x, weight, bias)], (x.shape[0], weight.shape[1] * groups, *lengths)
    return x.tracer.node("ConvTranspose", names, x.dtype, shape, **geometry, group=groups, output_padding=behind)


# Pooling.


def _max_pool(axes: int) -> Callable[..., Traced]:
    def write(
        x: Traced,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Traced:
        if ceil_mode or return_indices:
            raise refused("F.max_pool", "it rounds up, or asks for places.", "Pad first, and take the values alone.")
        geometry = _geometry(axes, kernel_size, kernel_size if stride is None else stride, padding, dilation)
        shape = (*x.shape[:2], *_lengths(x, geometry))
        return x.tracer.node("MaxPool", [x.name], x.dtype, shape, **geometry)

    return write


writes(F.max_pool1d, torch.max_pool1d)(_max_pool(1))
writes(F.max_pool2d, torch.max_pool2d)(_max_pool(2))


@writes(F.avg_pool2d)
def avg_pool2d(
    x: Traced,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Traced:
    if ceil_mode or divisor_override is not None:
        raise refused("F.avg_pool2d", "it rounds up, or names a divisor.", "Pad first, and scale the result.")
    geometry = _geometry(2, kernel_size, stride or kernel_size, padding, 1)
    shape = (*x.shape[:2], *_lengths(x, geometry))
    del geometry["dilations"]
    return x.tracer.node("AveragePool", [x.name], x.dtype, shape, **geometry, count_include_pad=int(count_include_pad))


# Between them.


@writes(F.batch_norm)
def batch_norm(
    x: Traced,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Traced:
    """After training: a scale and a shift per channel, which compilers fold into a convolution in front of them."""
    if training:
        raise refused("F.batch_norm", "it takes its statistics from the batch.", "Call eval() on the module.")
    check_type(x, running_mean, running_var, weight, bias)
    scale = (1 if weight is None else weight.double()) / torch.sqrt(running_var.double() + eps)
    shift = (0 if bias is None else bias.double()) - running_mean.double() * scale
    along = (-1, *[1] * (len(x.shape) - 2))
    return x * scale.to(x.dtype).reshape(along) + shift.to(x.dtype).reshape(along)


@writes(F.glu)
def glu(x: Traced, dim: int = -1) -> Traced:
    """The first half of the channels, let through as far as the second half says."""
    axis = axis_of(dim, len(x.shape))
    if x.shape[axis] is None:
        raise refused("F.glu", "the length of the axis that it halves is not known.", "Gate an axis of known length.")
    values, gates = torch.chunk(x, 2, axis)  # type: ignore[arg-type]
    return traced(values * torch.sigmoid(gates))
