"""The denoiser of the shallow diffusion: a WaveNet that tells the noise in a mel from the mel.

Two of its inputs do not change while a sampler runs: the projections of the condition are the same for every step of a
slice (`SliceDenoiser` keeps them), and what a step adds is the same for every slice. `ConditionedDenoiser` takes that
as an input, so that the sines of the step never meet half precision in an engine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

LONGEST_PERIOD = 10_000.0
"""Of the sinusoids that say which step it is, over 2 pi."""
WINDOW_FRAMES = 2048
"""Up to this length the projections of a slice are kept: 80 kB per frame in a model of the usual size."""


class ResidualBlock(nn.Module):
    """A gated convolution with a way around it and a way out."""

    def __init__(self, channels: int, cond_channels: int) -> None:
        super().__init__()
        self.dilated_conv = nn.Conv1d(channels, 2 * channels, 3, padding=1)
        self.diffusion_projection = nn.Linear(channels, channels)
        self.conditioner_projection = nn.Conv1d(cond_channels, 2 * channels, 1)
        self.output_projection = nn.Conv1d(channels, 2 * channels, 1)

    def forward(self, x: Tensor, bias: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
        """What goes on (B, C, T) and what goes out (B, C, T); bias: (B, C, 1), projection: (B, 2 C, T)."""
        gate, signal = (self.dilated_conv(x + bias) + projection).chunk(2, dim=1)
        on, out = self.output_projection(torch.sigmoid(gate) * torch.tanh(signal)).chunk(2, dim=1)
        return (x + on) * math.sqrt(0.5), out


class WaveNet(nn.Module):
    """The noise in a noisy mel, as upstream names its weights (`decoder.denoise_fn`)."""

    def __init__(self, n_mels: int, layers: int, channels: int, cond_channels: int) -> None:
        super().__init__()
        self.n_mels, self.channels, self.cond_channels = n_mels, channels, cond_channels
        self.input_projection = nn.Conv1d(n_mels, channels, 1)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.Mish(), nn.Linear(4 * channels, channels))
        self.residual_layers = nn.ModuleList(ResidualBlock(channels, cond_channels) for _ in range(layers))
        self.skip_projection = nn.Conv1d(channels, channels, 1)
        self.output_projection = nn.Conv1d(channels, n_mels, 1)

    @property
    def layers(self) -> int:
        return len(self.residual_layers)

    @property
    def context_frames(self) -> int:
        """Frames each side that an output frame depends on: one per block."""
        return self.layers

    def forward(self, x: Tensor, time: Tensor, cond: Tensor) -> Tensor:
        """Noise (B, n_mels, T) in x (B, n_mels, T) at model times (B,), fractions allowed; cond: (B, H, T)."""
        return self.conditioned(x, self.step_biases(time), cond)

    def step_biases(self, time: Tensor) -> Tensor:
        """What model times (B,) add to the input of every block, one block under the other: (B, layers * C, 1)."""
        step = self.mlp(step_sinusoids(time, self.channels))
        return torch.cat([block.diffusion_projection(step) for block in self._blocks], dim=1).unsqueeze(-1)

    def projections(self, cond: Tensor) -> Tensor:
        """What the condition (B, H, T) adds inside every block, one block under the other: (B, layers * 2 C, T)."""
        return torch.cat([block.conditioner_projection(cond) for block in self._blocks], dim=1)

    def conditioned(self, x: Tensor, steps: Tensor, cond: Tensor) -> Tensor:
        """`forward` with what depends on the step worked out before."""
        return self._noise_in(x, steps, (block.conditioner_projection(cond) for block in self._blocks))

    def prepared(self, x: Tensor, steps: Tensor, projections: Tensor) -> Tensor:
        """`forward` with what depends on the step and on the condition worked out before."""
        return self._noise_in(x, steps, projections.chunk(self.layers, dim=1))

    def _noise_in(self, x: Tensor, steps: Tensor, added: Iterable[Tensor]) -> Tensor:
        x = torch.relu(self.input_projection(x))
        total: Tensor | None = None
        for block, bias, projection in zip(self._blocks, steps.chunk(self.layers, dim=1), added, strict=True):
            x, out = block(x, bias, projection)
            total = out if total is None else total + out
        assert total is not None
        skipped = self.skip_projection(total * math.sqrt(1 / self.layers))
        return cast(Tensor, self.output_projection(torch.relu(skipped)))

    @property
    def _blocks(self) -> list[ResidualBlock]:
        return cast(list[ResidualBlock], list(self.residual_layers))


def step_sinusoids(time: Tensor, channels: int) -> Tensor:
    """Model times (B,) as sines, then cosines, of ever longer periods: (B, channels), float32."""
    half = channels // 2
    places = torch.arange(half, dtype=torch.float32, device=time.device)
    rates = torch.exp(places * -(math.log(LONGEST_PERIOD) / (half - 1)))
    angles = time.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ConditionedDenoiser(nn.Module):
    """x (B, n_mels, T), steps (B, layers * C, 1) and cond (B, H, T) to noise: the form with small inputs."""

    def __init__(self, net: WaveNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, steps: Tensor, cond: Tensor) -> Tensor:
        return self.net.conditioned(x, steps, cond)


class SliceDenoiser:
    """The denoiser for one slice, in torch: called with x (B, n_mels, T) and a model time, once per step.

    Long slices go through in windows, which gives the same numbers in bounded memory.
    """

    def __init__(self, net: WaveNet, cond: Tensor, window_frames: int = WINDOW_FRAMES) -> None:
        self._net, self._cond = net, cond
        frames = cond.shape[-1]
        self._windows = [(first, min(frames, first + window_frames)) for first in range(0, frames, window_frames)]
        self._prepared = net.projections(cond) if len(self._windows) == 1 else None

    @torch.inference_mode()
    def __call__(self, x: Tensor, time: float) -> Tensor:
        steps = self._net.step_biases(torch.full((1,), time, dtype=torch.float32, device=x.device))
        if self._prepared is not None:
            return self._net.prepared(x, steps, self._prepared)
        return torch.cat([self._window(x, steps, first, stop) for first, stop in self._windows], dim=-1)

    def _window(self, x: Tensor, steps: Tensor, first: int, stop: int) -> Tensor:
        start, end = max(0, first - self._net.context_frames), stop + self._net.context_frames
        made = self._net.conditioned(x[..., start:end], steps, self._cond[..., start:end])
        return made[..., first - start : stop - start]
