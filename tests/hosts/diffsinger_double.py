"""A stand-in for DiffSinger: its registry of vocoders, the NSF-HiFiGAN in it, and the object that sings."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.hosts.generators import Keys
from tests.hosts.openvpi import RampDouble, loaded

hparams: dict[str, Any] = {}
VOCODERS: dict[str, type] = {}


def register_vocoder(kind: type) -> type:
    VOCODERS[kind.__name__.lower()] = VOCODERS[kind.__name__] = kind
    return kind


class AttrDict(Keys):
    """A missing key is None."""

    __module__ = "modules.nsf_hifigan.env"

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


class Generator(RampDouble):
    """Nine harmonics, or one sine behind the second upsampler (mini-NSF); with noise_sigma, noise behind conv_pre."""

    __module__ = "modules.nsf_hifigan.models"

    def add_parts(self) -> None:
        self.mini_nsf = self.h.mini_nsf
        self.noise_sigma = self.h.noise_sigma
        rates = self.h.upsample_rates
        self.upp = math.prod(rates[:2] if self.mini_nsf else rates)
        if not self.mini_nsf:
            super().add_parts()
            return
        self.source_sr = self.h.sampling_rate / math.prod(rates[2:])
        self.source_conv = nn.Conv1d(1, self.widths[2], 1)

    def fastsinegen(self, f0: Tensor) -> Tensor:
        """Each frame glides to the next one's pitch."""
        n = torch.arange(1, self.upp + 1)
        steps = f0[..., None] / self.source_sr
        glides = F.pad(steps.diff(dim=1), (0, 0, 0, 1))
        ramp = steps * n + 0.5 * glides * n * (n - 1) / self.upp
        ends = torch.fmod(ramp[..., -1:] + 0.5, 1.0) - 0.5
        starts = F.pad(ends.cumsum(1).fmod(1.0)[:, :-1], (0, 0, 1, 0))
        return torch.sin(2 * math.pi * (ramp + starts)).reshape(len(f0), 1, -1)

    def joined(self, stage: int, x: Tensor, source: Tensor | None) -> Tensor:
        if not self.mini_nsf:
            return super().joined(stage, x, source)
        return x + self.source_conv(source) if stage == 1 else x

    def forward(self, x: Tensor, f0: Tensor) -> Tensor:
        source = self.fastsinegen(f0) if self.mini_nsf else self.m_source(f0, self.upp)
        x = self.conv_pre(x)
        if self.noise_sigma is not None and self.noise_sigma > 0:
            x += self.noise_sigma * torch.randn_like(x)
        return self.trunk(x, source)


@register_vocoder
class NsfHifiGAN:
    __module__ = "modules.vocoders.nsf_hifigan"

    def __init__(self) -> None:
        self.model, self.h = loaded(Generator, hparams["vocoder_ckpt"], AttrDict)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def to_device(self, device: Any) -> None:
        self.model.to(device)

    def get_device(self) -> torch.device:
        return self.device

    def _sing(self, mel: Tensor, f0: Tensor | None) -> Tensor:
        with torch.no_grad():
            c = mel.transpose(2, 1)
            if hparams.get("mel_base", 10) != "e":
                c = 2.30259 * c
            return (self.model(c) if f0 is None else self.model(c, f0)).view(-1)

    def spec2wav_torch(self, mel: Tensor, **kwargs: Any) -> Tensor:
        return self._sing(mel, kwargs.get("f0"))

    def spec2wav(self, mel: np.ndarray[Any, Any], **kwargs: Any) -> np.ndarray[Any, Any]:
        f0 = kwargs.get("f0")
        f0 = None if f0 is None else torch.FloatTensor(f0[None, :]).to(self.device)
        return self._sing(torch.FloatTensor(mel)[None].to(self.device), f0).cpu().numpy()


@register_vocoder
class DDSP:
    """Its weights are a TorchScript program."""

    __module__ = "modules.vocoders.ddsp"

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it is what such vocoders are stored as
            self.model = torch.jit.trace(nn.Linear(2, 1), torch.zeros(1, 2))

    def to_device(self, device: Any) -> None:
        pass


class DiffSingerAcousticInfer:
    __module__ = "inference.ds_acoustic"

    def __init__(self, device: Any = None, load_model: bool = False, load_vocoder: bool = True) -> None:
        self.device = device or "cpu"
        if load_vocoder:
            self.vocoder = self.build_vocoder()

    def build_vocoder(self) -> Any:
        vocoder = VOCODERS[hparams["vocoder"]]()
        vocoder.to_device(self.device)
        return vocoder

    @torch.no_grad()
    def run_vocoder(self, spec: Tensor, **kwargs: Any) -> Tensor:
        return self.vocoder.spec2wav_torch(spec, **kwargs)[None]
