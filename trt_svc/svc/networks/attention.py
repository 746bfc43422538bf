"""Transformers of a voice, with self-attention that fits in memory however long the take is.

The encoder's attention knows relative positions: nine learned offsets (four frames each way) shared by all heads.
They touch a band of nine diagonals only, so they are added there, where the usual way builds another T x T matrix.
The T x T scores themselves are made for some queries at a time once there are too many of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

WINDOW = 4
OFFSETS = 2 * WINDOW + 1
NORM_EPSILON = 1e-5
FUTURE_SCORE = -1e4
"""The score of a frame that must not be seen: its weight is exactly zero in float32."""
MAX_SCORES = 1 << 22
"""Scores that are held at once (16 MiB, three times over): 1,448 frames with two heads still go in one piece.

On a CPU such blocks are also quicker than the whole square, which falls out of every cache.
"""


def spread_band(band: Tensor) -> Tensor:
    """(..., T, 9) by offset -> (..., T, T) by key: frame i's offset o stands at key i + o - 4, zeros elsewhere.

    Exporters may translate it as one operation (it honours `__torch_function__`).
    """
    if has_torch_function_unary(band):
        return handle_torch_function(spread_band, (band,), band)
    return _skewed(band)[..., WINDOW : WINDOW + band.shape[-2]]


def read_band(square: Tensor) -> Tensor:
    """(..., T, T) by key -> (..., T, 9) by offset: the inverse of `spread_band`, zeros beyond the ends."""
    if has_torch_function_unary(square):
        return handle_torch_function(read_band, (square,), square)
    return _unskewed(F.pad(square, (WINDOW, WINDOW)))


def hide_future(scores: Tensor) -> Tensor:
    """Scores (..., queries, keys) whose last query is at the last key, those of later keys made negligible."""
    if has_torch_function_unary(scores):
        return handle_torch_function(hide_future, (scores,), scores)
    queries, keys = scores.shape[-2:]
    later = torch.ones(queries, keys, dtype=torch.bool, device=scores.device).triu(keys - queries + 1)
    return scores.masked_fill(later, FUTURE_SCORE)


def _skewed(band: Tensor) -> Tensor:
    """(..., n, 9) -> (..., n, n + 8), row i moved i to the right: rows are written one longer than they are read."""
    n = band.shape[-2]
    flat = F.pad(band, (0, n)).flatten(-2)[..., : n * (n + OFFSETS - 1)]
    return torch.unflatten(flat, -1, (n, n + OFFSETS - 1))


def _unskewed(wide: Tensor) -> Tensor:
    """(..., n, n + 8) -> (..., n, 9): the way back."""
    n = wide.shape[-2]
    return torch.unflatten(F.pad(wide.flatten(-2), (0, n)), -1, (n, n + OFFSETS))[..., :OFFSETS]


class SelfAttention(nn.Module):
    """Every frame looks at all others by relative position, or (causal) at itself and the past, without positions.

    x: (B, channels, T) -> the same shape.
    """

    def __init__(self, channels: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.heads = heads
        self.head_channels = channels // heads
        self.causal = causal
        self.max_scores: int | None = MAX_SCORES
        """More of them are made in blocks of queries; None: never."""
        self.conv_q, self.conv_k, self.conv_v, self.conv_o = (nn.Conv1d(channels, channels, 1) for _ in range(4))
        if not causal:
            self.emb_rel_k = nn.Parameter(torch.zeros(1, OFFSETS, self.head_channels))
            self.emb_rel_v = nn.Parameter(torch.zeros(1, OFFSETS, self.head_channels))

    def forward(self, x: Tensor) -> Tensor:
        queries = self._by_head(self.conv_q(x)).transpose(2, 3) / math.sqrt(self.head_channels)
        keys = self._by_head(self.conv_k(x))
        values = self._by_head(self.conv_v(x)).transpose(2, 3)
        attend = self._in_blocks if self._is_long(x) else self._at_once
        return cast(Tensor, self.conv_o(attend(queries, keys, values).transpose(2, 3).flatten(1, 2)))

    def _by_head(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, 1, (self.heads, self.head_channels))

    def _is_long(self, x: Tensor) -> bool:
        frames: Any = x.shape[-1]
        # While a graph is exported a length is no number: the whole form is what gets written.
        if self.max_scores is None or not isinstance(frames, int):
            return False
        return x.shape[0] * self.heads * frames**2 > self.max_scores

    def _at_once(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """queries, values (B, heads, T, d), keys (B, heads, d, T) -> (B, heads, T, d)."""
        scores = torch.matmul(queries, keys)
        if self.causal:
            return torch.matmul(torch.softmax(hide_future(scores), dim=-1), values)
        scores = scores + spread_band(torch.matmul(queries, self.emb_rel_k.transpose(1, 2)))
        weights = torch.softmax(scores, dim=-1)
        return torch.matmul(weights, values) + torch.matmul(read_band(weights), self.emb_rel_v)

    def _in_blocks(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The same, with memory for no more than `max_scores` scores."""
        batch, heads, frames, _ = queries.shape
        step = max(1, (self.max_scores or 0) // (batch * heads * frames))
        block = self._causal_block if self.causal else self._relative_block
        made = torch.empty_like(queries)
        for start in range(0, frames, step):
            made[:, :, start : start + step] = block(queries[:, :, start : start + step], keys, values, start)
        return made

    def _causal_block(self, queries: Tensor, keys: Tensor, values: Tensor, start: int) -> Tensor:
        stop = start + queries.shape[2]
        scores = hide_future(torch.matmul(queries, keys[..., :stop]))
        return torch.matmul(torch.softmax(scores, dim=-1), values[:, :, :stop])

    def _relative_block(self, queries: Tensor, keys: Tensor, values: Tensor, start: int) -> Tensor:
        """Queries `start`...: their band lies on the keys from four before the first to four behind the last."""
        stop, frames = start + queries.shape[2], keys.shape[-1]
        first, last = max(0, start - WINDOW), min(frames, stop + WINDOW)
        cut = (first - (start - WINDOW), stop + WINDOW - last)
        band = _skewed(torch.matmul(queries, self.emb_rel_k.transpose(1, 2)))
        scores = torch.matmul(queries, keys)
        scores[..., first:last] += band[..., cut[0] : band.shape[-1] - cut[1]]
        weights = torch.softmax(scores, dim=-1)
        near = _unskewed(F.pad(weights[..., first:last], cut))
        return torch.matmul(weights, values) + torch.matmul(near, self.emb_rel_v)


class FeedForward(nn.Module):
    """Convolution, ReLU, convolution; the causal form sees no later frame. (B, channels, T) -> the same shape."""

    def __init__(self, channels: int, filter_channels: int, kernel: int, *, causal: bool) -> None:
        super().__init__()
        self.pads = (kernel - 1, 0) if causal else ((kernel - 1) // 2, kernel // 2)
        self.conv_1 = nn.Conv1d(channels, filter_channels, kernel)
        self.conv_2 = nn.Conv1d(filter_channels, channels, kernel)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.conv_1(F.pad(x, self.pads)))
        return cast(Tensor, self.conv_2(F.pad(hidden, self.pads)))


class ChannelNorm(nn.Module):
    """Layer norm over the channels of (B, channels, T)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(x.transpose(1, 2), self.gamma.shape, self.gamma, self.beta, NORM_EPSILON)
        return normed.transpose(1, 2)


class CausalTransformer(nn.Module):
    """Layers of causal attention and feed-forward, each followed by its norm. (B, channels, T) -> the same shape."""

    def __init__(self, channels: int, filter_channels: int, heads: int, layers: int, kernel: int) -> None:
        super().__init__()
        self.self_attn_layers = nn.ModuleList(SelfAttention(channels, heads, causal=True) for _ in range(layers))
        self.norm_layers_0 = nn.ModuleList(ChannelNorm(channels) for _ in range(layers))
        self.ffn_layers = nn.ModuleList(
            FeedForward(channels, filter_channels, kernel, causal=True) for _ in range(layers)
        )
        self.norm_layers_1 = nn.ModuleList(ChannelNorm(channels) for _ in range(layers))

    def layers(self) -> Iterable[tuple[nn.Module, nn.Module, nn.Module, nn.Module]]:
        """Attention, norm, feed-forward and norm of every layer."""
        return zip(self.self_attn_layers, self.norm_layers_0, self.ffn_layers, self.norm_layers_1, strict=True)

    def forward(self, x: Tensor) -> Tensor:
        for attention, norm_0, feed_forward, norm_1 in self.layers():
            x = norm_0(x + attention(x))
            x = norm_1(x + feed_forward(x))
        return x
