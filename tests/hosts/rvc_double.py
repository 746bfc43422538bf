"""A stand-in for RVC: the two generators, the synthesizers around them, and the objects that hold a voice."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.hosts.generators import HiFiGANDouble, Keys, config, normed
from tests.hosts.openvpi import known_as
from trt_svc.vocoders.healthy import healthy_net

RATE_HZ, INTER, GIN, SPEAKERS = 16000, 8, 6, 3
UNITS = {"v1": 256, "v2": 768}
FRAMES = 40
MODELS = "infer.module.models"


class StepSine(nn.Module):
    """One sine: a sum over samples in float32, taken back where the phase that frames interpolate to has wrapped."""

    def __init__(self, rate_hz: int) -> None:
        super().__init__()
        self.sampling_rate = rate_hz

    def forward(self, f0: Tensor, hop: int) -> Tensor:
        steps = (f0[..., None] / self.sampling_rate) % 1
        torch.rand(len(f0), 1)  # an initial phase, which the fundamental does not get
        coarse = (steps.cumsum(1) * hop).transpose(1, 2)
        fine = F.interpolate(coarse, scale_factor=float(hop), mode="linear", align_corners=True).transpose(1, 2) % 1
        wraps = F.pad((fine.diff(dim=1) < 0).float(), (0, 0, 1, 0))
        sine = 0.1 * torch.sin(2 * math.pi * (steps.repeat_interleave(hop, 1) - wraps).cumsum(1))
        voiced = (f0 > 0).float().repeat_interleave(hop, 1)[..., None]
        return sine * voiced + (0.003 * voiced + (1 - voiced) / 30) * torch.randn_like(sine)


class Source(nn.Module):
    """Gives a tuple of which nothing but the first entry is anything."""

    def __init__(self, sines: nn.Module) -> None:
        super().__init__()
        self.l_sin_gen = sines
        self.l_linear = nn.Linear(1, 1)

    def forward(self, f0: Tensor, hop: int) -> tuple[Tensor, None, None]:
        sines = self.l_sin_gen(f0, hop).to(self.l_linear.weight.dtype)
        return torch.tanh(self.l_linear(sines)), None, None


def resized(x: Tensor, length: int) -> Tensor:
    return x if x.shape[-1] == length else F.interpolate(x, size=length, mode="linear")


@known_as(MODELS, "Generator")
class Generator(HiFiGANDouble):
    """`dec(z, g=g, n_res=None)`: of a voice without pitch. The shift of the formants resizes its input."""

    family = "gptsovits_generator"
    ends_with_bias = False

    def __init__(self, h: Keys) -> None:
        super().__init__(h)
        pairs = zip(h.upsample_rates, h.upsample_kernel_sizes, strict=True)
        self.ups = nn.ModuleList(self.upsampler(*self.widths[i : i + 2], k, u) for i, (u, k) in enumerate(pairs))
        del self.h  # the host's carries none

    def upsampler(self, width_in: int, width_out: int, kernel: int, rate: int) -> nn.Module:
        return nn.ConvTranspose1d(width_in, width_out, kernel, rate, (kernel - rate) // 2)

    def add_parts(self) -> None:
        self.cond = nn.Conv1d(self.h.gin_channels, self.widths[0], 1)

    def bent(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.1)

    def trunk(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        blocks = len(self.resblocks) // len(self.ups)
        for stage, up in enumerate(self.ups):
            x = self.joined(stage, up(self.bent(x)), source)
            x = sum(block(x) for block in self.resblocks[stage * blocks : (stage + 1) * blocks]) / blocks
        return self.end(x)

    def forward(self, x: Tensor, g: Tensor | None = None, n_res: int | Tensor | None = None) -> Tensor:
        x = self.conv_pre(x if n_res is None else resized(x, int(n_res)))
        return self.trunk(x if g is None else x + self.cond(g))


@known_as(MODELS, "GeneratorNSF")
class GeneratorNSF(Generator):
    """`dec(z, f0, g=g, n_res=None)`: the source is resized too."""

    family = "rvc_dec"

    def add_parts(self) -> None:
        rates = self.h.upsample_rates
        self.upp = math.prod(rates)
        self.m_source = Source(self.sines())
        self.noise_convs = nn.ModuleList()
        for stage, width in enumerate(self.widths[1:]):
            s = math.prod(rates[stage + 1 :])
            kernel = 2 * s - s % 2
            self.noise_convs.append(nn.Conv1d(1, width, kernel, s, (kernel - s) // 2))
        super().add_parts()

    def sines(self) -> nn.Module:
        return StepSine(self.h.sampling_rate)

    def joined(self, stage: int, x: Tensor, source: Tensor | None) -> Tensor:
        return x + self.noise_convs[stage](source)

    def forward(self, x: Tensor, f0: Tensor, g: Tensor | None = None, n_res: int | Tensor | None = None) -> Tensor:
        source = self.m_source(f0, self.upp)[0].transpose(1, 2)
        if n_res is not None:
            x, source = resized(x, int(n_res)), resized(source, int(n_res) * self.upp)
        x = self.conv_pre(x)
        return self.trunk(x if g is None else x + self.cond(g), source)


def keys(**changes: Any) -> Keys:
    upsamplers = {"upsample_rates": [10, 4, 2, 2], "upsample_kernel_sizes": [16, 16, 4, 4]}
    speaker = {"inter_channels": INTER, "initial_channel": INTER, "num_mels": INTER, "gin_channels": GIN}
    return config(**{"sampling_rate": RATE_HZ, **upsamplers, **speaker, **changes})


def generator(kind: type[HiFiGANDouble], seed: int = 0, norm: str = "hooks", **changes: Any) -> Any:
    """With calibrated weights, under the weight norm in which the host leaves them."""
    dec = kind(keys(**changes))
    dec.load_state_dict(healthy_net(kind.family, keys(**changes), seed=seed).state_dict())
    for layer in [*dec.ups, *(conv for conv in dec.resblocks.modules() if isinstance(conv, nn.Conv1d))]:
        if norm != "none":
            normed(layer, norm)
    return dec.eval().requires_grad_(False)


class Synthesizer(nn.Module):
    """From units to a latent with noise on it, and the decoder."""

    units = UNITS["v2"]
    generator: type[HiFiGANDouble] = GeneratorNSF

    def __init__(self, seed: int = 0, is_half: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.emb_g = nn.Embedding(SPEAKERS, GIN)
        self.enc_p = nn.Linear(self.units, INTER)
        self.dec = generator(self.generator, seed)
        self.eval().requires_grad_(False)

    def latent(self, phone: Tensor, head: Any, length: Any) -> Tensor:
        z = self.enc_p(phone).transpose(1, 2)
        z = torch.tanh(z) + 0.3 * torch.randn_like(z)
        return z if head is None or length is None else z[:, :, int(head) : int(head) + int(length)]


@known_as(MODELS, "SynthesizerTrnMs768NSFsid")
class WithPitch(Synthesizer):
    def infer(
        self, phone: Tensor, phone_lengths: Tensor, pitch: Tensor, nsff0: Tensor, sid: Tensor,
        skip_head: Any = None, return_length: Any = None, return_length2: Any = None,
    ) -> Any:  # fmt: skip
        g = self.emb_g(sid).unsqueeze(-1)
        z = self.latent(phone, skip_head, return_length)
        if skip_head is not None and return_length is not None:
            nsff0 = nsff0[:, int(skip_head) : int(skip_head) + int(return_length)]
        return self.dec(z, nsff0, g=g, n_res=return_length2), None, (z,)


@known_as(MODELS, "SynthesizerTrnMs256NSFsid_nono")
class WithoutPitch(Synthesizer):
    units = UNITS["v1"]
    generator = Generator

    def infer(
        self, phone: Tensor, phone_lengths: Tensor, sid: Tensor,
        skip_head: Any = None, return_length: Any = None, return_length2: Any = None,
    ) -> Any:  # fmt: skip
        g = self.emb_g(sid).unsqueeze(-1)
        z = self.latent(phone, skip_head, return_length)
        return self.dec(z, g=g, n_res=return_length2), None, (z,)


@known_as("infer.vc.modules", "VC")
class VC:
    """The web page's: a voice is loaded by its name, and put away by an empty one."""

    def __init__(self, is_half: bool = False) -> None:
        self.net_g: Any = None
        self.if_f0 = 1
        self.is_half = is_half

    def get_vc(self, sid: str, *to_return_protect: Any) -> dict[str, Any]:
        if sid == "":
            del self.net_g
            return {"visible": False}
        voice = torch.load(Path(sid), weights_only=True)
        self.if_f0 = voice["f0"]
        self.net_g = (WithPitch if self.if_f0 else WithoutPitch)(is_half=self.is_half)
        self.net_g.load_state_dict(voice["weight"], strict=False)
        self.net_g.eval()
        self.net_g = self.net_g.half() if self.is_half else self.net_g.float()
        return {"visible": True, "maximum": SPEAKERS}

    def vc(self, units: Tensor, f0: Tensor | None) -> Tensor:
        """The middle of `Pipeline.vc`."""
        lengths, sid = torch.tensor([units.shape[1]]), torch.tensor([1])
        with torch.no_grad():
            if f0 is None:
                audio = run_cuda_graph(lambda *given: self.net_g.infer(*given)[0], units, lengths, sid)
            else:
                coarse = f0.round().long()
                audio = run_cuda_graph(lambda *given: self.net_g.infer(*given)[0], units, lengths, coarse, f0, sid)
            return audio[0, 0].data.cpu().float()


