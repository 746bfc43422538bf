"""The anti-aliased snake activation of BigVGAN and so-vits' snake decoder.

x is upsampled by two with a 12-tap Kaiser low-pass, bent by the snake, and brought back down with
the same filter, so the harmonics that the bend makes above the Nyquist rate never fold back.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TAPS = 12
HALF_WIDTH = 0.3
CUTOFF = 0.25
NO_DIVISION_BY_ZERO = 1e-9


def kaiser_lowpass() -> Tensor:
    """The 12-tap half-band filter, float32, unit sum (always real memory, also while building on the meta device)."""
    attenuation = 2.285 * (TAPS // 2 - 1) * math.pi * 4 * HALF_WIDTH + 7.95
    beta = 0.1102 * (attenuation - 8.7)  # the formula for more than 50 dB, which 51.02 dB is
    # In float32 throughout, as upstream: the same bits.
    window = torch.kaiser_window(TAPS, periodic=False, beta=beta, device="cpu")
    time = torch.arange(TAPS, device="cpu") - (TAPS - 1) / 2
    taps = 2 * CUTOFF * window * torch.sinc(2 * CUTOFF * time)
    return taps / taps.sum()


class Snake(nn.Module):
    """x + sin^2(a x) / b per channel; `beta` is absent for the one-parameter form (b = a)."""

    def __init__(self, channels: int, logscale: bool, has_beta: bool) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(channels) if logscale else torch.ones(channels))
        self.beta = nn.Parameter(self.alpha.detach().clone()) if has_beta else None
        self.logscale = logscale

    def scales(self) -> tuple[Tensor, Tensor]:
        """(a, b) as they enter the formula, shaped (1, channels, 1)."""
        alpha = self.alpha[None, :, None]
        beta = alpha if self.beta is None else self.beta[None, :, None]
        return (alpha.exp(), beta.exp()) if self.logscale else (alpha, beta)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.scales()
        sine = torch.sin(x * a)
        return x + (1.0 / (b + NO_DIVISION_BY_ZERO)) * (sine * sine)


class AntiAliasedSnake(nn.Module):
    """Upsample by two, snake, downsample by two; the length stays."""

    samples_each_side = 5

    def __init__(self, channels: int, logscale: bool, has_beta: bool) -> None:
        super().__init__()
        self.act = Snake(channels, logscale, has_beta)
        # Stored per channel: both ONNX exporters can then see the kernel's shape.
        self.register_buffer("taps", kaiser_lowpass().expand(channels, 1, TAPS).clone(), persistent=False)
        self.taps: Tensor

    def upsample(self, x: Tensor) -> Tensor:
        x = F.pad(x, (5, 5), mode="replicate")
        return 2.0 * F.conv_transpose1d(x, self.taps, stride=2, groups=self.taps.shape[0])[..., 15:-15]

    def downsample(self, x: Tensor) -> Tensor:
        x = F.pad(x, (5, 6), mode="replicate")
        return F.conv1d(x, self.taps, stride=2, groups=self.taps.shape[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.act(self.upsample(x)))


def without_filters(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drops the stored anti-aliasing filters: upstream rebuilds the same numbers at construction."""
    return {name: value for name, value in weights.items() if not name.endswith(".filter")}
