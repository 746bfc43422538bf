"""Transposed convolutions as convolutions whose output channels are interleaved in time."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trt_svc.graph.rewrites.base import Rewrite, replace_modules, rewrites
from trt_svc.vocoders.base import VocoderNet


class InterleavedConv(nn.Module):
    """Output sample q * stride + r is a short convolution of its own; all r are computed by one Conv."""

    def __init__(self, original: nn.ConvTranspose1d) -> None:
        super().__init__()
        kernel, stride, padding = original.kernel_size[0], original.stride[0], cast(int, original.padding[0])
        self.kernel_size, self.stride, self.padding = (kernel,), (stride,), (padding,)
        shifts = [
            m for m in range(-kernel, kernel) if any(0 <= m * stride + r + padding < kernel for r in range(stride))
        ]
        earliest, latest = max(shifts), min(shifts)
        weight = original.weight.detach()  # (in, out, kernel)
        phases = weight.new_zeros(weight.shape[1], stride, weight.shape[0], earliest - latest + 1)
        for r in range(stride):
            for m in range(latest, earliest + 1):
                tap = m * stride + r + padding
                if 0 <= tap < kernel:
                    phases[:, r, :, earliest - m] = weight[:, :, tap].T
        self.channels, self.pads = weight.shape[1], (earliest, -latest)
        self.weight = nn.Parameter(phases.flatten(0, 1), requires_grad=False)
        bias = original.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().repeat_interleave(stride), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        phases = F.conv1d(F.pad(x, self.pads), self.weight, self.bias)
        apart: Tensor = torch.unflatten(phases, 1, (self.channels, self.stride[0]))
        return apart.transpose(2, 3).flatten(2, 3)


@rewrites.register("upsample-as-conv")
class UpsampleAsConv(Rewrite):
    name = "upsample-as-conv"

    def applies(self, net: VocoderNet) -> bool:
        return any(_fits(m) for m in net.modules())

    def apply(self, net: VocoderNet) -> None:
        replace_modules(net, nn.ConvTranspose1d, lambda m: InterleavedConv(m) if _fits(m) else m)


def _fits(module: nn.Module) -> bool:
    """Only where the length is exactly stride times the input's, and not WaveGlow's 1024-tap upsampler."""
    if type(module) is not nn.ConvTranspose1d or module.groups != 1:
        return False
    kernel, stride, padding = module.kernel_size[0], module.stride[0], cast(int, module.padding[0])
    return kernel - stride == 2 * padding and kernel <= 64 and torch.is_floating_point(module.weight)
