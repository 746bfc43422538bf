"""FCPE as in so-vits-svc's fcpe.pt: convolutions, then layers of linear attention and gated convolution ("PCmer").

The attention is that of Performers (https://arxiv.org/abs/2009.14794): softmax through positive random features,
whose directions are stored with the weights. Names are those of the published weights.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS = 8
NORM_GROUPS = 4
KERNEL = 31
GATED_EXPANSION = 2
FEATURE_EPSILON = 1e-4
SUM_EPSILON = 1e-8


class _FeatureAttention(nn.Module):
    """Attention (B, H, T, D) that sums over time once, whatever its length."""

    projection_matrix: Tensor

    def __init__(self, features: int, head_width: int) -> None:
        super().__init__()
        self.register_buffer("projection_matrix", torch.zeros(features, head_width))

    def sums(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Over time: of values by feature (B, H, features, D), and of the features (B, H, features, 1)."""
        features = self._features(k, is_query=False)
        return features.transpose(-1, -2) @ v, features.sum(dim=-2).unsqueeze(-1)

    def answers(self, q: Tensor, context: Tensor, total: Tensor) -> Tensor:
        features = self._features(q, is_query=True)
        return (features @ context) / ((features @ total) + SUM_EPSILON)

    def _features(self, x: Tensor, is_query: bool) -> Tensor:
        features, width = self.projection_matrix.shape
        x = x * width**-0.25
        projected = x @ self.projection_matrix.transpose(0, 1)
        exponent = projected - x.square().sum(dim=-1, keepdim=True) / 2
        # Only queries are kept in range by their maximum, and the epsilon of keys stands inside the exponential.
        if is_query:
            positive = torch.exp(exponent - projected.amax(dim=-1, keepdim=True)) + FEATURE_EPSILON
        else:
            positive = torch.exp(exponent + FEATURE_EPSILON)
        scaled: Tensor = positive * features**-0.5
        return scaled


class _SelfAttention(nn.Module):
    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.fast_attention = _FeatureAttention(features, width // HEADS)
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.answers(x, *self.sums(x))

    def sums(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What frames tell all others; that of all frames is the sum of that of some."""
        return self.fast_attention.sums(self._split(self.to_k(x)), self._split(self.to_v(x)))

    def answers(self, x: Tensor, context: Tensor, total: Tensor) -> Tensor:
        """What frames hear of all others."""
        heard = self.fast_attention.answers(self._split(self.to_q(x)), context, total)
        out: Tensor = self.to_out(heard.transpose(1, 2).flatten(2))
        return out

    @staticmethod
    def _split(x: Tensor) -> Tensor:
        return torch.stack(x.chunk(HEADS, dim=-1), dim=1)


class _Depthwise(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, KERNEL, padding=KERNEL // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class _GatedConvolution(nn.Module):
    """Norm, gate, depthwise convolution along time; the numbers in `net` are the places in upstream's list."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = width * GATED_EXPANSION
        self.net = nn.ModuleDict(
            {
                "0": nn.LayerNorm(width),
                "2": nn.Conv1d(width, 2 * inner, 1),
                "4": _Depthwise(inner),
                "6": nn.Conv1d(inner, width, 1),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        gated = F.glu(self.net["2"](self.net["0"](x).transpose(1, 2)), dim=1)
        out: Tensor = self.net["6"](F.silu(self.net["4"](gated)))
        return out.transpose(1, 2)


class Layer(nn.Module):
    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        self.conformer = _GatedConvolution(width)
        self.norm = nn.LayerNorm(width)
        self.attn = _SelfAttention(width, features)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm(x))
        out: Tensor = x + self.conformer(x)
        return out


class _Layers(nn.Module):
    """Under upstream's name for the list."""

    def __init__(self, count: int, width: int, features: int) -> None:
        super().__init__()
        self._layers = nn.ModuleList(Layer(width, features) for _ in range(count))

    def layers(self) -> list[Layer]:
        return [cast(Layer, layer) for layer in self._layers]

    def forward(self, x: Tensor) -> Tensor:
        for layer in self._layers:
            x = layer(x)
        return x


class Fcpe(nn.Module):
    """Log mel (B, T, mels) to logits (B, T, bins); `cent_table` (bins,) says which pitch a bin stands for."""

    cent_table: Tensor

    def __init__(
        self, mels: int = 128, width: int = 512, layers: int = 12, features: int = 266, bins: int = 360
    ) -> None:
        super().__init__()
        self.stack = nn.Sequential(
            nn.Conv1d(mels, width, 3, padding=1),
            nn.GroupNorm(NORM_GROUPS, width),
            nn.LeakyReLU(),
            nn.Conv1d(width, width, 3, padding=1),
        )
        self.decoder = _Layers(layers, width, features)
        self.norm = nn.LayerNorm(width)
        self.dense_out = nn.Linear(width, bins)
        self.register_buffer("cent_table", torch.zeros(bins))

    def forward(self, mel: Tensor) -> Tensor:
        x = self.stack(mel.transpose(1, 2)).transpose(1, 2)
        out: Tensor = self.dense_out(self.norm(self.decoder(x)))
        return out
