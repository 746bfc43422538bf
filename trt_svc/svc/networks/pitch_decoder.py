"""Automatic pitch: the f0 that a voice would speak this content with (for speech; singing loses its melody)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from trt_svc.svc.networks.attention import CausalTransformer
from trt_svc.vocoders.layers import same_conv

EDGE_KERNEL = 3
NO_VOICED_FRAMES = 9999.0
"""Stands for the number of voiced frames where there is none, so that nothing is subtracted."""


def log_f0(f0_hz: Tensor) -> Tensor:
    """Hz as mel / 500, about 0..6.5."""
    return 2595.0 * torch.log10(1.0 + f0_hz / 700.0) / 500.0


def hz_from_log(lf0: Tensor) -> Tensor:
    """The way back from `log_f0`."""
    return 700.0 * (torch.pow(10.0, lf0 * 500.0 / 2595.0) - 1.0)


def normalised(lf0: Tensor, uv: Tensor) -> Tensor:
    """Log f0 (B, 1, T) without its mean over the voiced frames; uv: (B, T), 1 where voiced."""
    voiced = uv.unsqueeze(1)
    count = voiced.sum(dim=2, keepdim=True)
    count = torch.where(count == 0, NO_VOICED_FRAMES, count)
    return lf0 - (lf0 * voiced).sum(dim=2, keepdim=True) / count


class PitchDecoder(nn.Module):
    """Content (B, hidden, T), normalised log f0 (B, 1, T), speaker (B, gin, 1 or T) -> log f0 (B, 1, T)."""

    def __init__(self, hidden: int, filter_channels: int, heads: int, layers: int, kernel: int, gin: int) -> None:
        super().__init__()
        self.prenet = same_conv(hidden, hidden, EDGE_KERNEL)
        self.decoder = CausalTransformer(hidden, filter_channels, heads, layers, kernel)
        self.proj = nn.Conv1d(hidden, 1, 1)
        self.f0_prenet = same_conv(1, hidden, EDGE_KERNEL)
        self.cond = nn.Conv1d(gin, hidden, 1)

    def forward(self, x: Tensor, norm_lf0: Tensor, g: Tensor) -> Tensor:
        x = x + self.cond(g) + self.f0_prenet(norm_lf0)
        return cast(Tensor, self.proj(self.decoder(self.prenet(x))))
