"""What a voice's prior says: for every frame the mean and spread of the latent, from content and coarse pitch."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from trt_svc.svc.networks.attention import ChannelNorm, FeedForward, SelfAttention

PITCH_BINS = 256
LOWEST_HZ, HIGHEST_HZ = 50.0, 1100.0


def _mel(f0_hz: float) -> float:
    return 1127.0 * math.log(1.0 + f0_hz / 700.0)


def coarse_pitch(f0_hz: Tensor, clamps_high: bool = True) -> Tensor:
    """The pitch bin of every frame, int64: 1 at 50 Hz and below (and where unvoiced), 255 at 1100 Hz, mel between.

    Above 1100 Hz upstream falls out of its own range into bin 0, which no training touches: `clamps_high=False`
    does as upstream, `True` stays at the highest bin.
    """
    mel = 1127.0 * torch.log(1.0 + f0_hz / 700.0)
    bins_per_mel = (PITCH_BINS - 2) / (_mel(HIGHEST_HZ) - _mel(LOWEST_HZ))
    bins = torch.round((mel - _mel(LOWEST_HZ)) * bins_per_mel + 1.0).clamp(1, PITCH_BINS).long()
    return torch.where(bins < PITCH_BINS, bins, PITCH_BINS - 1 if clamps_high else 0)


class RelativeTransformer(nn.Module):
    """Layers of relative attention and feed-forward, each followed by its norm. (B, channels, T) -> the same shape."""

    def __init__(self, channels: int, filter_channels: int, heads: int, layers: int, kernel: int) -> None:
        super().__init__()
        self.attn_layers = nn.ModuleList(SelfAttention(channels, heads, causal=False) for _ in range(layers))
        self.norm_layers_1 = nn.ModuleList(ChannelNorm(channels) for _ in range(layers))
        self.ffn_layers = nn.ModuleList(
            FeedForward(channels, filter_channels, kernel, causal=False) for _ in range(layers)
        )
        self.norm_layers_2 = nn.ModuleList(ChannelNorm(channels) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        layers = zip(self.attn_layers, self.norm_layers_1, self.ffn_layers, self.norm_layers_2, strict=True)
        for attention, norm_1, feed_forward, norm_2 in layers:
            x = norm_1(x + attention(x))
            x = norm_2(x + feed_forward(x))
        return x


class Prior(nn.Module):
    """Content (B, hidden, T) and pitch bins (B, T) -> mean and log spread of the latent, each (B, inter, T)."""

    def __init__(
        self, hidden: int, inter: int, filter_channels: int, heads: int, layers: int, kernel: int
    ) -> None:  # as upstream names its parts, so that a checkpoint's keys fit
        super().__init__()
        self.inter_channels = inter
        self.proj = nn.Conv1d(hidden, 2 * inter, 1)
        self.f0_emb = nn.Embedding(PITCH_BINS, hidden)
        self.enc_ = RelativeTransformer(hidden, filter_channels, heads, layers, kernel)

    def hidden(self, x: Tensor, pitch_bins: Tensor) -> Tensor:
        """(B, hidden, T), in front of the projection."""
        return cast(Tensor, self.enc_(x + self.f0_emb(pitch_bins).transpose(1, 2)))

    def forward(self, x: Tensor, pitch_bins: Tensor) -> tuple[Tensor, Tensor]:
        return self.halves(self.proj(self.hidden(x, pitch_bins)))

    def halves(self, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log spread out of the projection (B, 2 * inter, T)."""
        return statistics[:, : self.inter_channels], statistics[:, self.inter_channels :]


def sample(mean: Tensor, log_spread: Tensor, noise: Tensor, noise_scale: float) -> Tensor:
    """The latent in front of the flow, drawn with the given standard normal noise."""
    return mean + noise * torch.exp(log_spread) * noise_scale
