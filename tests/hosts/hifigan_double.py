"""Stands in for HiFi-GAN's `models.Generator`: same names, layers, calls and quirks."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import remove_weight_norm, weight_norm

BANDS = 80
"""Hard-wired there, whatever the config says."""
V1 = {
    "resblock": "1",
    "upsample_rates": [8, 8, 2, 2],
    "upsample_kernel_sizes": [16, 16, 4, 4],
    "upsample_initial_channel": 32,
    "resblock_kernel_sizes": [3, 7],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
    "num_mels": 80,
    "hop_size": 256,
    "n_fft": 1024,
    "win_size": 1024,
    "sampling_rate": 22050,
    "fmin": 0,
    "fmax": 8000,
    "dist_config": {"dist_backend": "nccl"},
}
V3 = V1 | {
    "resblock": "2",
    "upsample_rates": [8, 8, 4],
    "upsample_kernel_sizes": [16, 16, 8],
    "resblock_kernel_sizes": [3, 5],
    "resblock_dilation_sizes": [[1, 2], [2, 6]],
}


class AttrDict(dict[str, Any]):
    """Its keys are its attributes too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.__dict__ = self


def normed(layer: nn.Module) -> nn.Module:
    """Under the old weight norm, which hosts still use: weight_g and weight_v."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return weight_norm(layer)


def same_length(channels: int, kernel: int, dilation: int) -> nn.Module:
    return normed(nn.Conv1d(channels, channels, kernel, 1, dilation=dilation, padding=(kernel - 1) * dilation // 2))


class ResBlock1(nn.Module):
    def __init__(self, h: Any, channels: int, kernel: int, dilations: list[int]) -> None:
        super().__init__()
        self.h = h
        self.convs1 = nn.ModuleList(same_length(channels, kernel, d) for d in dilations)
        self.convs2 = nn.ModuleList(same_length(channels, kernel, 1) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for one, two in zip(self.convs1, self.convs2, strict=True):
            x = two(F.leaky_relu(one(F.leaky_relu(x, 0.1)), 0.1)) + x
        return x

    def remove_weight_norm(self) -> None:
        for layer in (*self.convs1, *self.convs2):
            remove_weight_norm(layer)


class ResBlock2(nn.Module):
    def __init__(self, h: Any, channels: int, kernel: int, dilations: list[int]) -> None:
        super().__init__()
        self.h = h
        self.convs = nn.ModuleList(same_length(channels, kernel, d) for d in dilations[:2])

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(F.leaky_relu(x, 0.1)) + x
        return x

    def remove_weight_norm(self) -> None:
        for layer in self.convs:
            remove_weight_norm(layer)


class Generator(nn.Module):
    def __init__(self, h: Any) -> None:
        super().__init__()
        self.h = h
        self.num_kernels = len(h.resblock_kernel_sizes)
        self.num_upsamples = len(h.upsample_rates)
        channels = h.upsample_initial_channel
        self.conv_pre = normed(nn.Conv1d(BANDS, channels, 7, 1, padding=3))
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        block = ResBlock1 if h.resblock == "1" else ResBlock2
        for rate, kernel in zip(h.upsample_rates, h.upsample_kernel_sizes, strict=True):
            up = nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding=(kernel - rate) // 2)
            channels //= 2
            self.ups.append(normed(up))
            for size, dilations in zip(h.resblock_kernel_sizes, h.resblock_dilation_sizes, strict=True):
                self.resblocks.append(block(h, channels, size, dilations))
        self.conv_post = normed(nn.Conv1d(channels, 1, 7, 1, padding=3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pre(x)
        for i in range(self.num_upsamples):
            x = self.ups[i](F.leaky_relu(x, 0.1))
            blocks = self.resblocks[i * self.num_kernels : (i + 1) * self.num_kernels]
            x = sum(block(x) for block in blocks) / self.num_kernels
        return torch.tanh(self.conv_post(F.leaky_relu(x)))  # the last slope is torch's own

    def remove_weight_norm(self) -> None:
        for layer in (*self.ups, self.conv_pre, self.conv_post):
            remove_weight_norm(layer)
        for block in self.resblocks:
            block.remove_weight_norm()
