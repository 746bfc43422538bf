"""Windows in front of a function whose reach is known exactly: a plain moving sum."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trt_svc.arrays import joined
from trt_svc.errors import ShapeRangeError
from trt_svc.windows import Bounds, Pending, Span, Windows

HOP = 3


def summed(x: np.ndarray, left: int, right: int) -> np.ndarray:
    """Each tick summed over its context, zeros beyond the ends, three samples per tick."""
    padded = np.pad(x, ((0, 0), (0, 0), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, left + right + 1, axis=2)
    return np.repeat(windows.sum(axis=(1, 3)), HOP, axis=1)


def fed(x: np.ndarray, sizes: list[int], left: int, right: int, bounds: Bounds, step: int = 1) -> tuple[Any, list[int]]:
    lengths = []

    def run(inputs: dict[str, Any]) -> Pending:
        lengths.append(inputs["x"].shape[2])
        made = summed(np.asarray(inputs["x"]), left, right)
        return lambda: made

    windows = Windows(Span({"x": Fraction(1)}, Fraction(HOP), left, right, step), run, lambda: bounds)
    made, at = [], 0
    for size in sizes:
        made += windows.push({"x": x[:, :, at : at + size]})
        at += size
    made += windows.push({"x": x[:, :, at:]}, last=True)
    return joined(made), lengths


@given(st.data())
def test_any_pieces_and_any_bounds_give_the_whole(data: st.DataObject) -> None:
    frames = data.draw(st.integers(1, 60), "frames")
    left, right = data.draw(st.integers(0, 6), "left"), data.draw(st.integers(0, 6), "right")
    step = data.draw(st.sampled_from([1, 2, 3]), "step")
    most = data.draw(st.none() | st.integers(left + right + 2 * step, 40), "most")
    least = data.draw(st.integers(1, most or 12), "least")
    sizes = data.draw(st.lists(st.integers(0, 15), max_size=12), "sizes")
    x = np.random.default_rng(0).integers(-9, 9, (2, 3, frames)).astype(np.float64)
    made, lengths = fed(x, sizes, left, right, Bounds(most, least), step)
    assert np.array_equal(made, summed(x, left, right))
    assert most is None or max(lengths) <= most
    # Real context makes short windows long enough, wherever the utterance itself is.
    assert frames < least or min(lengths) > least - step


def test_a_window_too_small_for_its_context_is_refused() -> None:
    with pytest.raises(ShapeRangeError, match="at least 11 frames"):
        fed(np.zeros((1, 1, 50)), [], 5, 5, Bounds(10))


def test_tensors_stay_tensors() -> None:
    def run(inputs: dict[str, Any]) -> Pending:
        assert isinstance(inputs["x"], torch.Tensor)
        made = torch.from_numpy(summed(inputs["x"].numpy(), 1, 1))
        return lambda: made

    windows = Windows(Span({"x": Fraction(1)}, Fraction(HOP), 1, 1), run, Bounds)
    x = torch.arange(12.0).reshape(1, 1, 12)
    made = joined([*windows.push({"x": x[..., :5]}), *windows.push({"x": x[..., 5:]}, last=True)])
    assert torch.equal(made, torch.from_numpy(summed(x.numpy(), 1, 1)))


def test_memory_holds_the_context_only() -> None:
    windows = Windows(Span({"x": Fraction(1)}, Fraction(1), 4, 4), lambda inputs: lambda: inputs["x"][:, 0], Bounds)
    for _ in range(200):
        windows.push({"x": np.zeros((1, 1, 10))})
    kept = windows._kept["x"]
    assert kept.shape[2] <= 8 + 10
    assert kept.base is None
    assert windows.redundancy == pytest.approx(1.8, abs=0.05)
