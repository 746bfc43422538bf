"""Torch functions as ONNX: each in a tiny network, equal to torch at every length and batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.golden_svc import fill
from trt_svc.backends.trt_api import PlanOptions, TrtApi, check_header
from trt_svc.build_config import BuildConfig, ShapeRange
from trt_svc.errors import GraphError
from trt_svc.graph.check import cpu_session
from trt_svc.graph.export import export
from trt_svc.graph.model import Graph, GraphInput
from trt_svc.graph.traced import trace
from trt_svc.progress import Quiet
from trt_svc.svc.encoders.base import CONV_REACH_SAMPLES
from trt_svc.svc.encoders.hubert import HubertConfig, HubertNet
from trt_svc.svc.encoders.transformer import LayerSizes
from trt_svc.svc.encoders.whisper import WhisperConfig, WhisperNet

CHANNELS = 6
SHAPES = ((1, 1), (3, 1), (1, 2), (2, 7), (3, 33), (1, 300))
"""(batch, frames)"""
Function = Callable[[Any, Any], Any]


def constant(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Applied(nn.Module):
    """A function of two inputs (batch, 6, frames)."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.function(x, y)


def given(batch: int, frames: int) -> tuple[Tensor, Tensor]:
    """Numbers in steps of an eighth, so that some are equal; y has other ones."""
    x, y = (constant(batch, CHANNELS, frames, seed=100 * frames + batch + s, scale=2.0) for s in (0, 50))
    return (8 * x).round() / 8, (8 * y).round() / 8


def graph_of(net: nn.Module, *examples: Tensor) -> Graph:
    rank = net(*examples).dim()
    inputs = [GraphInput(name, e.shape[1]) for name, e in zip(("x", "y"), examples, strict=False)]
    return export(net, inputs, "made", [f"axis_{i}" for i in range(rank)], {})


def close(made: np.ndarray, expected: Tensor) -> None:
    assert made.shape == tuple(expected.shape)
    assert made.dtype == expected.numpy().dtype
    if expected.dtype.is_floating_point:
        largest = float(expected[expected.isfinite()].abs().max())
        np.testing.assert_allclose(made, expected.numpy(), rtol=1e-4, atol=2e-5 * max(largest, 1e-3))
    else:
        np.testing.assert_array_equal(made, expected.numpy())


def equals_torch(function: Function) -> Graph:
    """The graph of a function, after comparing results, and what the graph knows about them, with torch's."""
    net = Applied(function).eval()
    kinds = dict.fromkeys(("x", "y"), (torch.float32, (None, CHANNELS, None)))
    (known,) = trace(net, kinds)[1]
    graph = graph_of(net, *given(2, 7))
    session = cpu_session(graph, threads=1)
    for batch, frames in SHAPES:
        x, y = given(batch, frames)
        with torch.inference_mode():
            expected = net(x, y)
        asked = {spec.name: value.numpy() for spec, value in zip(graph.inputs, (x, y), strict=True)}
        (made,) = session.run(None, asked)
        close(made, expected)
        assert known.dtype == expected.dtype
        assert len(known.shape) == expected.dim()
        assert all(n in (None, real) for n, real in zip(known.shape, expected.shape, strict=True)), known.shape
    return graph


def whole(x: Any) -> Any:
    """Row numbers 0...4 (int64)."""
    return torch.clamp(torch.abs(x), min=0, max=4).long()


ROW = constant(1, CHANNELS, 1)
SCALE, SHIFT = constant(CHANNELS, seed=1), constant(CHANNELS, seed=2)
TABLE = constant(5, 3, seed=3)
HIDDEN = constant(CHANNELS, CHANNELS, seed=4) > 0
HIDDEN[torch.arange(CHANNELS), torch.arange(CHANNELS)] = True
NOTHING_SEEN = HIDDEN.clone()
NOTHING_SEEN[2] = False


def heads(x: Any) -> Any:
    """(batch, 6, frames) -> (batch, 2 heads, frames, 3)."""
    return torch.unflatten(x, 1, (2, 3)).transpose(2, 3)


def attended(x: Any, y: Any, **options: Any) -> Any:
    return F.scaled_dot_product_attention(heads(x), heads(y), heads(x + y), **options)


def over_channels(x: Any, y: Any, **options: Any) -> Any:
    """Attention between channels, whose number is known: masks may be constants. Heads as wide as there are frames."""
    return F.scaled_dot_product_attention(x, y, x + y, scale=0.3, **options)


