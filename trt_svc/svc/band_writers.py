"""How the band of relative attention is written into a graph: skewing by padding and reshaping, of any length.

Importing this module files the writers. They stay out of `networks.attention`, which must not need a graph.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from trt_svc.graph.traced import Traced
from trt_svc.graph.writing import traced, writes
from trt_svc.svc.networks.attention import FUTURE_SCORE, OFFSETS, WINDOW, hide_future, read_band, spread_band

INT = torch.int64


def _number(x: Traced, op: str, *names: str, **attributes: int) -> str:
    """The name of a length computed in the graph."""
    return x.tracer.node(op, list(names), INT, (1,), **attributes).name


def _frames(x: Traced) -> str:
    return _number(x, "Shape", x.name, start=2, end=3)


@writes(spread_band)
def write_spread_band(band: Traced) -> Traced:
    """(B, heads, T, 9) -> (B, heads, T, T): rows padded to 2T, read again as rows of T + 8, the middle kept."""
    tracer, frames = band.tracer, _frames(band)
    row = _number(band, "Add", frames, tracer.integers([OFFSETS - 1]))
    pads = _number(band, "Concat", tracer.integers([0] * 7), frames, axis=0)
    wide = tracer.node("Pad", [band.name, pads], band.dtype, (None,) * 4, mode="constant")
    flat = tracer.node("Reshape", [wide.name, tracer.integers([0, 0, -1])], band.dtype, (None,) * 3)
    end = _number(band, "Mul", frames, row)
    cut = tracer.node("Slice", [flat.name, tracer.integers([0]), end, tracer.integers([2])], band.dtype, (None,) * 3)
    target = _number(band, "Concat", tracer.integers([0, 0]), frames, row, axis=0)
    square = tracer.node("Reshape", [cut.name, target], band.dtype, (None,) * 4)
    middle = [tracer.integers([WINDOW]), tracer.integers([-WINDOW]), tracer.integers([3])]
    return tracer.node("Slice", [square.name, *middle], band.dtype, (*band.shape[:3], None))


@writes(read_band)
def write_read_band(square: Traced) -> Traced:
    """(B, heads, T, T) -> (B, heads, T, 9): the way back."""
    tracer, frames = square.tracer, _frames(square)
    padded = traced(F.pad(square, (WINDOW, WINDOW)))  # type: ignore[arg-type]
    flat = tracer.node("Reshape", [padded.name, tracer.integers([0, 0, -1])], square.dtype, (None,) * 3)
    pads = _number(square, "Concat", tracer.integers([0] * 5), frames, axis=0)
    longer = tracer.node("Pad", [flat.name, pads], square.dtype, (None,) * 3, mode="constant")
    target = _number(square, "Concat", tracer.integers([0, 0]), frames, tracer.integers([-1]), axis=0)
    wide = tracer.node("Reshape", [longer.name, target], square.dtype, (None,) * 4)
    first = [tracer.integers([0]), tracer.integers([OFFSETS]), tracer.integers([3])]
    return tracer.node("Slice", [wide.name, *first], square.dtype, (*square.shape[:3], OFFSETS))


@writes(hide_future)
def write_hide_future(scores: Traced) -> Traced:
    """Scores (B, heads, T, T) with those of later keys made negligible."""
    tracer = scores.tracer
    count = tracer.node("Squeeze", [_frames(scores)], INT, ()).name
    start, step = tracer.constant(torch.tensor(0)), tracer.constant(torch.tensor(1))
    keys = tracer.node("Range", [start, count, step], INT, (None,)).name
    queries = tracer.node("Unsqueeze", [keys, tracer.integers([1])], INT, (None, 1)).name
    later = tracer.node("Greater", [keys, queries], torch.bool, (None, None)).name
    fill = tracer.constant(torch.tensor(FUTURE_SCORE, dtype=scores.dtype))
    return tracer.node("Where", [later, fill, scores.name], scores.dtype, scores.shape)
