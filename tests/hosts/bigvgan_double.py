"""Stands in for NVIDIA's `bigvgan.BigVGAN`: same names, layers, calls and quirks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import remove_weight_norm

from tests.hosts.hifigan_double import AttrDict, normed, same_length
from trt_svc.vocoders.antialias import kaiser_lowpass

__all__ = ["V1", "V2", "AttrDict", "BigVGAN"]

V1 = {
    "resblock": "1",
    "upsample_rates": [4, 4, 2],
    "upsample_kernel_sizes": [8, 8, 4],
    "upsample_initial_channel": 32,
    "resblock_kernel_sizes": [3, 7],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
    "activation": "snake",
    "snake_logscale": True,
    "num_mels": 24,
    "hop_size": 32,
    "n_fft": 128,
    "win_size": 128,
    "sampling_rate": 24000,
    "fmin": 0,
    "fmax": None,
}
V2 = V1 | {"activation": "snakebeta", "use_tanh_at_final": False, "use_bias_at_final": False}


class Snake(nn.Module):
    def __init__(self, channels: int, alpha_logscale: bool) -> None:
        super().__init__()
        self.alpha_logscale = alpha_logscale
        self.alpha = nn.Parameter(torch.zeros(channels) if alpha_logscale else torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        a, b = (self._scale(value) for value in (self.alpha, getattr(self, "beta", self.alpha)))
        return x + (1.0 / (b + 1e-9)) * torch.sin(x * a).square()

    def _scale(self, value: Tensor) -> Tensor:
        value = value[None, :, None]
        return value.exp() if self.alpha_logscale else value


class SnakeBeta(Snake):
    def __init__(self, channels: int, alpha_logscale: bool) -> None:
        super().__init__(channels, alpha_logscale)
        self.beta = nn.Parameter(self.alpha.detach().clone())


class UpSample1d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", kaiser_lowpass()[None, None])

    def forward(self, x: Tensor) -> Tensor:
        taps = self.filter.expand(x.shape[1], -1, -1)
        return 2 * F.conv_transpose1d(F.pad(x, (5, 5), "replicate"), taps, stride=2, groups=x.shape[1])[..., 15:-15]


class LowPassFilter1d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", kaiser_lowpass()[None, None])

    def forward(self, x: Tensor) -> Tensor:
        taps = self.filter.expand(x.shape[1], -1, -1)
        return F.conv1d(F.pad(x, (5, 6), "replicate"), taps, stride=2, groups=x.shape[1])


class DownSample1d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lowpass = LowPassFilter1d()

    def forward(self, x: Tensor) -> Tensor:
        return self.lowpass(x)


class Activation1d(nn.Module):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.act = activation
        self.upsample, self.downsample = UpSample1d(), DownSample1d()

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.act(self.upsample(x)))


def bent(h: Any, channels: int) -> Activation1d:
    return Activation1d((Snake if h.activation == "snake" else SnakeBeta)(channels, h.snake_logscale))


class AMPBlock1(nn.Module):
    def __init__(self, h: Any, channels: int, kernel: int, dilations: list[int]) -> None:
        super().__init__()
        self.h = h
        self.convs1 = nn.ModuleList(same_length(channels, kernel, d) for d in dilations)
        self.convs2 = nn.ModuleList(same_length(channels, kernel, 1) for _ in dilations)
        self.activations = nn.ModuleList(bent(h, channels) for _ in range(2 * len(dilations)))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.activations[::2], self.activations[1::2]
        for one, two, act1, act2 in zip(self.convs1, self.convs2, first, second, strict=True):
            x = two(act2(one(act1(x)))) + x
        return x

    def remove_weight_norm(self) -> None:
        for layer in (*self.convs1, *self.convs2):
            remove_weight_norm(layer)


class AMPBlock2(nn.Module):
    def __init__(self, h: Any, channels: int, kernel: int, dilations: list[int]) -> None:
        super().__init__()
        self.h = h
        self.convs = nn.ModuleList(same_length(channels, kernel, d) for d in dilations)
        self.activations = nn.ModuleList(bent(h, channels) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for conv, act in zip(self.convs, self.activations, strict=True):
            x = conv(act(x)) + x
        return x

    def remove_weight_norm(self) -> None:
        for layer in self.convs:
            remove_weight_norm(layer)


class BigVGAN(nn.Module):
    def __init__(self, h: Any, use_cuda_kernel: bool = False) -> None:
        super().__init__()
        self.h = h
        self.h["use_cuda_kernel"] = use_cuda_kernel
        self.num_kernels = len(h.resblock_kernel_sizes)
        self.num_upsamples = len(h.upsample_rates)
        channels = h.upsample_initial_channel
        self.conv_pre = normed(nn.Conv1d(h.num_mels, channels, 7, 1, padding=3))
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        block = AMPBlock1 if h.resblock == "1" else AMPBlock2
        for rate, kernel in zip(h.upsample_rates, h.upsample_kernel_sizes, strict=True):
            up = nn.ConvTranspose1d(channels, channels // 2, kernel, rate, padding=(kernel - rate) // 2)
            channels //= 2
            self.ups.append(nn.ModuleList([normed(up)]))
            for size, dilations in zip(h.resblock_kernel_sizes, h.resblock_dilation_sizes, strict=True):
                self.resblocks.append(block(h, channels, size, dilations))
        self.activation_post = bent(h, channels)
        self.use_bias_at_final = h.get("use_bias_at_final", True)
        self.conv_post = normed(nn.Conv1d(channels, 1, 7, 1, padding=3, bias=self.use_bias_at_final))
        self.use_tanh_at_final = h.get("use_tanh_at_final", True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pre(x)
        for i in range(self.num_upsamples):
            for up in self.ups[i]:
                x = up(x)
            blocks = self.resblocks[i * self.num_kernels : (i + 1) * self.num_kernels]
            x = sum(block(x) for block in blocks) / self.num_kernels
        x = self.conv_post(self.activation_post(x))
        return torch.tanh(x) if self.use_tanh_at_final else torch.clamp(x, min=-1.0, max=1.0)

    def remove_weight_norm(self) -> None:
        """Twice is no mistake there."""
        try:
            for layer in (*(up for ups in self.ups for up in ups), self.conv_pre, self.conv_post):
                remove_weight_norm(layer)
            for block in self.resblocks:
                block.remove_weight_norm()
        except ValueError:
            pass