ELEMENTWISE: dict[str, Function] = {
    "add alpha": lambda x, y: torch.add(x, y, alpha=2) + torch.sub(1, y, alpha=0.5),
    "min": torch.minimum,
    "div": lambda x, y: 1 / (x * x + 1) + (x / 3) / (y * y + 1),
    "div whole numbers": lambda x, y: whole(x) / 2 + 3 / (whole(y) + 1) + whole(x) / (whole(y) + 1),
    "whole number and fraction": lambda x, y: whole(x) * 0.5 + (torch.gt(x, 0) + 1),
    "constant and whole number": lambda x, y: ROW * whole(x) + torch.tensor(0.25) * whole(y),
    "curves": lambda x, y: torch.log(torch.sqrt(x.square() + 1)) + torch.abs(y),
    "clamp min": lambda x, y: torch.clamp(x, min=-0.5),
    "clamp max": lambda x, y: x.clamp(max=0.5),
    "clamp both": lambda x, y: torch.clamp(x, -0.5, 1.0),
    "clamp whole numbers": lambda x, y: whole(x).clamp(min=1) + whole(x).clamp(max=2.5),
    "long and bool": lambda x, y: x.long() + y.bool().long(),
    "where": lambda x, y: torch.where(torch.gt(x, y), x, y),
    "where numbers": lambda x, y: torch.where(torch.gt(x, 0), 1.5, -math.inf),
    "where whole numbers": lambda x, y: torch.where(torch.gt(x, 0), 1, 0),
    "where number and tensor": lambda x, y: torch.where(torch.gt(x, 0), 0.0, y),
    "where constant": lambda x, y: torch.where(ROW > 0, x, 2),
    "where promotes": lambda x, y: torch.where(torch.gt(x, 0), whole(x), 0.5) + torch.where(torch.lt(x, 0), whole(x), y),
    "where broadcasts": lambda x, y: torch.where(torch.gt(x[:, :1], 0), ROW, y[:, :, :1]),
    "where method": lambda x, y: x.where(torch.gt(y, 0), y),
    "masked_fill": lambda x, y: x.masked_fill(torch.gt(y, 0), -1e4),
    "operators": lambda x, y: (x > y).float() + 2 * (x >= y) + 4 * (x < 0.25).float() + 8 * (y <= ROW).float(),
}  # fmt: skip
COMPARED = {"lt": torch.lt, "le": torch.le, "gt": torch.gt, "ge": torch.ge, "eq": torch.eq, "ne": torch.ne}
for _name, _compare in COMPARED.items():
    ELEMENTWISE |= {
        f"{_name} both": _compare,
        f"{_name} number": lambda x, y, compare=_compare: compare(x, 0.25),
        f"{_name} constant first": lambda x, y, compare=_compare: compare(ROW, x),
        f"{_name} constant second": lambda x, y, compare=_compare: compare(x, ROW),
        f"{_name} whole number": lambda x, y, compare=_compare: compare(whole(x), 1.5),
        f"{_name} whole and float": lambda x, y, compare=_compare: compare(y, whole(x)),
        f"{_name} method": lambda x, y, compare=_compare: getattr(x, compare.__name__)(y),
    }
ELEMENTWISE["reflected"] = lambda x, y: ROW.lt(x).float() + ROW.ge(x).float() + ROW.eq(x).float() + ROW.ne(x).float()