@known_as("infer.rtrvc", "RVC")
class RVC:
    """The realtime window's: a block is the end of what it is given, `formant` semitones resize it."""

    def __init__(self, net_g: Any, formant: float = 0.0) -> None:
        self.net_g = net_g
        self.formant_shift = formant

    def infer(self, units: Tensor, f0: Tensor, skip_head: int, return_length: int) -> Tensor:
        longer = math.ceil(return_length * 2 ** (self.formant_shift / 12))
        coarse, f0, lengths = f0.round().long(), f0 * longer / return_length, torch.tensor([units.shape[1]])
        with torch.no_grad():
            audio = self.net_g.infer(
                units, lengths, coarse, f0, torch.tensor([0]), skip_head, return_length, longer
            )[0]  # fmt: skip
        return audio.squeeze(1).float().squeeze()


captures = False
"""Set by a test: as on a GPU with RVC_CUDA_GRAPH=1."""
WARM_UPS = 3


def run_cuda_graph(function: Callable[..., Any], *inputs: Any) -> Any:
    """Three calls to warm up, one that is captured; what comes of a replay is what the captured one would give."""
    if not captures:
        return function(*inputs)
    for _ in range(WARM_UPS):
        function(*inputs)
    before = torch.cuda.is_current_stream_capturing
    torch.cuda.is_current_stream_capturing = lambda: True
    try:
        return function(*inputs).clone()
    finally:
        torch.cuda.is_current_stream_capturing = before


def voice_file(path: Path, seed: int = 0, pitch: bool = True) -> str:
    kind = WithPitch if pitch else WithoutPitch
    torch.save({"weight": kind(seed).state_dict(), "f0": int(pitch)}, path)
    return str(path)


def units(frames: int = FRAMES, version: str = "v2") -> Tensor:
    return torch.randn(1, frames, UNITS[version], generator=torch.Generator().manual_seed(0)) / 10


def glide_hz(frames: int = FRAMES) -> Tensor:
    f0 = 220 * 2 ** (0.4 * torch.sin(torch.arange(frames) / 6))
    f0[frames // 2 : frames // 2 + 4] = 0
    return f0[None]
