"""BigVGAN's anti-aliased activation as one operation: upsampled, bent and brought down in one pass over memory.

On torch, and in runtimes without a kernel for it, it is the two-phase form. It computes in float32 and takes and
gives whatever type its neighbours have, so a half-precision graph needs no casts around it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import onnx
import torch
from onnx import parser
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

from trt_svc.graph.custom import ANTIALIASED_SNAKE, DOMAIN, defines
from trt_svc.graph.rewrites.base import Rewrite, replace_modules, rewrites
from trt_svc.graph.rewrites.fold import FoldedSnake
from trt_svc.graph.rewrites.two_phase import REACH, phase_taps
from trt_svc.graph.traced import Traced
from trt_svc.graph.writing import writes
from trt_svc.vocoders.antialias import AntiAliasedSnake
from trt_svc.vocoders.base import VocoderNet

FUNCTION = """
<domain: "{domain}", opset_import: ["" : {opset}]>
{operation} <aot, plugin_namespace> (x, a, inverse) => (y)
{{
    shape = Shape (x)
    front = Shape <start = 0, end = 2> (x)
    time = Shape <start = 2, end = 3> (x)
    rest = Constant <value = int64[1] {{-1}}> ()
    all_by_1 = Constant <value = int64[2] {{-1, 1}}> ()
    all_by_2 = Constant <value = int64[2] {{-1, 2}}> ()
    wide = Cast <to = 1> (x)
    row_shape = Concat <axis = 0> (all_by_1, time)
    rows = Reshape (wide, row_shape)
    reach = Constant <value = int64[6] {{0, 0, {reach}, 0, 0, {reach}}}> ()
    padded = Pad <mode = "edge"> (rows, reach)
    up = Constant <value = float[2,1,7] {{{up}}}> ()
    phases = Conv (padded, up)
    channel_shape = Concat <axis = 0> (front, rest)
    values = Reshape (phases, channel_shape)
    last_axis = Constant <value = int64[1] {{1}}> ()
    a_column = Unsqueeze (a, last_axis)
    inverse_column = Unsqueeze (inverse, last_axis)
    angle = Mul (values, a_column)
    sine = Sin (angle)
    square = Mul (sine, sine)
    bend = Mul (square, inverse_column)
    bent = Add (values, bend)
    pair_shape = Concat <axis = 0> (all_by_2, time)
    pairs = Reshape (bent, pair_shape)
    axes = Constant <value = int64[2] {{1, 2}}> ()
    first_start = Constant <value = int64[2] {{0, 0}}> ()
    first_end = Constant <value = int64[2] {{1, 1}}> ()
    last_start = Constant <value = int64[2] {{1, -1}}> ()
    last_end = Constant <value = int64[2] {{2, 9223372036854775807}}> ()
    first_even = Slice (pairs, first_start, first_end, axes)
    last_odd = Slice (pairs, last_start, last_end, axes)
    before = Concat <axis = 1> (first_even, first_even)
    after = Concat <axis = 1> (last_odd, last_odd)
    continued = Concat <axis = 2> ({before}, pairs, {after})
    down = Constant <value = float[1,2,7] {{{down}}}> ()
    filtered = Conv (continued, down)
    narrow = Reshape (filtered, shape)
    y = CastLike (narrow, x)
}}
"""
"""Rows are all channels of a batch; each has two phases between the convolutions."""


@cache
def filters() -> tuple[Tensor, Tensor]:
    """Weights of the way up (2, 1, 7), even and odd, and of the way down (1, 2, 7)."""
    up_even, up_odd, down_even, down_odd = phase_taps()
    return torch.stack([up_even, up_odd])[:, None], torch.stack([down_even, down_odd])[None]


def antialiased_snake(x: Tensor, a: Tensor, inverse: Tensor) -> Tensor:
    """x + inverse * sin^2(a x) per channel at twice the rate, in float32; x (B, C, T) of any float type."""
    if has_torch_function_unary(x):
        written: Tensor = handle_torch_function(antialiased_snake, (x,), x, a, inverse)
        return written
    up, down = (taps.to(x.device) for taps in filters())
    batch, channels, samples = x.shape
    rows = x.float().reshape(batch * channels, 1, samples)
    phases = F.conv1d(F.pad(rows, (REACH, REACH), mode="replicate"), up).reshape(batch, channels, 2 * samples)
    sine = torch.sin(phases * a[:, None])
    pairs = (phases + sine * sine * inverse[:, None]).reshape(batch * channels, 2, samples)
    before, after = pairs[:, :1, :1].expand(-1, 2, REACH), pairs[:, 1:, -1:].expand(-1, 2, REACH)
    made = F.conv1d(torch.cat([before, pairs, after], dim=-1), down)
    return made.reshape(x.shape).to(x.dtype)


@writes(antialiased_snake)
def antialiased_snake_node(x: Traced, a: Tensor, inverse: Tensor) -> Traced:
    """One node; the two attributes are what TensorRT's parser looks for."""
    constants = [x.tracer.constant(a), x.tracer.constant(inverse)]
    attributes: dict[str, Any] = {"domain": DOMAIN, "plugin_namespace": DOMAIN, "aot": 1}
    return x.tracer.node(ANTIALIASED_SNAKE, [x.name, *constants], x.dtype, x.shape, **attributes)


@defines(ANTIALIASED_SNAKE)
def antialiased_snake_function(opset: int) -> onnx.FunctionProto:
    """The two-phase form, even and odd as two channels of one convolution."""
    up, down = (", ".join(repr(tap) for tap in taps.flatten().tolist()) for taps in filters())
    before, after = (", ".join([name] * REACH) for name in ("before", "after"))
    return parser.parse_function(
        FUNCTION.format(
            domain=DOMAIN,
            operation=ANTIALIASED_SNAKE,
            opset=opset,
            reach=REACH,
            up=up,
            down=down,
            before=before,
            after=after,
        )
    )


class PluginSnake(nn.Module):
    """The anti-aliased activation as one operation."""

    samples_each_side = 5
    float32_inside = True

    def __init__(self, original: AntiAliasedSnake) -> None:
        super().__init__()
        act = original.act
        folded = act if isinstance(act, FoldedSnake) else FoldedSnake(act)
        self.register_buffer("a", folded.a.flatten().clone(), persistent=False)
        self.register_buffer("inverse", folded.inverse.flatten().clone(), persistent=False)
        self.a: Tensor
        self.inverse: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return antialiased_snake(x, self.a, self.inverse)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PluginSnake:
        """Moves with its network, but stays float32 where the network is made half precision."""
        device = fn(self.a).device
        self.a, self.inverse = self.a.to(device), self.inverse.to(device)
        return self


@rewrites.register("plugin-snake")
class PluginSnakeRewrite(Rewrite):
    name = "plugin-snake"
    excludes: ClassVar[tuple[str, ...]] = ("two-phase-conv", "two-phase-slices")
    needs_plugin = True

    def applies(self, net: VocoderNet) -> bool:
        return any(type(m) is AntiAliasedSnake for m in net.modules())

    def apply(self, net: VocoderNet) -> None:
        replace_modules(net, AntiAliasedSnake, PluginSnake)
