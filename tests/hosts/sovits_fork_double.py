"""A stand-in for so-vits-svc-fork: `Svc` with its voice, whose decoder is one of two kinds.

Written from facts about the project: same names and calls, same draws in the same order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm

from tests.hosts.generators import CONVOLUTIONS, Keys, normed
from tests.hosts.openvpi import known_as
from tests.hosts.sovits_double import SPEAKERS, UNITS, Decoder
from tests.nets import short_config
from trt_svc.vocoders.healthy import healthy_net


@known_as("so_vits_svc_fork.modules.decoders.hifigan._models", "NSFHifiGANGenerator")
class Generator(Decoder):
    """`dec(z, g=g, f0=f0)`; paddings round down."""

    pads_up = 0


@known_as("so_vits_svc_fork.modules.decoders.mb_istft._generators", "Multiband_iSTFT_Generator")
class InverseTransform(nn.Module):
    """`dec(z, g=g)` gives the audio and its bands."""

    def __init__(self, h: Keys) -> None:
        super().__init__()
        self.conv_pre = nn.Conv1d(h.num_mels, 34, 7, 1, 3)
        self.cond = nn.Conv1d(h.gin_channels, 34, 1)

    def forward(self, x: Tensor, g: Tensor | None = None) -> tuple[Tensor, Tensor]:
        real, imaginary = (self.conv_pre(x) + self.cond(g)).chunk(2, 1)
        bands = torch.fft.irfft(torch.complex(real, imaginary), dim=1)
        return bands.transpose(1, 2).reshape(len(x), 1, -1), bands


class SynthesizerTrn(nn.Module):
    __module__ = "so_vits_svc_fork.modules.synthesizers"

    def __init__(self, h: Keys, type_: str = "hifi-gan") -> None:
        super().__init__()
        self.type_ = type_
        self.mb = type_ != "hifi-gan"
        self.emb_g = nn.Embedding(SPEAKERS, h.gin_channels)
        self.pre = nn.Conv1d(UNITS, h.num_mels, 5, padding=2)
        self.dec = InverseTransform(h) if self.mb else Generator(h)

    def infer(self, c: Tensor, f0: Tensor, g: Tensor, noice_scale: float = 0.35) -> Tensor:
        speaker = self.emb_g(g).transpose(1, 2)
        m = self.pre(c)
        z = m + noice_scale * torch.randn_like(m)
        if not self.mb:
            return self.dec(z, g=speaker, f0=f0)
        audio, _ = self.dec(z, g=speaker)
        return audio


class Svc:
    __module__ = "so_vits_svc_fork.inference.core"

    def __init__(self, *, net_g_path: Path, device: str = "cpu", half: bool = False) -> None:
        self.net_g_path = net_g_path
        self.device = torch.device(device)
        self.dtype = torch.float16 if half else torch.float32
        self.load_model()

    def load_model(self) -> None:
        stored = torch.load(self.net_g_path, weights_only=True)
        self.net_g = SynthesizerTrn(Keys(stored["h"]), stored["type_"])
        with_norm(self.net_g)
        self.net_g.load_state_dict(stored["model"])
        self.net_g.eval()
        for module in self.net_g.modules():
            remove_norm(module)
        self.net_g.to(self.device, dtype=self.dtype)

    def infer(self, speaker: int, units: Tensor, f0: Tensor) -> Tensor:
        with torch.no_grad():
            made = self.net_g.infer(units.to(self.dtype), f0.to(self.dtype), torch.tensor([[speaker]]))
        torch.cuda.empty_cache()
        return made[0, 0].data.float()

    def infer_silence(self, units: Tensor, f0: Tensor, speaker: int = 1) -> Tensor:
        pieces = zip(units.chunk(2, 2), f0.chunk(2, 1), strict=True)
        return torch.cat([self.infer(speaker, *piece) for piece in pieces])


def with_norm(voice: nn.Module) -> None:
    for module in voice.modules():
        if isinstance(module, CONVOLUTIONS):
            normed(module, "hooks")


def remove_norm(module: nn.Module) -> None:
    """Looks for the hook itself, among whatever hooks there are."""
    for key, hook in module._forward_pre_hooks.items():
        if isinstance(hook, WeightNorm) and hook.name == "weight":
            hook.remove(module)
            del module._forward_pre_hooks[key]
            return


def voice_file(path: Path, seed: int = 0, type_: str = "hifi-gan", **changes: Any) -> Path:
    """Random weights that sound, as training stores them."""
    family, config, _ = short_config("sovits_dec")
    h = {**config, "num_mels": config["inter_channels"], **changes}
    torch.manual_seed(seed)
    voice = SynthesizerTrn(Keys(h), type_)
    if type_ == "hifi-gan" and not changes:
        voice.dec.load_state_dict(healthy_net(family, config, seed=seed).state_dict())
    with_norm(voice)
    torch.save({"model": voice.state_dict(), "h": h, "type_": type_}, path)
    return path