MOVED: dict[str, Function] = {
    "permute": lambda x, y: torch.permute(x, (2, 0, -2)),
    "permute method": lambda x, y: x.permute(1, 2, 0) + y.permute((1, -1, 0)),
    "transpose": lambda x, y: torch.transpose(x, -1, 1) + y.transpose(1, -1),
    "places": lambda x, y: x[:, 2] + x[0, -2] + y[:, :, 0][:, -1:] + y[..., -1][:, :1],
    "new axes": lambda x, y: x[:, None, 1:3] + y[:, 0, None, None] + x[..., None, 0, :1][:, 0:1, None],
    "flip": lambda x, y: torch.flip(x, [1, -1]) + y.flip(0),
    "cat": lambda x, y: torch.cat([x, y], dim=-1),
    "cat channels": lambda x, y: torch.cat((x, y), 1),
    "cat promotes": lambda x, y: torch.cat([whole(x), y], -2),
    "cat constant": lambda x, y: torch.cat([ROW, x[:1, :, :1], ROW], dim=2),
    "stack": lambda x, y: torch.stack([x, y], dim=-1) + torch.stack([y, x], 3),
    "stack in front": lambda x, y: torch.stack([x, y]),
    "unflatten in front of unknown lengths": lambda x, y: x.transpose(1, 2).unsqueeze(3).transpose(1, 2).unflatten(1, (2, -1)),
    "pad": lambda x, y: F.pad(x, (2, 1), value=-1.5) + F.pad(y, (1, 2, 0, 0)),
    "size": lambda x, y: x * x.size(2) + x.size(1),
    "sizes": lambda x, y: x + x.size()[1] * y.size()[-1],
    "arange": lambda x, y: torch.arange(x.size(-1)),
    "arange floats": lambda x, y: torch.arange(0, x.size(2), dtype=torch.float32) * x,
    "arange from": lambda x, y: torch.arange(3, 2 * x.size(2) + 3, 2),
}  # fmt: skip
ROWS: dict[str, Function] = {
    "sum": lambda x, y: torch.sum(x, 1),
    "sum kept": lambda x, y: torch.sum(x, dim=-1, keepdim=True) + y.sum(-2, keepdim=True),
    "sum two": lambda x, y: x.sum((0, -1)),
    "sum all": lambda x, y: torch.sum(x) + y.sum(dim=()),
    "sum all kept": lambda x, y: torch.sum(x, None, True),
    "sum counts": lambda x, y: torch.sum(torch.gt(x, y), dim=2) + whole(x).sum(-1),
    "sum as float": lambda x, y: torch.gt(x, y).sum(-1, dtype=torch.float32),
    "mean": lambda x, y: x - x.mean(-1, keepdim=True) + torch.mean(y, 1, keepdim=True),
    "mean all": lambda x, y: x.mean(),
    "amax": lambda x, y: torch.amax(x, dim=-1) + y.amax((-1,)),
    "amin": lambda x, y: torch.amin(x, (0, 2), keepdim=True),
    "argmin": lambda x, y: torch.argmin(x + 0.01 * ROW, dim=1),
    "argmin kept": lambda x, y: torch.argmin(x + 0.01 * ROW, -2, keepdim=True),
    "argmax": lambda x, y: (x + 0.01 * ROW).argmax(dim=-2),
    "topk values": lambda x, y: torch.topk(x, 3, dim=1)[0],
    "topk places": lambda x, y: torch.topk(x + 0.01 * ROW, 2, dim=-2, largest=False).indices,
    "topk last axis": lambda x, y: x.transpose(1, 2).topk(4).values,
    "embedding": lambda x, y: F.embedding(whole(x), TABLE),
    "embedding of places": lambda x, y: F.embedding(torch.argmin(x + 0.01 * ROW, 1), constant(CHANNELS, 4), padding_idx=0),
    "embedding in a made table": lambda x, y: F.embedding(torch.tensor([[0, 2], [1, 1]]), torch.matmul(x[0], y[0].transpose(0, 1))),
}  # fmt: skip
TRANSFORMERS: dict[str, Function] = {
    "linear": lambda x, y: F.linear(x.transpose(1, 2), TABLE[:, :1].expand(5, CHANNELS), TABLE[:, 1]),
    "linear without bias": lambda x, y: F.linear(x.transpose(1, 2), constant(4, CHANNELS)),
    "linear to one": lambda x, y: F.linear(x.transpose(1, 2), SCALE),
    "linear of four axes": lambda x, y: F.linear(heads(x), constant(4, 3), constant(4)),
    "matmul": lambda x, y: torch.matmul(x, y.transpose(1, 2)) + torch.bmm(x, y.transpose(1, 2)),
    "matmul constant first": lambda x, y: torch.matmul(constant(4, CHANNELS), x),
    "matmul operator": lambda x, y: x.transpose(1, 2) @ constant(CHANNELS, 4) + constant(4, 1).T,
    "matmul operator of two": lambda x, y: x @ y.transpose(1, 2),
    "matmul broadcasts": lambda x, y: torch.matmul(heads(x), constant(2, 3, 5)),
    "matmul vectors": lambda x, y: torch.matmul(SCALE, x) + torch.matmul(y.transpose(1, 2), SCALE),
    "softmax": lambda x, y: torch.softmax(x, dim=-1) + F.softmax(y, dim=1) + y.softmax(2),
    "softmax of whole numbers": lambda x, y: torch.softmax(whole(x), -2, dtype=torch.float32),
    "gelu": lambda x, y: F.gelu(x),
    "gelu tanh": lambda x, y: F.gelu(x, approximate="tanh"),
    "layer_norm": lambda x, y: F.layer_norm(x.transpose(1, 2), (CHANNELS,), SCALE, SHIFT, 1e-3),
    "layer_norm plain": lambda x, y: F.layer_norm(x.transpose(1, 2), (CHANNELS,)),
    "layer_norm without bias": lambda x, y: F.layer_norm(x.transpose(1, 2), (CHANNELS,), SCALE),
    "layer_norm of two axes": lambda x, y: F.layer_norm(x.transpose(1, 2).unflatten(2, (2, 3)), (2, 3), SCALE.reshape(2, 3)),
    "attention": attended,
    "attention scale": lambda x, y: attended(x, y, scale=0.2),
    "attention causal": lambda x, y: attended(x, y, is_causal=True),
    "attention causal, other lengths": lambda x, y: F.scaled_dot_product_attention(x, y[:, :4], y[:, :4], is_causal=True, scale=1.0),
    "attention moving mask": lambda x, y: attended(x, y, attn_mask=torch.matmul(heads(y), heads(x).transpose(2, 3))),
    "attention moving bool mask": lambda x, y: attended(x, y, attn_mask=torch.gt(heads(y)[:, :, :, :1], 0)),
    "attention mask": lambda x, y: over_channels(x, y, attn_mask=constant(CHANNELS, CHANNELS)),
    "attention bool mask": lambda x, y: over_channels(x, y, attn_mask=HIDDEN),
    "attention of queries that see nothing": lambda x, y: over_channels(x, y, attn_mask=NOTHING_SEEN),
    "attention of constant queries": lambda x, y: F.scaled_dot_product_attention(constant(1, 2, CHANNELS), x.transpose(1, 2), y.transpose(1, 2)),
}  # fmt: skip


