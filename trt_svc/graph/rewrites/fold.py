"""Arithmetic moved from the signal into the weights."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from trt_svc.graph.rewrites.base import Rewrite, replace_modules, rewrites
from trt_svc.vocoders.antialias import NO_DIVISION_BY_ZERO, Snake
from trt_svc.vocoders.base import VocoderNet
from trt_svc.vocoders.trunk import UpsamplingTrunk


class FoldedSnake(nn.Module):
    """x + inverse * sin^2(a x) with both factors ready."""

    def __init__(self, original: Snake) -> None:
        super().__init__()
        a, b = original.scales()
        self.register_buffer("a", a.detach().clone(), persistent=False)
        # Divided in float64: 1 / (b + 1e-9) is then correctly rounded, and never meets half precision.
        inverse = 1.0 / (b.detach().double() + NO_DIVISION_BY_ZERO)
        self.register_buffer("inverse", inverse.float(), persistent=False)
        self.a: Tensor
        self.inverse: Tensor

    def forward(self, x: Tensor) -> Tensor:
        sine = torch.sin(x * self.a)
        return x + sine * sine * self.inverse


@rewrites.register("fold-snake")
class FoldSnake(Rewrite):
    """exp of log-scale parameters and the reciprocal of beta are computed once."""

    name = "fold-snake"

    def applies(self, net: VocoderNet) -> bool:
        return any(type(m) is Snake for m in net.modules())

    def apply(self, net: VocoderNet) -> None:
        replace_modules(net, Snake, FoldedSnake)


@rewrites.register("fold-mean")
class FoldMean(Rewrite):
    """The mean over residual blocks becomes a sum; what follows is scaled instead.

    Leaky ReLU lets a positive factor through, so it goes into the next convolution's weights. A snake lets
    it through as s * snake with alpha and beta scaled by s.
    """

    name = "fold-mean"

    def applies(self, net: VocoderNet) -> bool:
        return isinstance(net, UpsamplingTrunk) and not net.sums_blocks and len(net.config.resblock_kernel_sizes) > 1

    def apply(self, net: VocoderNet) -> None:
        assert isinstance(net, UpsamplingTrunk)
        scale = 1.0 / len(net.config.resblock_kernel_sizes)
        stages = len(net.ups)
        with torch.no_grad():
            for stage in range(1, stages):
                _scale_snake(net.stage_activation(stage), scale)
                net.upsampler(stage).weight.mul_(scale)
            _scale_snake(net.post_activation(), scale)
            net.conv_post.weight.mul_(scale)
        net.sums_blocks = True


def _scale_snake(activation: nn.Module | None, scale: float) -> None:
    if activation is None:
        return
    snake = cast(Snake, activation.act)
    for values in (snake.alpha, snake.beta):
        if values is not None:
            if snake.logscale:
                values.add_(torch.log(torch.tensor(scale)))
            else:
                values.mul_(scale)
