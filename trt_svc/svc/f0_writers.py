"""How RMVPE's recurrent layer, and filling up and cutting to any length, are written into a graph.

Importing this module files the writers. They stay out of the networks, which must not need a graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trt_svc.features.f0.networks.rmvpe import both_ways, cut_as, filled_up
from trt_svc.graph.traced import Traced
from trt_svc.graph.writing import check_type, traced, writes

INT = torch.int64
GATES = (1, 0, 2)
"""ONNX's order (update, reset, new) by torch's (reset, update, new)."""


@writes(both_ways)
def write_both_ways(x: Traced, gru: nn.GRU) -> Traced:
    """One GRU operation over (T, B, width), its two directions side by side again."""
    weights = {name: gru.get_parameter(name) for name in gru._flat_weights_names}
    check_type(x, *weights.values())
    tracer, width = x.tracer, gru.hidden_size
    held = [_both(weights, f"weight_{kind}_l0", width) for kind in ("ih", "hh")]
    bias = torch.cat([_both(weights, f"bias_{kind}_l0", width) for kind in ("ih", "hh")], 1)
    in_order = traced(x.transpose(0, 1))
    names = [in_order.name, *[tracer.constant(value) for value in (*held, bias)]]
    shape = (x.shape[1], 2, x.shape[0], width)
    # torch adds the second bias before the reset gate closes.
    made = tracer.node(
        "GRU", names, x.dtype, shape, hidden_size=width, direction="bidirectional", linear_before_reset=1
    )
    return traced(made.permute(2, 0, 1, 3).flatten(2))


def _both(weights: Mapping[str, Tensor], name: str, width: int) -> Tensor:
    """(2 directions, 3 gates x width, ...) in ONNX's order of gates."""

    def ordered(value: Tensor) -> Tensor:
        gates = torch.split(value, width)
        return torch.cat([gates[gate] for gate in GATES])

    return torch.stack([ordered(weights[name]), ordered(weights[f"{name}_reverse"])])


@writes(filled_up)
def write_filled_up(x: Traced, multiple: int) -> Traced:
    tracer, length, step = x.tracer, _length(x), x.tracer.integers([multiple])

    def number(op: str, *names: str) -> str:
        return tracer.node(op, list(names), INT, (1,)).name

    steps = number("Div", number("Add", length, tracer.integers([multiple - 1])), step)
    missing = number("Sub", number("Mul", steps, step), length)
    pads = tracer.node("Concat", [tracer.integers([0] * 5), missing], INT, (6,), axis=0).name
    return tracer.node("Pad", [x.name, pads], x.dtype, (*x.shape[:2], None), mode="constant")


@writes(cut_as)
def write_cut_as(x: Traced, like: Traced) -> Traced:
    tracer = x.tracer
    names = [x.name, tracer.integers([0]), _length(like), tracer.integers([2])]
    return tracer.node("Slice", names, x.dtype, (*x.shape[:2], like.shape[2]))


def _length(x: Traced) -> str:
    return x.tracer.node("Shape", [x.name], INT, (1,), start=2, end=3).name