def image(x: Any) -> Any:
    """(batch, 6, frames) -> (batch, 2, 3, frames + 3)."""
    return longer(torch.unflatten(x, 1, (2, 3)))


def longer(x: Any) -> Any:
    """Three places more. Scaled, because onnxruntime 1.31 fuses padding into pooling that it is too wide for."""
    return 1.5 * F.pad(x, (1, 2))


NORM = {"running_mean": SHIFT, "running_var": constant(CHANNELS, seed=5).abs() + 0.1}
CONVOLUTIONS: dict[str, Function] = {
    "conv1d": lambda x, y: F.conv1d(F.pad(x, (4, 4)), constant(4, 3, 3), constant(4), stride=2, padding=1, dilation=2, groups=2),
    "conv1d of known length": lambda x, y: F.conv1d(x[:, None, :, 0], constant(2, 1, 4), stride=2, padding=2),
    "conv2d": lambda x, y: F.conv2d(image(x), constant(4, 1, 3, 2), constant(4), (1, 2), (2, 1), groups=2),
    "conv2d dilated": lambda x, y: F.conv2d(image(x), constant(4, 2, 2, 2), stride=2, padding=1, dilation=(2, 1)),
    "conv_transpose1d": lambda x, y: F.conv_transpose1d(x, constant(CHANNELS, 2, 4), SCALE[:4], stride=3, padding=1, groups=2),
    "conv_transpose2d": lambda x, y: F.conv_transpose2d(image(x), constant(2, 3, 3, 3), SCALE[:3], 2, 1, 1),
    "conv_transpose2d dilated": lambda x, y: F.conv_transpose2d(image(x), constant(2, 1, 2, 3), None, (1, 2), (1, 0), (0, 1), 2, (3, 1)),
    "max pool": lambda x, y: F.max_pool1d(longer(x), 2) + F.max_pool1d(longer(y), 3, 2, 1)[..., :1],
    "max pool of known length": lambda x, y: F.max_pool1d(x[:, None, :, 0], 2).flatten(1) @ constant(3, 2),
    "max pool of images": lambda x, y: F.max_pool2d(image(x), (2, 1)) + F.max_pool2d(image(y), (2, 3), 1, (0, 1)),
    "avg pool": lambda x, y: F.avg_pool2d(image(x), 2) + F.avg_pool2d(image(y), (3, 2), (1, 2)),
    "avg pool of the padding": lambda x, y: F.avg_pool2d(image(x), 3, 2, 1),
    "avg pool without the padding": lambda x, y: F.avg_pool2d(image(x), 3, 2, 1, count_include_pad=False),
    "batch_norm": lambda x, y: F.batch_norm(x, **NORM, weight=SCALE, bias=SHIFT, eps=1e-3),
    "batch_norm plain": lambda x, y: F.batch_norm(x.unsqueeze(3), **NORM),
    "glu": lambda x, y: F.glu(x, 1) + F.glu(y.transpose(1, 2)).transpose(1, 2),
    "silu": lambda x, y: F.silu(x),
}  # fmt: skip
CASES = ELEMENTWISE | MOVED | ROWS | TRANSFORMERS | CONVOLUTIONS


