"""Training losses of the demo voice: mel, multi-resolution STFT, and an adversary on spectrograms and folded waves."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from trt_svc.config import MelSpec
from trt_svc.features.mel import mel_filters

RESOLUTIONS = ((2048, 512), (1024, 256), (512, 128), (256, 64))
_WINDOWS: dict[int, Tensor] = {}


def magnitudes(audio: Tensor, n_fft: int, hop: int) -> Tensor:
    """(B, bins, frames) of audio (B, samples)."""
    window = _WINDOWS.setdefault(n_fft, torch.hann_window(n_fft))
    spectrum = torch.stft(audio, n_fft, hop, window=window, center=True, pad_mode="reflect", return_complex=True)
    return torch.sqrt(spectrum.real**2 + spectrum.imag**2 + 1e-9)


class SpectralLoss:
    """Log-mel L1 plus spectral convergence and log-magnitude L1 at several resolutions."""

    def __init__(self, mel: MelSpec) -> None:
        self.filters = {
            n: torch.from_numpy(mel_filters(replace(mel, n_fft=n, n_mels=m)))
            for n, m in ((2048, 128), (1024, 80), (512, 40))
        }

    def __call__(self, made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """(log-mel L1, multi-resolution STFT loss)."""
        mel = made.new_zeros(())
        stft = made.new_zeros(())
        for n_fft, hop in RESOLUTIONS:
            a, b = magnitudes(made, n_fft, hop), magnitudes(real, n_fft, hop)
            stft = stft + torch.linalg.vector_norm(b - a) / torch.linalg.vector_norm(b).clamp_min(1e-3)
            stft = stft + F.l1_loss(a.clamp_min(1e-4).log(), b.clamp_min(1e-4).log())
            if n_fft in self.filters:
                filters = self.filters[n_fft]
                mel = mel + F.l1_loss((filters @ a).clamp_min(1e-5).log(), (filters @ b).clamp_min(1e-5).log())
        return mel / len(self.filters), stft / len(RESOLUTIONS)


class SpectrogramCritic(nn.Module):
    """Looks at a log-magnitude spectrogram of one resolution."""

    def __init__(self, n_fft: int, hop: int, width: int = 12) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        shapes = [
            (1, width, (1, 1)),
            (width, width, (2, 1)),
            (width, 2 * width, (2, 1)),
            (2 * width, 2 * width, (2, 2)),
        ]
        self.convs = nn.ModuleList(weight_norm(nn.Conv2d(a, b, (5, 3), stride=s, padding=(2, 1))) for a, b, s in shapes)
        self.last = weight_norm(nn.Conv2d(2 * width, 1, 3, padding=1))

    def forward(self, audio: Tensor) -> list[Tensor]:
        x = magnitudes(audio, self.n_fft, self.hop).clamp_min(1e-4).log().unsqueeze(1)
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
            features.append(x)
        return [*features, self.last(x)]


class PeriodCritic(nn.Module):
    """Looks at the wave folded by a period (HiFi-GAN)."""

    def __init__(self, period: int, width: int = 16) -> None:
        super().__init__()
        self.period = period
        shapes = [(1, width), (width, 2 * width), (2 * width, 4 * width), (4 * width, 4 * width)]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (5, 1), stride=(3, 1), padding=(2, 0))) for a, b in shapes
        )
        self.last = weight_norm(nn.Conv2d(4 * width, 1, (3, 1), padding=(1, 0)))

    def forward(self, audio: Tensor) -> list[Tensor]:
        extra = -audio.shape[1] % self.period
        x = F.pad(audio[:, None], (0, extra), mode="reflect")[:, 0]
        x = x.view(len(x), 1, -1, self.period)
        features = []
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.1)
            features.append(x)
        return [*features, self.last(x)]


class Critics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.all = nn.ModuleList([SpectrogramCritic(1024, 256), SpectrogramCritic(512, 128)])
        self.all.extend(PeriodCritic(p) for p in (3, 7))

    def forward(self, audio: Tensor) -> list[list[Tensor]]:
        return [critic(audio) for critic in self.all]


def critic_loss(real: list[list[Tensor]], made: list[list[Tensor]]) -> Tensor:
    return torch.stack(
        [((1 - r[-1]) ** 2).mean() + (m[-1] ** 2).mean() for r, m in zip(real, made, strict=True)]
    ).mean()


def generator_loss(real: list[list[Tensor]], made: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
    """(least-squares adversarial loss, feature matching)."""
    fool = torch.stack([((1 - m[-1]) ** 2).mean() for m in made]).mean()
    pairs = [(a, b) for r, m in zip(real, made, strict=True) for a, b in zip(r[:-1], m[:-1], strict=True)]
    match = torch.stack([F.l1_loss(b, a.detach()) / a.detach().abs().mean().clamp_min(1e-4) for a, b in pairs]).mean()
    return fool, match
