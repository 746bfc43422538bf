"""CREPE with a sixth of the multiplications: its long convolutions as products of spectra.

Kernels of 64 taps over rows of 8 to 128 samples are products of their spectra, of lengths at which nothing wraps into
what is kept. The transforms are matrix products with tables of sines, so that every runtime has them; what is left per
frequency is a product of matrices over all windows of a run.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trt_svc.features.f0.networks.crepe import LAYERS, WINDOW_SAMPLES, Crepe

BEFORE, AFTER = 31, 32
"""Zeros that the network puts around its rows."""
PHASES = 4
"""The first convolution's step: its samples are sorted by their place within a step."""


class SpectralConv(nn.Module):
    """A convolution (B, channels, length) -> (B, channels out, length) of one length, kernel 64."""

    table: Tensor
    weight: Tensor
    inverse: Tensor

    def __init__(self, conv: nn.Conv2d, length: int) -> None:
        super().__init__()
        before, after = min(BEFORE, length - 1), min(AFTER, length - 1)
        # Taps that only ever meet zeros are left out.
        kernel = conv.weight.detach()[:, :, BEFORE - before : BEFORE + after + 1, 0]
        size = length + max(before, after)
        size += size % 2
        angles = 2 * math.pi / size * torch.arange(size // 2 + 1, dtype=torch.float64)
        self.bins, self.channels = len(angles), kernel.shape[0]
        self.register_buffer("table", _waves(torch.arange(length), angles).float())
        spectrum = torch.fft.rfft(kernel, size).conj().permute(2, 1, 0)
        self.register_buffer("weight", _as_real(spectrum).contiguous())
        share = torch.full((self.bins, 1), 2 / size, dtype=torch.float64)
        share[0] = share[-1] = 1 / size
        back = _waves(torch.arange(length) - before, angles).T
        self.register_buffer("inverse", (torch.cat([share, share]) * back).float().contiguous())
        self.register_buffer("bias", cast(Tensor, conv.bias).detach()[:, None].clone())

    def forward(self, x: Tensor) -> Tensor:
        spectra = torch.matmul(x, self.table)  # (B, channels, real parts then imaginary ones)
        by_bin = torch.unflatten(spectra, 2, (2, self.bins)).permute(3, 0, 2, 1).flatten(2, 3)
        made = torch.unflatten(torch.matmul(by_bin, self.weight), 2, (2, self.channels))
        return torch.matmul(made.permute(1, 3, 2, 0).flatten(2, 3), self.inverse) + cast(Tensor, self.bias)


class SpectralCrepe(nn.Module):
    """Normalised windows (B, 1024) -> salience (B, 360), as `Crepe` but for rounding."""

    def __init__(self, net: Crepe) -> None:
        super().__init__()
        first = cast(nn.Conv2d, net.conv1)
        kernel = torch.unflatten(first.weight.detach()[:, 0, :, 0], 1, (-1, PHASES)).transpose(1, 2)
        self.first = nn.Conv1d(PHASES, kernel.shape[0], kernel.shape[2])
        self.first.load_state_dict({"weight": kernel.contiguous(), "bias": cast(Tensor, first.bias).detach()})
        lengths = [WINDOW_SAMPLES // PHASES // 2**i for i in range(1, LAYERS)]
        self.convs = nn.ModuleList(
            SpectralConv(cast(nn.Conv2d, net.get_submodule(f"conv{i + 2}")), length) for i, length in enumerate(lengths)
        )
        self.norms = nn.ModuleList(net.get_submodule(f"conv{i}_BN") for i in range(1, LAYERS + 1))
        self.classifier = net.classifier
        self.requires_grad_(False)

    def forward(self, windows: Tensor) -> Tensor:
        rows = torch.unflatten(F.pad(windows, (254, 254)), 1, (-1, PHASES)).transpose(1, 2)
        x = self._settled(0, self.first(rows))
        for i, conv in enumerate(self.convs, start=1):
            x = self._settled(i, conv(x))
        return torch.sigmoid(self.classifier(x.transpose(1, 2).flatten(1)))

    def _settled(self, layer: int, x: Tensor) -> Tensor:
        return F.max_pool1d(self.norms[layer](F.relu(x)), 2)


def _waves(places: Tensor, angles: Tensor) -> Tensor:
    """(places, cosines then minus sines)"""
    turns = places.double()[:, None] * angles
    return torch.cat([turns.cos(), -turns.sin()], dim=1)


def _as_real(spectrum: Tensor) -> Tensor:
    """Complex (bins, in, out) -> real (bins, 2 in, 2 out), which does to stacked parts what it does to numbers."""
    top = torch.cat([spectrum.real, spectrum.imag], dim=2)
    return torch.cat([top, torch.cat([-spectrum.imag, spectrum.real], dim=2)], dim=1)