@pytest.mark.parametrize("name", CASES)
def test_a_function_equals_torchs(name: str) -> None:
    equals_torch(CASES[name])


@pytest.mark.parametrize("groups", [1, 2, 3, CHANNELS])
@pytest.mark.parametrize("weighted", [True, False])
def test_group_norm(groups: int, weighted: bool) -> None:
    weights = (SCALE, SHIFT) if weighted else (None, None)
    net = Applied(lambda x, y: F.group_norm(torch.cat([x, y], 2), groups, *weights, 1e-4))
    assert equals_torch(net.function).op_counts().get("Reshape", 0) == (0 if groups == CHANNELS else 2)


def test_group_norm_of_other_ranks() -> None:
    equals_torch(lambda x, y: F.group_norm(x.mean(2), 2, SCALE, SHIFT))
    products = lambda x, y: torch.matmul(x.unsqueeze(3), y.unsqueeze(2))  # noqa: E731 - (batch, 6, frames, frames)
    equals_torch(lambda x, y: F.group_norm(torch.cat([products(x, y)] * 2, 3), 3, SCALE, SHIFT))


def test_layers_keep_what_they_are_called() -> None:
    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.rows = nn.LayerNorm(CHANNELS), nn.Embedding(5, CHANNELS)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.rows(whole(x)))

    graph = graph_of(Layers(), given(1, 3)[0])
    assert {"norm.weight", "norm.bias", "rows.weight"} <= {t.name for t in graph.model.graph.initializer}


