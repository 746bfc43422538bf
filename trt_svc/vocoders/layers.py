"""Blocks shared by the HiFi-GAN family. Weight norm is folded before weights get here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trt_svc.vocoders.reach import Reach

LEAKY_SLOPE = 0.1
# The activation in front of conv_post takes PyTorch's default slope upstream, not 0.1.
FINAL_LEAKY_SLOPE = 0.01

Activation = Callable[[int], nn.Module]
"""Makes the activation for a number of channels."""


class Leaky(nn.Module):
    """Leaky ReLU; reaches no neighbouring sample."""

    def __init__(self, slope: float = LEAKY_SLOPE) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.slope)


def same_conv(channels_in: int, channels_out: int, kernel: int, dilation: int = 1, bias: bool = True) -> nn.Conv1d:
    """A convolution that keeps the length (odd kernels)."""
    padding = dilation * (kernel - 1) // 2
    return nn.Conv1d(channels_in, channels_out, kernel, dilation=dilation, padding=padding, bias=bias)


def activation_reach(activation: nn.Module, reach: Reach) -> Reach:
    """Reach behind an activation: anti-aliased ones declare `samples_each_side`."""
    return reach.widen(cast(int, getattr(activation, "samples_each_side", 0)))


class ResBlock1(nn.Module):
    """Per dilation: activation, dilated conv, activation, plain conv, residual."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int], activation: Activation) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(same_conv(channels, channels, kernel, d) for d in dilations)
        self.convs2 = nn.ModuleList(same_conv(channels, channels, kernel) for _ in dilations)
        self.activations = nn.ModuleList(activation(channels) for _ in range(2 * len(dilations)))

    def forward(self, x: Tensor) -> Tensor:
        for i, (conv1, conv2) in enumerate(zip(self.convs1, self.convs2, strict=True)):
            y = conv1(self.activations[2 * i](x))
            x = x + conv2(self.activations[2 * i + 1](y))
        return x

    def reach(self, reach: Reach) -> Reach:
        for i, (conv1, conv2) in enumerate(zip(self.convs1, self.convs2, strict=True)):
            inner = conv_reach(conv1, activation_reach(self.activations[2 * i], reach))
            inner = conv_reach(conv2, activation_reach(self.activations[2 * i + 1], inner))
            reach = reach.union(inner)
        return reach


class ResBlock2(nn.Module):
    """Per dilation: activation, dilated conv, residual."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int], activation: Activation) -> None:
        super().__init__()
        self.convs = nn.ModuleList(same_conv(channels, channels, kernel, d) for d in dilations)
        self.activations = nn.ModuleList(activation(channels) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for conv, activation in zip(self.convs, self.activations, strict=True):
            x = x + conv(activation(x))
        return x

    def reach(self, reach: Reach) -> Reach:
        for conv, activation in zip(self.convs, self.activations, strict=True):
            reach = reach.union(conv_reach(conv, activation_reach(activation, reach)))
        return reach


def conv_reach(conv: nn.Module, reach: Reach) -> Reach:
    conv = cast(nn.Conv1d, conv)
    return reach.conv(conv.kernel_size[0], conv.dilation[0])


def clamp_unit(x: Tensor) -> Tensor:
    return torch.clamp(x, -1.0, 1.0)
