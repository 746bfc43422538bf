"""A stand-in for so-vits-svc 4.1: `Svc` with its voice, its diffusion's vocoder and its enhancer.

Written from facts about the project: same names and calls, same draws in the same order, quirks included.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.hosts.generators import Antialiased, HarmonicSource, Keys, SnakeBlock, SovitsDouble
from tests.hosts.openvpi import HARMONICS, RATE, RampDouble, StepSource, known_as, loaded, mel_of, stored_config
from tests.nets import short_config
from trt_svc.vocoders.healthy import healthy_net

SPEAKERS, UNITS = 3, 12
NSF = Path("nsf_hifigan/model")


class PerSampleSource(HarmonicSource):
    """Of the voice's decoder: the pitch is stretched first, every sample adds to the phase; one draw is never used."""

    def forward(self, f0: Tensor, hop: int) -> Tensor:
        f0 = f0.repeat_interleave(hop, 1)[..., None]
        steps = (f0 * torch.arange(1, HARMONICS + 1) / self.sampling_rate) % 1
        initial = torch.rand(len(f0), HARMONICS)
        initial[:, 0] = 0
        steps[:, 0] += initial
        sines = 0.1 * torch.sin(2 * math.pi * steps.cumsum(1))
        voiced = (f0 > 0).to(sines)
        noise = (voiced * 0.003 + (1 - voiced) * 0.1 / 3) * torch.randn_like(sines)
        merged = torch.tanh(self.l_linear((sines * voiced + noise).to(self.l_linear.weight)))
        torch.randn_like(voiced)
        return merged.transpose(1, 2)


@known_as("vdecoder.hifigan.models", "Generator")
class Decoder(SovitsDouble):
    """`dec(z, g=g, f0=f0)`"""

    def add_parts(self) -> None:
        super().add_parts()
        self.m_source = PerSampleSource(self.h.sampling_rate)


@known_as("vdecoder.hifiganwithsnake.models", "Generator")
class SnakeDecoder(Decoder):
    """Antialiased snakes in the place of leaky ReLUs."""

    def block(self, width: int, kernel: int, dilations: list[int]) -> nn.Module:
        return SnakeBlock(width, kernel, dilations)

    def add_parts(self) -> None:
        super().add_parts()
        self.snakes = nn.ModuleList(Antialiased(width) for width in self.widths[:-1])
        self.snake_post = Antialiased(self.widths[-1])

    def bent(self, x: Tensor) -> Tensor:
        return self.snakes[self.widths.index(x.shape[1])](x)

    def end(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv_post(self.snake_post(x)))


class SynthesizerTrn(nn.Module):
    __module__ = "models"

    def __init__(self, h: Keys) -> None:
        super().__init__()
        self.emb_g = nn.Embedding(SPEAKERS, h.gin_channels)
        self.pre = nn.Conv1d(UNITS, h.num_mels, 5, padding=2)
        self.dec = (SnakeDecoder if h.vocoder_name == "nsf-snake-hifigan" else Decoder)(h)

    def infer(self, c: Tensor, f0: Tensor, g: Tensor, noice_scale: float = 0.35, seed: int = 52468) -> Any:
        """Speakers by number, or mixed in every frame; the seed is set in every call."""
        torch.manual_seed(seed)
        mixed = g.is_floating_point()
        speaker = (g @ self.emb_g.weight)[None] if mixed else self.emb_g(g)
        m = self.pre(c)
        z = m + noice_scale * torch.randn_like(m)
        return self.dec(z, g=speaker.transpose(1, 2), f0=f0), f0


@known_as("vdecoder.nsf_hifigan.models", "Generator")
class Vocoding(RampDouble):
    source = StepSource


class AttrDict(Keys):
    __module__ = "vdecoder.nsf_hifigan.env"


def load_model(model_path: str, device: Any = "cuda") -> tuple[Any, Keys]:
    generator, h = loaded(Vocoding, model_path, AttrDict)
    return generator.to(device), h


@known_as("diffusion.vocoder", "NsfHifiGAN")
class LazyNetwork(nn.Module):
    """Its weights come with its first call."""

    def __init__(self, model_path: str, device: Any = None) -> None:
        super().__init__()
        self.device = device
        self.model_path = model_path
        self.model = None
        self.h = AttrDict(stored_config(model_path))

    def forward(self, mel: Tensor, f0: Tensor) -> Tensor:
        if self.model is None:
            self.model, self.h = load_model(self.model_path, device=self.device)
        with torch.no_grad():
            return self.model(mel.transpose(1, 2), f0)


class Vocoder:
    __module__ = "diffusion.vocoder"

    def __init__(self, vocoder_type: str, vocoder_ckpt: str, device: Any = None) -> None:
        self.device = device or "cpu"
        self.vocoder = LazyNetwork(vocoder_ckpt, device=self.device)
        self.dimension = self.vocoder.h.num_mels

    def extract(self, audio: Tensor, sample_rate: int, keyshift: int = 0) -> Tensor:
        return mel_of(audio, keyshift).transpose(1, 2)

    def infer(self, mel: Tensor, f0: Tensor) -> Tensor:
        return self.vocoder(mel, f0[:, : mel.size(1), 0])