REFUSED: dict[str, tuple[Function, str]] = {
    "rounded division": (lambda x, y: torch.div(x, y, rounding_mode="floor"), "floor"),
    "argmin of everything": (lambda x, y: torch.argmin(x), "names no axis"),
    "axis that is not there": (lambda x, y: torch.sum(x, 3), "axis 3"),
    "softmax without axis": (lambda x, y: F.softmax(x), "names no axis"),
    "dropout": (lambda x, y: attended(x, y, dropout_p=0.1), "10%"),
    "shared keys": (lambda x, y: attended(x, y, enable_gqa=True), "enable_gqa"),
    "two masks": (lambda x, y: attended(x, y, is_causal=True, attn_mask=ROW), "causal"),
    "heads of unknown width": (lambda x, y: F.scaled_dot_product_attention(x, y, y), "Give the scale"),
    "limited rows": (lambda x, y: F.embedding(whole(x), TABLE, max_norm=1.0), "max_norm"),
    "rows by float": (lambda x, y: F.embedding(x, TABLE), "int64"),
    "mixed types": (lambda x, y: F.linear(x.transpose(1, 2).half(), constant(4, CHANNELS)), "strongly typed"),
    "circular padding": (lambda x, y: F.pad(x, (1, 1), mode="circular"), "circular"),
    "rows by brackets": (lambda x, y: x[:, torch.tensor([1, 0])], "indexes with Tensor"),
    "a type without form": (lambda x, y: x.to(torch.int32), "int32"),
    "norm of unknown channels": (lambda x, y: F.group_norm(x.transpose(1, 2), 1), "number of channels"),
    "pooling that rounds up": (lambda x, y: F.max_pool1d(x, 2, ceil_mode=True), "rounds up"),
    "pooling with a divisor": (lambda x, y: F.avg_pool2d(image(x), 2, divisor_override=3), "divisor"),
    "norm in training": (lambda x, y: F.batch_norm(x, **NORM, training=True), "statistics"),
    "gate over time": (lambda x, y: F.glu(x), "not known"),
    "fractional counting": (lambda x, y: torch.arange(0.5, x.size(2)), "whole numbers"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_translation_is_refused(name: str) -> None:
    function, found = REFUSED[name]
    with pytest.raises(GraphError, match=found):
        export(Applied(function), [GraphInput("x", CHANNELS), GraphInput("y", CHANNELS)], "made", ["batch"], {})


# Networks.


SIZES = LayerSizes(heads=2, head_channels=8, inner=24)
BASE: dict[str, Any] = {
    "conv_channels": (8,) * 7, "width": 16, "position_kernel": 16, "position_groups": 4, "layers": (SIZES,) * 2,
}  # fmt: skip
HUBERTS = {
    "base": HubertConfig(**BASE, conv_bias=False, extractor_norm="group", norm_first=False, units=8),
    "large": HubertConfig(**BASE, conv_bias=True, extractor_norm="layer", norm_first=True, normalised_input=True),
    "soft": HubertConfig(**BASE, conv_bias=False, extractor_norm="group", norm_first=False, padding_samples=40),
    "pruned": HubertConfig(
        **BASE | {"layers": (SIZES, LayerSizes(0, 8, 24), LayerSizes(1, 8, 0)), "position_kernel": 15},
        conv_bias=False,
        extractor_norm="group",
        norm_first=False,
        scaled_extractor=True,
    ),
}


@pytest.mark.parametrize("name", HUBERTS)
def test_huberts_export(name: str) -> None:
    net = HubertNet(HUBERTS[name])
    net.load_state_dict(fill(net.state_dict(), 3))
    net.eval().requires_grad_(False)
    graph = export(net, [GraphInput("audio", 1)], "units", ["batch", "channels", "frames"], {})
    session = cpu_session(graph, threads=1)
    for batch, samples in ((1, 16000), (2, 9001), (3, 4000), (2, CONV_REACH_SAMPLES)):
        audio = constant(batch, 1, samples, seed=samples, scale=0.3)
        (made,) = session.run(None, {"audio": audio.numpy()})
        with torch.inference_mode():
            close(made, net(audio))


def test_whisper_exports() -> None:
    net = WhisperNet(WhisperConfig(16, 2, 1))
    net.load_state_dict(fill(net.state_dict(), 3))
    net.eval().requires_grad_(False)
    graph = export(net, [GraphInput("mel", 80)], "units", ["batch", "channels", "frames"], {})
    mel = constant(2, 80, 3000)
    with torch.inference_mode():
        close(cpu_session(graph, threads=1).run(None, {"mel": mel.numpy()})[0], net(mel))


class Everything(nn.Module):
    """One graph with every operation that the functions above are written in."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(CHANNELS, CHANNELS), nn.LayerNorm(CHANNELS)
        self.groups, self.pairs = nn.GroupNorm(CHANNELS, CHANNELS), nn.GroupNorm(3, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.linear.weight.dtype)
        y = self.linear(self.norm(x.transpose(1, 2))).transpose(1, 2)
        y = F.gelu(self.groups(y)) + F.gelu(self.pairs(y), approximate="tanh").flip(1)
        seen = torch.gt(torch.matmul(heads(y), heads(x).transpose(2, 3)), -1)
        for options in ({}, {"is_causal": True}, {"attn_mask": seen}):
            y = y + attended(x, y, **options).transpose(2, 3).flatten(1, 2)
        values, places = torch.topk(y, 3, dim=1, largest=False)
        rows = F.embedding(torch.argmin(y, 1), constant(CHANNELS, CHANNELS)).permute(0, 2, 1)
        rows = rows + torch.sum(F.embedding(places, constant(CHANNELS, CHANNELS)), 1).transpose(1, 2)
        even = torch.eq(whole(x), 2).float() + torch.where(torch.lt(x, y), x, 0.5)
        places = torch.cat([torch.arange(x.size(2)).float() * y[:, :3], values], 1)
        return (rows + even + places + y.amax(1, keepdim=True) - y.mean(2, keepdim=True)).float()


def everything() -> Everything:
    net = Everything()
    net.load_state_dict(fill(net.state_dict(), 1))
    return net.eval().requires_grad_(False)


def test_all_of_them_in_one_network() -> None:
    net = everything()
    session = cpu_session(graph_of(net, given(2, 7)[0]), threads=1)
    for batch, frames in SHAPES[2:]:
        x = given(batch, frames)[0]
        close(session.run(None, {"x": x.numpy()})[0], net(x))


@pytest.mark.parametrize("half", [False, True])
def test_nvidias_compiler_takes_them(half: bool) -> None:
    net = everything().half() if half else everything()
    graph = graph_of(net, given(2, 7)[0])
    sizes = BuildConfig(backend="tensorrt-rtx", frames=(ShapeRange(1, 32, 64),), batch=ShapeRange(1, 1, 2))
    plan = TrtApi.load("tensorrt_rtx").build(graph, sizes.profiles, PlanOptions(("sm89",)), Quiet())
    check_header(plan.data)
