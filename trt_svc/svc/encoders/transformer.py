"""The transformer layers that all encoders share: HuBERT, WavLM's gated distances, pruned layers, Whisper."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-5

DistanceRows = Callable[[slice], Tensor]
"""(1, heads, queries, frames) for a stretch of queries: what is added to their scores."""


@dataclass(frozen=True)
class LayerSizes:
    """One layer; a part of size 0 was pruned away."""

    heads: int
    head_channels: int
    inner: int


class Attention(nn.Module):
    """Every frame's mean of all frames' values, weighted by how well keys answer its query."""

    def __init__(self, width: int, heads: int, head_channels: int, key_bias: bool = True, gated: bool = False) -> None:
        super().__init__()
        inner = heads * head_channels
        self.heads = heads
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner, bias=key_bias)
        self.value = nn.Linear(width, inner)
        self.out = nn.Linear(inner, width)
        if gated:
            self.gate = nn.Linear(head_channels, 8)
            self.gate_scale = nn.Parameter(torch.ones(1, heads, 1, 1))

    def forward(self, x: Tensor, distances: DistanceRows | None = None, query_frames: int | None = None) -> Tensor:
        """x (batch, frames, width) -> the same; with distances, so many queries are answered at a time."""
        query, key, value = (self._by_head(part(x)) for part in (self.query, self.key, self.value))
        if distances is None:
            heard = F.scaled_dot_product_attention(query, key, value)
        else:
            gates = self._gates(x)
            parts = [
                F.scaled_dot_product_attention(query[:, :, part], key, value, gates[:, :, part] * distances(part))
                for part in ([slice(None)] if query_frames is None else _stretches(x.shape[1], query_frames))
            ]
            heard = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
        return cast(Tensor, self.out(heard.transpose(1, 2).flatten(2)))

    def _by_head(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)

    def _gates(self, x: Tensor) -> Tensor:
        """(batch, heads, frames, 1): how much distance counts for each frame, read from the layer's own input."""
        both = torch.sigmoid(torch.unflatten(self.gate(self._by_head(x)), -1, (2, 4)).sum(-1))
        update, reset = both[..., :1], both[..., 1:]
        return update * (reset * self.gate_scale - 1.0) + 2.0


def _stretches(frames: int, length: int) -> list[slice]:
    return [slice(start, start + length) for start in range(0, frames, length)]


class Distances(nn.Module):
    """WavLM's learned score for how far apart two frames are, in buckets that widen with the distance."""

    def __init__(self, buckets: int, heads: int, max_distance: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(buckets, heads))
        self.max_distance = max_distance

    def forward(self, x: Tensor, queries: slice = slice(None)) -> Tensor:
        """(1, heads, queries, frames) for a stretch of x (batch, frames, width)."""
        place = torch.arange(x.size(1), device=self.weight.device)
        offset = place.unsqueeze(0) - place[queries].unsqueeze(1)
        # Logarithms of whole numbers are taken here once, not in a graph, where they could round to another bucket.
        farthest = self.max_distance
        offsets = torch.arange(-farthest, farthest + 1, device=self.weight.device)
        by_offset = F.embedding(self._bucket(offsets), self.weight)
        rows = F.embedding(offset.clamp(-farthest, farthest) + farthest, by_offset)
        return rows.permute(2, 0, 1).unsqueeze(0)

    def _bucket(self, offset: Tensor) -> Tensor:
        """Half of the buckets for frames behind; of each half, half are single distances, the rest logarithmic."""
        per_side = self.weight.shape[0] // 2
        single = per_side // 2
        distance = offset.abs()
        steps = torch.log(distance.clamp(min=1).float() / single) / math.log(self.max_distance / single)
        far = (single + (steps * (per_side - single)).long()).clamp(max=per_side - 1)
        return (offset > 0).long() * per_side + torch.where(distance < single, distance, far)


class Layer(nn.Module):
    """Attention and feed-forward; with `norm_first`, norms stand before the parts (HuBERT large, Whisper)."""

    def __init__(
        self, width: int, sizes: LayerSizes, norm_first: bool, key_bias: bool = True, gated: bool = False
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attends, self.feeds = sizes.heads > 0, sizes.inner > 0
        if self.attends:
            self.attention = Attention(width, sizes.heads, sizes.head_channels, key_bias, gated)
        self.attention_norm = nn.LayerNorm(width, eps=EPSILON)
        if self.feeds:
            self.widen = nn.Linear(width, sizes.inner)
            self.narrow = nn.Linear(sizes.inner, width)
        self.output_norm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, x: Tensor, distances: DistanceRows | None = None, query_frames: int | None = None) -> Tensor:
        """(batch, frames, width) -> the same."""
        if self.norm_first:
            x = x + self.attention(self.attention_norm(x), distances, query_frames) if self.attends else x
            return x + self._feed(self.output_norm(x)) if self.feeds else x
        # Pruned parts leave their norms behind.
        x = self.attention_norm(x + self.attention(x, distances, query_frames) if self.attends else x)
        return cast(Tensor, self.output_norm(x + self._feed(x) if self.feeds else x))

    def _feed(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.narrow(F.gelu(self.widen(x))))