@known_as("modules.enhancer", "NsfHifiGAN")
class EagerNetwork(nn.Module):
    def __init__(self, model_path: str, device: Any = None) -> None:
        super().__init__()
        self.device = device
        self.model, self.h = load_model(model_path, device=device)

    def forward(self, audio: Tensor, f0: Tensor) -> tuple[Tensor, int]:
        with torch.no_grad():
            mel = mel_of(audio)
            return self.model(mel, f0[:, : mel.size(-1)]).view(-1), self.h.sampling_rate


class Enhancer:
    __module__ = "modules.enhancer"

    def __init__(self, enhancer_type: str, enhancer_ckpt: str, device: Any = None) -> None:
        self.device = device or "cpu"
        self.enhancer = EagerNetwork(enhancer_ckpt, device=self.device)

    def enhance(self, audio: Tensor, sample_rate: int, f0: Tensor, hop_size: int) -> tuple[Tensor, int]:
        return self.enhancer(audio, f0[..., 0])


class Svc:
    __module__ = "inference.infer_tool"

    def __init__(
        self,
        net_g_path: str,
        device: str | None = None,
        nsf_hifigan_enhance: bool = False,
        shallow_diffusion: bool = False,
        only_diffusion: bool = False,
    ) -> None:
        self.net_g_path = net_g_path
        self.dev = torch.device(device or "cpu")
        self.only_diffusion = only_diffusion
        self.shallow_diffusion = shallow_diffusion
        self.nsf_hifigan_enhance = nsf_hifigan_enhance
        nsf = str(Path(net_g_path).parent / NSF)
        if not only_diffusion:
            self.load_model()
        if shallow_diffusion or only_diffusion:
            self.vocoder = Vocoder("nsf-hifigan", nsf, device=self.dev)
        if nsf_hifigan_enhance:
            self.enhancer = Enhancer("nsf-hifigan", nsf, device=self.dev)

    def load_model(self) -> None:
        stored = torch.load(self.net_g_path, weights_only=True)
        self.net_g_ms = SynthesizerTrn(Keys(stored["h"]))
        self.net_g_ms.load_state_dict(stored["model"])
        self.dtype = next(iter(self.net_g_ms.parameters())).dtype
        self.net_g_ms.eval().to(self.dev)

    def infer(self, units: Tensor, f0: Tensor, speaker: Tensor) -> Tensor:
        """One slice: (1, units, frames) and (1, frames) to (samples)."""
        with torch.no_grad():
            if self.only_diffusion:
                audio = F.pad(units.reshape(1, -1), (0, 64))
            else:
                made, _ = self.net_g_ms.infer(units.to(self.dtype), f0.to(self.dtype), speaker)
                audio = made[0, 0].data.float()[None]
            if self.shallow_diffusion or self.only_diffusion:
                mel = self.vocoder.extract(audio, RATE)
                audio = self.vocoder.infer(mel, F.pad(f0, (0, 9))[..., None])[:, 0].float()
            if self.nsf_hifigan_enhance:
                audio, _ = self.enhancer.enhance(audio, RATE, F.pad(f0, (0, 9))[..., None], 16)
        return audio.reshape(-1)

    def slice_inference(self, units: Tensor, f0: Tensor, speaker: Tensor, clips: int = 2) -> Tensor:
        """Slice after slice, all of them kept until the end."""
        kept = [self.infer(*piece, speaker) for piece in zip(units.chunk(clips, 2), f0.chunk(clips, 1), strict=True)]
        return torch.cat(kept)

    def clear_empty(self) -> None:
        torch.cuda.empty_cache()

    def unload_model(self) -> None:
        self.net_g_ms = self.net_g_ms.to("cpu")
        del self.net_g_ms
        if hasattr(self, "enhancer"):
            self.enhancer.enhancer = self.enhancer.enhancer.to("cpu")
            del self.enhancer.enhancer, self.enhancer


def voice_file(path: Path, seed: int = 0, net: str = "sovits_dec", **changes: Any) -> str:
    """Random weights that sound."""
    family, config, _ = short_config(net)
    h = {"vocoder_name": "nsf-hifigan", **config, "num_mels": config["inter_channels"], **changes}
    torch.manual_seed(seed)
    voice = SynthesizerTrn(Keys(h))
    if not changes:
        missing = voice.dec.load_state_dict(healthy_net(family, config, seed=seed).state_dict(), strict=False)
        assert all(name.endswith(".filter") for name in missing.missing_keys) and not missing.unexpected_keys
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": voice.state_dict(), "h": h}, path)
    return str(path)
