"""What sits between the convolutions of residual blocks and behind their branches, each in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal, overload

import torch
from torch import Tensor
from torch.nn import functional as F

from trt_svc.errors import InputError
from trt_svc.kernels import launch
from trt_svc.kernels.variants import BITS, LANES, Variant, dtype_of, group_for, widest_group

MOST_BRANCHES = 4


def add_leaky(x: Tensor, y: Tensor, slope: float, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(x + y, leaky(x + y)) of tensors (B, C, T): the residual and what the next convolution reads.

    A bias (C,), in x's type, is added where one is given.
    """
    _alike([x, y])
    x, y = x.contiguous(), y.contiguous()
    total, active = torch.empty_like(x), torch.empty_like(x)
    _, channels, length = x.shape
    shift = x if bias is None else bias.to(x).contiguous()
    group = group_for(x.numel() if bias is None else length, x, y, shift, total, active)
    chosen = _add_leaky(dtype_of(x), bias is not None, group)
    lanes = x.numel() // group
    launch.start(chosen, lanes, x, y, shift, lanes, -(-length // group), channels, float(slope), total, active)
    return total, active


@overload
def mean_leaky(branches: Sequence[Tensor], scale: float, slope: float, keep_sum: Literal[False] = False) -> Tensor: ...
@overload
def mean_leaky(
    branches: Sequence[Tensor], scale: float, slope: float, keep_sum: Literal[True]
) -> tuple[Tensor, Tensor]: ...


def mean_leaky(
    branches: Sequence[Tensor], scale: float, slope: float, keep_sum: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """leaky(scale * sum of the branches), with keep_sum (scale * sum, leaky of it); slope 1 makes it the mean alone."""
    _alike(branches)
    parts = [branch.contiguous() for branch in branches]
    while len(parts) > MOST_BRANCHES:
        parts[:2] = [parts[0] + parts[1]]
    if len(parts) == 1:
        mean = parts[0] * scale
        return (mean, F.leaky_relu(mean, slope)) if keep_sum else F.leaky_relu(mean, slope)
    active = torch.empty_like(parts[0])
    mean = torch.empty_like(parts[0]) if keep_sum else active
    group = group_for(active.numel(), *parts, mean, active)
    lanes = active.numel() // group
    four = (parts + [parts[0]] * MOST_BRANCHES)[:MOST_BRANCHES]
    chosen = _mean_leaky(dtype_of(active), len(parts), keep_sum, group)
    launch.start(chosen, lanes, *four, lanes, float(scale), float(slope), mean, active)
    return (mean, active) if keep_sum else active


def reference_add_leaky(x: Tensor, y: Tensor, slope: float, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    total = x + y if bias is None else x + (y + bias[:, None])
    return total, F.leaky_relu(total, slope)


def reference_mean_leaky(branches: Sequence[Tensor], scale: float, slope: float) -> tuple[Tensor, Tensor]:
    """(mean, leaky of it)."""
    mean = sum(branches[1:], start=branches[0]) * scale
    return mean, F.leaky_relu(mean, slope)


def _alike(tensors: Sequence[Tensor]) -> None:
    kinds = {(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors}
    if len(kinds) != 1:
        found = f"shapes, types or devices differ: {sorted(map(str, kinds))}." if kinds else "none were given."
        raise InputError("tensors to add", found, "Give tensors of one shape, type and device.")


@cache
def _add_leaky(dtype: str, biased: bool, group: int) -> Variant:
    pointers, rows = ("x", "y", "bias"), ("lanes", "groups", "channels")
    types = [
        *((name, f"*{dtype}") for name in pointers),
        *((name, "i32") for name in rows),
        ("slope", "fp32"),
        ("total", f"*{dtype}"),
        ("active", f"*{dtype}"),
    ]
    constants = {"BIASED": int(biased), "GROUP": group, "LANES": LANES}
    return Variant("residual_tail", "add_leaky", tuple(types), tuple(constants.items()), dtype, aligned=group > 1)


@cache
def _mean_leaky(dtype: str, branches: int, keeps: bool, group: int) -> Variant:
    types = [
        *((name, f"*{dtype}") for name in ("first", "second", "third", "fourth")),
        ("lanes", "i32"),
        ("scale", "fp32"),
        ("slope", "fp32"),
        ("mean", f"*{dtype}"),
        ("active", f"*{dtype}"),
    ]
    constants = {"BRANCHES": branches, "KEEPS": int(keeps), "GROUP": group, "LANES": LANES}
    return Variant("residual_tail", "mean_leaky", tuple(types), tuple(constants.items()), dtype, aligned=group > 1)


def variants() -> list[Variant]:
    sizes = [(dtype, group) for dtype in BITS for group in (widest_group(dtype), 1)]
    adds = [_add_leaky(dtype, biased, group) for dtype, group in sizes for biased in (False, True)]
    means = [
        _mean_leaky(dtype, branches, keeps, group)
        for dtype, group in sizes
        for branches in range(2, MOST_BRANCHES + 1)
        for keeps in (False, True)
    ]
    return adds + means
