"""The same units in bounded memory: minutes of unbroken singing would need gigabytes for the first convolutions.

The convolutions are local, so they run block by block. Only the group norm behind the first one looks at all of the
audio: its statistics are gathered in a pass of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trt_svc.svc.encoders.base import (
    CONV_KERNELS,
    CONV_REACH_SAMPLES,
    CONV_STRIDES,
    HOP_SAMPLES,
    RATE_HZ,
    conv_frames,
)
from trt_svc.svc.encoders.hubert import Convolution, HubertNet

LONG_SAMPLES = 30 * RATE_HZ
"""Longer audio goes through here."""
BLOCK_FRAMES = 500
QUERY_FRAMES = 256


def units_in_blocks(
    net: HubertNet, audio: Tensor, block_frames: int = BLOCK_FRAMES, query_frames: int = QUERY_FRAMES
) -> Tensor:
    """What `net` makes of audio (batch, 1, samples)."""
    audio = net.prepared(audio)
    frames = conv_frames(audio.shape[-1])
    first, *rest = net.extractor
    assert isinstance(first, Convolution)
    norm = _group_norm_as_scale(first, audio, block_frames) if isinstance(first.norm, nn.GroupNorm) else None
    blocks = []
    for start in range(0, frames, block_frames):
        stop = min(frames, start + block_frames)
        x = audio[..., start * HOP_SAMPLES : (stop - 1) * HOP_SAMPLES + CONV_REACH_SAMPLES]
        x = first(x) if norm is None else F.gelu(first.conv(x) * norm[0] + norm[1])
        for convolution in rest:
            x = convolution(x)
        blocks.append(x)
    return net.contextual(torch.cat(blocks, -1), query_frames)


def _group_norm_as_scale(first: Convolution, audio: Tensor, block_frames: int) -> tuple[Tensor, Tensor]:
    """(scale, shift), each (batch, channels, 1), that do to the first convolution what its group norm would."""
    kernel, stride = CONV_KERNELS[0], CONV_STRIDES[0]
    outputs = (audio.shape[-1] - kernel) // stride + 1
    step = block_frames * HOP_SAMPLES // stride
    total = total_square = torch.zeros(1, dtype=torch.float64, device=audio.device)
    for start in range(0, outputs, step):
        stop = min(outputs, start + step)
        x = first.conv(audio[..., start * stride : (stop - 1) * stride + kernel]).double()
        total = total + x.sum(-1, keepdim=True)
        total_square = total_square + x.square().sum(-1, keepdim=True)
    mean = total / outputs
    variance = (total_square / outputs - mean.square()).clamp(min=0)
    norm = first.norm
    assert isinstance(norm, nn.GroupNorm)
    scale = norm.weight.double()[:, None] / (variance + norm.eps).sqrt()
    shift = norm.bias.double()[:, None] - mean * scale
    return scale.float(), shift.float()
