"""FCPE over recordings of any length in bounded memory: everything but the frames themselves is held block by block.

The attention's sums over time are gathered in a pass of their own; the convolutions see their neighbours' frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trt_svc.features.f0.networks.fcpe import KERNEL, Fcpe, Layer

BLOCK_FRAMES = 2048
SIDE = KERNEL // 2


def logits_in_blocks(net: Fcpe, mel: Tensor, block_frames: int = BLOCK_FRAMES) -> Tensor:
    """What `net` makes of log mel (B, T, mels)."""
    x = net.stack(mel.transpose(1, 2)).transpose(1, 2)
    for layer in net.decoder.layers():
        x = _convolved(layer, _attended(layer, x, block_frames), block_frames)
    return torch.cat([net.dense_out(net.norm(x[:, part])) for part in _blocks(x, block_frames)], 1)


def _blocks(x: Tensor, frames: int) -> list[slice]:
    return [slice(start, min(start + frames, x.shape[1])) for start in range(0, x.shape[1], frames)]


def _attended(layer: Layer, x: Tensor, frames: int) -> Tensor:
    parts = _blocks(x, frames)
    sums = [layer.attn.sums(layer.norm(x[:, part])) for part in parts]
    context, total = (torch.stack(each).sum(0) for each in zip(*sums, strict=True))
    return torch.cat([x[:, part] + layer.attn.answers(layer.norm(x[:, part]), context, total) for part in parts], 1)


def _convolved(layer: Layer, x: Tensor, frames: int) -> Tensor:
    made = []
    for part in _blocks(x, frames):
        first = max(0, part.start - SIDE)
        around = layer.conformer(x[:, first : part.stop + SIDE])
        made.append(x[:, part] + around[:, part.start - first : part.stop - first])
    return torch.cat(made, 1)
