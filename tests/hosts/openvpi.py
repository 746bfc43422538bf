"""What the stand-ins of DDSP-SVC, Diffusion-SVC and DiffSinger share: the vocoder that all three grew from.

Written for these tests from what the projects do: same names, same signatures, same draws in the same order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.hosts.generators import HarmonicSource, Keys, NsfDouble
from tests.nets import healthy_short, short_config
from trt_svc.config import MelSpec
from trt_svc.features.mel import log_mel

RATE, HOP, BINS = 44100, 16, 128
HARMONICS = 9
FRAMES = 160


def known_as(module: str, name: str) -> Callable[[type], Any]:
    """For classes whose real name another one has here."""

    def renamed(kind: type) -> type:
        kind.__module__ = module
        kind.__name__ = kind.__qualname__ = name
        return kind

    return renamed


class AttrDict(Keys):
    __module__ = "nsf_hifigan.env"


class RampSource(HarmonicSource):
    """DDSP-SVC and DiffSinger: a ramp in every frame on a wrapped sum over frames; one initial phase for all rows."""

    def cycles(self, f0: Tensor, hop: int) -> Tensor:
        ramp = f0[..., None] / self.sampling_rate * torch.arange(1, hop + 1)
        ends = torch.fmod(ramp[..., -1] + 0.5, 1.0) - 0.5
        starts = F.pad(ends.cumsum(1).fmod(1.0)[:, :-1], (1, 0))
        fundamental = (ramp + starts[..., None]).reshape(len(f0), -1, 1)
        initial = torch.rand(1, 1, HARMONICS)
        initial[..., 0] = 0
        return fundamental * torch.arange(1, HARMONICS + 1) + initial

    def forward(self, f0: Tensor, hop: int) -> Tensor:
        sines = 0.1 * torch.sin(2 * math.pi * self.cycles(f0, hop))
        voiced = (f0 > 0).float().repeat_interleave(hop, 1)[..., None]
        noise = (voiced * 0.003 + (1 - voiced) * 0.1 / 3) * torch.randn_like(sines)
        return torch.tanh(self.l_linear(sines * voiced + noise)).transpose(1, 2)


class StepSource(RampSource):
    """Diffusion-SVC: a sum over samples, taken back at the wraps of the interpolated phase; initial phases by row."""

    def cycles(self, f0: Tensor, hop: int) -> Tensor:
        steps = (f0[..., None] * torch.arange(1, HARMONICS + 1) / self.sampling_rate) % 1
        initial = torch.rand(len(f0), HARMONICS)
        initial[:, 0] = 0
        steps[:, 0] += initial
        coarse = (steps.double().cumsum(1).float() * hop).transpose(1, 2)
        fine = F.interpolate(coarse, scale_factor=hop, mode="linear", align_corners=True).transpose(1, 2) % 1
        wraps = F.pad((fine.diff(dim=1) < 0).double(), (0, 0, 1, 0))
        return (steps.double().repeat_interleave(hop, 1) - wraps).cumsum(1).float()


class RampDouble(NsfDouble):
    """The source draws as the real one does."""

    source: type[RampSource] = RampSource

    def add_parts(self) -> None:
        super().add_parts()
        self.m_source = self.source(self.h.sampling_rate)


def vocoder_file(folder: Path, net: str = "nsf_hifigan", name: str = "model", **changes: Any) -> Path:
    """Random weights that sound, and the config.json beside them."""
    config = {**short_config(net)[1], **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save({"generator": healthy_short(net).state_dict()}, folder / name)
    return folder / name


def stored_config(path: str | Path) -> Keys:
    return AttrDict(json.loads(Path(path).with_name("config.json").read_text()))


def loaded(kind: type[nn.Module], path: str | Path, keys: type[Keys] = AttrDict) -> tuple[Any, Keys]:
    h = keys(stored_config(path))
    generator = kind(h)
    generator.load_state_dict(torch.load(path, weights_only=True)["generator"])
    return generator.eval(), h


def mel_of(audio: Tensor, keyshift: float = 0) -> Tensor:
    """(batch, bins, frames)"""
    spec = MelSpec(RATE, 2048, 2048, HOP, BINS, 40.0, 16000.0, "nvstft")
    return torch.from_numpy(log_mel(audio.numpy(), spec, key_shift=keyshift))


def glide_hz(frames: int = FRAMES) -> Tensor:
    """(1, frames), a gap without voice in it."""
    f0 = 220 * 2 ** (0.4 * torch.sin(torch.arange(frames) / 20))
    f0[frames // 2 : frames // 2 + 9] = 0
    return f0[None]


def sung(f0_hz: Tensor) -> Tensor:
    """(1, samples) of a few harmonics."""
    pitch = f0_hz.repeat_interleave(HOP, 1)
    phase = 2 * math.pi * pitch.cumsum(1) / RATE
    harmonics = [0.2 / n * torch.sin(n * phase) * (pitch > 0) for n in range(1, 12)]
    hiss = torch.randn(pitch.shape, generator=torch.Generator().manual_seed(0))
    return sum(harmonics) + 0.01 * hiss


class LazyNsfHifiGAN(nn.Module):
    """Reads its config when it is made and its weights at its first call, which then draws random numbers too."""

    def __init__(self, model_path: str, device: Any = None) -> None:
        super().__init__()
        self.device = device or "cpu"
        self.model_path = model_path
        self.model = None
        self.h = stored_config(model_path)

    def sample_rate(self) -> int:
        return self.h.sampling_rate

    def hop_size(self) -> int:
        return self.h.hop_size

    def dimension(self) -> int:
        return self.h.num_mels

    def extract(self, audio: Tensor, keyshift: float = 0) -> Tensor:
        return mel_of(audio, keyshift).transpose(1, 2)


class VocoderDouble:
    """Plain object around the module."""

    kinds: dict[str, type[LazyNsfHifiGAN]]

    def __init__(self, vocoder_type: str, vocoder_ckpt: str, device: Any = None) -> None:
        self.device = device or "cpu"
        self.vocoder = self.kinds[vocoder_type](vocoder_ckpt, device=self.device)
        self.vocoder_sample_rate = self.vocoder.sample_rate()
        self.vocoder_hop_size = self.vocoder.hop_size()
        self.dimension = self.vocoder.dimension()

    def infer(self, mel: Tensor, f0: Tensor) -> Tensor:
        return self.vocoder(mel, f0[:, : mel.size(1), 0])
