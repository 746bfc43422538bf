"""RMVPE: a U-Net over the mel as an image, then a bidirectional GRU over its frames.

Follows the paper (https://arxiv.org/abs/2306.15412); names are those of the published weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

from trt_svc.features.f0.networks.norm import StoredNorm

MELS = 128
BINS = 360
GRU_WIDTH = 256
IMAGE_CHANNELS = 3
"""Channels that the U-Net's image is reduced to before its frames are read in order."""


def _conv(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)


class ResidualBlock(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(channels_in, channels_out), StoredNorm(channels_out), nn.ReLU(),
            _conv(channels_out, channels_out), StoredNorm(channels_out), nn.ReLU(),
        )  # fmt: skip
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else None

    def forward(self, x: Tensor) -> Tensor:
        around = x if self.shortcut is None else self.shortcut(x)
        out: Tensor = around + self.conv(x)
        return out


def _blocks(channels_in: int, channels_out: int, count: int) -> nn.ModuleList:
    first = ResidualBlock(channels_in, channels_out)
    return nn.ModuleList([first, *(ResidualBlock(channels_out, channels_out) for _ in range(count - 1))])


class _Level(nn.Module):
    """Residual blocks at one resolution."""

    def __init__(self, channels_in: int, channels_out: int, blocks: int) -> None:
        super().__init__()
        self.conv = _blocks(channels_in, channels_out, blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.conv:
            x = block(x)
        return x


class _Encoder(nn.Module):
    """Halves time and frequency at every level, and keeps what was there before."""

    def __init__(self, widths: list[int], blocks: int) -> None:
        super().__init__()
        self.bn = StoredNorm(1)
        pairs = zip([1, *widths[:-1]], widths, strict=True)
        self.layers = nn.ModuleList(_Level(channels_in, channels_out, blocks) for channels_in, channels_out in pairs)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        kept = []
        x = self.bn(x)
        for level in self.layers:
            x = level(x)
            kept.append(x)
            x = self.pool(x)
        return x, kept


class _Middle(nn.Module):
    def __init__(self, channels: int, levels: int, blocks: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _Level(channels if i == 0 else 2 * channels, 2 * channels, blocks) for i in range(levels)
        )

    def forward(self, x: Tensor) -> Tensor:
        for level in self.layers:
            x = level(x)
        return x


class _Up(nn.Module):
    """Twice the resolution, joined with what the encoder kept of it."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.ConvTranspose2d(2 * channels, channels, 3, stride=2, padding=1, output_padding=1, bias=False),
            StoredNorm(channels),
            nn.ReLU(),
        )
        self.conv2 = _blocks(2 * channels, channels, blocks)

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        x = torch.cat((self.conv1(x), kept), dim=1)
        for block in self.conv2:
            x = block(x)
        return x


class _Decoder(nn.Module):
    def __init__(self, widths: list[int], blocks: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Up(channels, blocks) for channels in reversed(widths))

    def forward(self, x: Tensor, kept: list[Tensor]) -> Tensor:
        for up, before in zip(self.layers, reversed(kept), strict=True):
            x = up(x, before)
        return x


class _UNet(nn.Module):
    def __init__(self, widths: list[int], blocks: int, middle: int) -> None:
        super().__init__()
        self.encoder = _Encoder(widths, blocks)
        self.intermediate = _Middle(widths[-1], middle, blocks)
        self.decoder = _Decoder(widths, blocks)

    def forward(self, x: Tensor) -> Tensor:
        x, kept = self.encoder(x)
        out: Tensor = self.decoder(self.intermediate(x), kept)
        return out


def both_ways(x: Tensor, gru: nn.GRU) -> Tensor:
    """What a GRU tells of every frame of x (B, T, width), forwards and backwards (B, T, 2 x its width).

    Exporters may translate it as one operation (it honours `__torch_function__`), as the two below.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(both_ways, (x,), x, gru)
    out: Tensor = gru(x)[0]
    return out


def filled_up(x: Tensor, multiple: int) -> Tensor:
    """x (B, channels, T) with zeros up to the next multiple of so many positions."""
    if has_torch_function_unary(x):
        return handle_torch_function(filled_up, (x,), x, multiple)
    return F.pad(x, (0, -x.shape[2] % multiple))


def cut_as(x: Tensor, like: Tensor) -> Tensor:
    """x (B, channels, T) without what is behind the last position of `like`."""
    if has_torch_function_unary(x):
        return handle_torch_function(cut_as, (x, like), x, like)
    return x[:, :, : like.shape[2]]


class _Gru(nn.Module):
    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width_in, width, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        return both_ways(x, self.gru)


class Rmvpe(nn.Module):
    """Log mel (B, 128, T) to the salience (B, T, 360) of pitch bins; T is a multiple of `frame_multiple`."""

    def __init__(self, width: int = 16, levels: int = 5, blocks: int = 4, middle: int = 4) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        self.unet = _UNet(widths, blocks, middle)
        self.cnn = nn.Conv2d(width, IMAGE_CHANNELS, 3, padding=1)
        self.fc = nn.Sequential(_Gru(IMAGE_CHANNELS * MELS, GRU_WIDTH), nn.Linear(2 * GRU_WIDTH, BINS))
        self.frame_multiple = 2**levels
        # Frames on each side that one frame of the image depends on: the convolutions of every resolution on the
        # way down and up, those in the middle, the halvings, the doublings, and the last convolution.
        steps = self.frame_multiple - 1
        self.image_reach = 4 * blocks * steps + 2 * blocks * middle * self.frame_multiple + 3 * steps + 2

    def image(self, mel: Tensor) -> Tensor:
        """The U-Net's view (B, T, 3 x 128) of the mel; depends on no more than `image_reach` frames on each side."""
        image: Tensor = self.cnn(self.unet(mel.transpose(1, 2).unsqueeze(1)))
        return image.transpose(1, 2).flatten(2)

    def salience(self, image: Tensor) -> Tensor:
        """What the GRU makes of the whole of it."""
        return torch.sigmoid(self.fc(image))

    def forward(self, mel: Tensor) -> Tensor:
        return self.salience(self.image(mel))
