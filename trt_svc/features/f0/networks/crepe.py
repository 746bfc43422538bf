"""CREPE: six convolutions over 64 ms of raw audio (https://arxiv.org/abs/1802.06182), under torchcrepe's names."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trt_svc.features.f0.networks.norm import StoredNorm

WINDOW_SAMPLES = 1024
BINS = 360
LAYERS = 6
FULL_WIDTHS = (1024, 128, 128, 128, 256, 512)
NORM_EPSILON = 0.0010000000474974513
"""As converted from the Keras model."""


class Crepe(nn.Module):
    """Normalised windows (B, 1024) of audio at 16 kHz to the salience (B, 360) of pitch bins."""

    def __init__(self, widths: tuple[int, ...] = FULL_WIDTHS) -> None:
        super().__init__()
        for i, (channels_in, channels_out) in enumerate(zip((1, *widths), widths, strict=False), start=1):
            kernel, stride = (512, 4) if i == 1 else (64, 1)
            self.add_module(f"conv{i}", nn.Conv2d(channels_in, channels_out, (kernel, 1), stride=(stride, 1)))
            self.add_module(f"conv{i}_BN", StoredNorm(channels_out, NORM_EPSILON))
        self.classifier = nn.Linear(WINDOW_SAMPLES // 4 // 2**LAYERS * widths[-1], BINS)

    def forward(self, windows: Tensor) -> Tensor:
        x = windows.unsqueeze(1).unsqueeze(3)
        for i in range(1, LAYERS + 1):
            padding = (0, 0, 254, 254) if i == 1 else (0, 0, 31, 32)
            x = F.relu(self.get_submodule(f"conv{i}")(F.pad(x, padding)))
            x = F.max_pool2d(self.get_submodule(f"conv{i}_BN")(x), (2, 1))
        return torch.sigmoid(self.classifier(x.permute(0, 2, 1, 3).flatten(1)))
