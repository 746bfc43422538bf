"""Small generators as they live inside hosts: upstream's attribute names and order of work, random weights that sound.

Written for these tests from the published shape of the networks; each is one class, called as its hosts call it.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from trt_svc.difference import difference
from trt_svc.vocoders.healthy import healthy_net

RATE_HZ, MELS, SPEAKER = 16000, 80, 6
CONVOLUTIONS = (nn.Conv1d, nn.ConvTranspose1d)


class Keys(dict[str, Any]):
    """A config whose keys are attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def config(**changes: Any) -> Keys:
    return Keys(
        {
            "sampling_rate": RATE_HZ,
            "num_mels": MELS,
            "resblock": "1",
            "upsample_rates": [4, 2],
            "upsample_kernel_sizes": [8, 4],
            "upsample_initial_channel": 16,
            "resblock_kernel_sizes": [3, 5],
            "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5]],
            **changes,
        }
    )


class ResBlock1(nn.Module):
    def __init__(self, width: int, kernel: int, dilations: list[int]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            nn.Conv1d(width, width, kernel, 1, d * (kernel - 1) // 2, dilation=d) for d in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(width, width, kernel, 1, (kernel - 1) // 2) for _ in dilations)

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, 0.1)), 0.1))
        return x


class ResBlock2(nn.Module):
    def __init__(self, width: int, kernel: int, dilations: list[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, kernel, 1, d * (kernel - 1) // 2, dilation=d) for d in dilations[:2]
        )

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = x + conv(F.leaky_relu(x, 0.1))
        return x


class HiFiGANDouble(nn.Module):
    """`generator(mel)`: (batch, mels, frames) to (batch, 1, samples)."""

    family = "hifigan"
    slope = 0.1
    pads_up = 0
    """so-vits-svc's decoder rounds the padding of its upsamplers up."""
    ends_with_bias = True

    def __init__(self, h: Keys) -> None:
        super().__init__()
        self.h = h
        self.widths = [h.upsample_initial_channel // 2**i for i in range(len(h.upsample_rates) + 1)]
        self.conv_pre = nn.Conv1d(h.num_mels, self.widths[0], 7, 1, 3)
        self.ups = nn.ModuleList(
            self.wrapped(nn.ConvTranspose1d(*self.widths[i : i + 2], k, u, (k - u + self.pads_up) // 2))
            for i, (u, k) in enumerate(zip(h.upsample_rates, h.upsample_kernel_sizes, strict=True))
        )
        self.resblocks = nn.ModuleList(
            self.block(width, kernel, dilations)
            for width in self.widths[1:]
            for kernel, dilations in zip(h.resblock_kernel_sizes, h.resblock_dilation_sizes, strict=True)
        )
        self.conv_post = nn.Conv1d(self.widths[-1], 1, 7, 1, 3, bias=self.ends_with_bias)
        self.add_parts()

    def wrapped(self, up: nn.Module) -> nn.Module:
        return up

    def block(self, width: int, kernel: int, dilations: list[int]) -> nn.Module:
        return (ResBlock1 if self.h.resblock == "1" else ResBlock2)(width, kernel, dilations)

    def add_parts(self) -> None:
        pass

    def joined(self, stage: int, x: Tensor, source: Tensor | None) -> Tensor:
        return x

    def bent(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.slope)

    def end(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv_post(F.leaky_relu(x)))

    def trunk(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        """Everything behind conv_pre."""
        blocks = len(self.h.resblock_kernel_sizes)
        for stage, up in enumerate(self.ups):
            x = self.joined(stage, up(self.bent(x)), source)
            made = None
            for block in self.resblocks[stage * blocks : (stage + 1) * blocks]:
                made = block(x) if made is None else made + block(x)
            x = made / blocks
        return self.end(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(self.conv_pre(x))

    def remove_weight_norm(self) -> None:
        for layer in self.modules():
            if parametrize.is_parametrized(layer):
                parametrize.remove_parametrizations(layer, "weight")
            elif isinstance(layer, CONVOLUTIONS) and hasattr(layer, "weight_g"):
                nn.utils.remove_weight_norm(layer)


class HarmonicSource(nn.Module):
    """Nine harmonics and noise from torch's own random numbers, merged by one linear layer."""

    def __init__(self, rate_hz: int) -> None:
        super().__init__()
        self.sampling_rate = rate_hz
        self.l_linear = nn.Linear(9, 1)

    def forward(self, f0: Tensor, hop: int) -> Tensor:
        f0 = f0.repeat_interleave(hop, 1)[..., None] * torch.arange(1, 10, device=f0.device)
        initial = torch.rand(len(f0), 1, 9, device=f0.device)
        phase = (f0 / self.sampling_rate).cumsum(1) + initial
        voiced = (f0[..., :1] > 0).float()
        sines = 0.1 * voiced * torch.sin(2 * math.pi * phase)
        sines = sines + (0.003 * voiced + (1 - voiced) / 30) * torch.randn_like(sines)
        return torch.tanh(self.l_linear(sines.to(self.l_linear.weight.dtype))).transpose(1, 2)


class NsfDouble(HiFiGANDouble):
    """`generator(mel, f0)`: the source is added behind every upsampler."""

    family = "nsf_hifigan"

    def add_parts(self) -> None:
        rates = self.h.upsample_rates
        self.m_source = HarmonicSource(self.h.sampling_rate)
        self.noise_convs = nn.ModuleList()
        for stage, width in enumerate(self.widths[1:]):
            s = math.prod(rates[stage + 1 :])
            conv = nn.Conv1d(1, width, 2 * s, s, (s + self.pads_up) // 2) if s > 1 else nn.Conv1d(1, width, 1)
            self.noise_convs.append(conv)

    def joined(self, stage: int, x: Tensor, source: Tensor | None) -> Tensor:
        return x + self.noise_convs[stage](source)

    def forward(self, x: Tensor, f0: Tensor) -> Tensor:
        source = self.m_source(f0, math.prod(self.h.upsample_rates))
        return self.trunk(self.conv_pre(x), source)


class MiniDouble(NsfDouble):
    """One sine, added behind the second upsampler; random numbers behind conv_pre."""

    def add_parts(self) -> None:
        self.source_conv = nn.Conv1d(1, self.widths[2], 1)

    def joined(self, stage: int, x: Tensor, source: Tensor | None) -> Tensor:
        return x + self.source_conv(source) if stage == 1 else x

    def forward(self, x: Tensor, f0: Tensor) -> Tensor:
        hop = math.prod(self.h.upsample_rates[:2])
        cycles = (f0.repeat_interleave(hop, 1) / self.h.sampling_rate).cumsum(1)
        x = self.conv_pre(x)
        x = x + self.h.noise_sigma * torch.randn_like(x)
        return self.trunk(x, torch.sin(2 * math.pi * cycles)[:, None])


class SovitsDouble(NsfDouble):
    """`dec(z, g=g, f0=f0)`, as so-vits-svc has it: a speaker, and paddings that round up."""

    family = "sovits_dec"
    pads_up = 1

    def add_parts(self) -> None:
        super().add_parts()
        self.cond = nn.Conv1d(self.h.gin_channels, self.widths[0], 1)

    def forward(self, x: Tensor, f0: Tensor, g: Tensor | None = None) -> Tensor:
        source = self.m_source(f0, math.prod(self.h.upsample_rates))
        x = self.conv_pre(x)
        return self.trunk(x if g is None else x + self.cond(g), source)


class SpeakerDouble(HiFiGANDouble):
    """`dec(z, g=None)`, as GPT-SoVITS v2 has it."""

    family = "gptsovits_generator"
    ends_with_bias = False

    def add_parts(self) -> None:
        self.cond = nn.Conv1d(self.h.gin_channels, self.widths[0], 1)

    def forward(self, x: Tensor, g: Tensor | None = None) -> Tensor:
        x = self.conv_pre(x)
        return self.trunk(x if g is None else x + self.cond(g))


class SnakeBeta(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha_logscale = True
        self.alpha = nn.Parameter(torch.zeros(width))
        self.beta = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        alpha, beta = self.alpha.exp()[:, None], self.beta.exp()[:, None]
        return x + torch.sin(x * alpha) ** 2 / (beta + 1e-9)


class Resampler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        time, cutoff = torch.arange(12) - 5.5, 0.25
        window = torch.kaiser_window(12, periodic=False, beta=0.1102 * (2.285 * 5 * math.pi * 1.2 + 7.95 - 8.7))
        taps = 2 * cutoff * window * torch.sinc(2 * cutoff * time)
        self.register_buffer("filter", (taps / taps.sum())[None, None])

    def taps(self, x: Tensor) -> Tensor:
        return self.filter.to(x.dtype).expand(x.shape[1], -1, -1)


class Up(Resampler):
    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (5, 5), mode="replicate")
        return 2 * F.conv_transpose1d(x, self.taps(x), stride=2, groups=x.shape[1])[..., 15:-15]


class Down(Resampler):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(F.pad(x, (5, 6), mode="replicate"), self.taps(x), stride=2, groups=x.shape[1])


class Antialiased(nn.Module):
    """Twice the rate, snake, back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.act = SnakeBeta(width)
        self.upsample, self.downsample = Up(), Down()

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.act(self.upsample(x)))


class SnakeBlock(ResBlock1):
    def __init__(self, width: int, kernel: int, dilations: list[int]) -> None:
        super().__init__(width, kernel, dilations)
        self.activations = nn.ModuleList(Antialiased(width) for _ in range(2 * len(dilations)))

    def forward(self, x: Tensor) -> Tensor:
        before, between = self.activations[::2], self.activations[1::2]
        for first, second, bend, again in zip(self.convs1, self.convs2, before, between, strict=True):
            x = x + second(again(first(bend(x))))
        return x


class BigVGANDouble(HiFiGANDouble):
    """Snakes for leaky ReLUs, upsamplers in lists of one."""

    family = "bigvgan"

    def wrapped(self, up: nn.Module) -> nn.Module:
        return nn.ModuleList([up])

    def block(self, width: int, kernel: int, dilations: list[int]) -> nn.Module:
        return SnakeBlock(width, kernel, dilations)

    def add_parts(self) -> None:
        self.activation_post = Antialiased(self.widths[-1])
        self.use_tanh_at_final = False

    def trunk(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        blocks = len(self.h.resblock_kernel_sizes)
        for stage, (up,) in enumerate(self.ups):
            x = up(x)
            x = sum(block(x) for block in self.resblocks[stage * blocks : (stage + 1) * blocks]) / blocks
        return torch.clamp(self.conv_post(self.activation_post(x)), -1, 1)


KINDS: dict[str, tuple[type[HiFiGANDouble], dict[str, Any]]] = {
    "hifigan": (HiFiGANDouble, {}),
    "hifigan2": (HiFiGANDouble, {"resblock": "2"}),
    "nsf": (NsfDouble, {}),
    "mini": (MiniDouble, {"mini_nsf": True, "noise_sigma": 0.05}),
    "sovits": (SovitsDouble, {"gin_channels": SPEAKER, "inter_channels": MELS}),
    "speaker": (SpeakerDouble, {"gin_channels": SPEAKER, "initial_channel": MELS}),
    "bigvgan": (BigVGANDouble, {"activation": "snakebeta", "snake_logscale": True, "use_tanh_at_final": False}),
}


def voice(kind: str = "hifigan", seed: int = 0) -> dict[str, Tensor]:
    """Calibrated weights for a generator of this kind."""
    made, changes = KINDS[kind]
    source = "mini" if kind == "mini" else None
    return healthy_net(made.family, config(**changes), source, seed).state_dict()


def generator(kind: str = "hifigan", seed: int = 0, norm: str = "none", made: type[HiFiGANDouble] | None = None) -> Any:
    """A generator that sounds; norm: none, hooks (the old weight norm) or parametrizations (the new one)."""
    usual, changes = KINDS[kind]
    module = (made or usual)(config(**changes))
    missing = module.load_state_dict(voice(kind, seed), strict=False)
    assert all(name.endswith(".filter") for name in missing.missing_keys) and not missing.unexpected_keys
    for layer in list(module.modules()) if norm != "none" else []:
        if isinstance(layer, CONVOLUTIONS):
            normed(layer, norm)
    return module.eval().requires_grad_(False)


def normed(layer: nn.Module, norm: str) -> None:
    if norm == "parametrizations":
        parametrizations.weight_norm(layer)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # hosts still use it
        nn.utils.weight_norm(layer)


def call(kind: str = "hifigan", frames: int = 24, batch: int = 1, seed: int = 0) -> dict[str, Tensor]:
    """Arguments by name, as the hosts of such a generator give them."""
    draw = torch.Generator().manual_seed(seed)
    given = {"x": torch.randn(batch, MELS, frames, generator=draw, dtype=torch.float32)}
    if kind in ("nsf", "mini", "sovits"):
        f0_hz = 100 + 100 * torch.rand(batch, frames, generator=draw, dtype=torch.float32)
        f0_hz[:, frames // 2 : frames // 2 + 3] = 0
        given["f0"] = f0_hz
    if kind in ("sovits", "speaker"):
        given["g"] = torch.randn(batch, SPEAKER, 1, generator=draw, dtype=torch.float32)
    return given


def played(module: Any, given: dict[str, Tensor], seed: int = 1) -> Any:
    """A call with torch's random numbers set before it."""
    torch.manual_seed(seed)
    with torch.no_grad():
        return module(**given)


def snr_db(made: Tensor, reference: Tensor) -> float:
    """Of one sound against another of the same shape and type."""
    assert (made.shape, made.dtype) == (reference.shape, reference.dtype)
    return difference(made.detach().double().numpy(), reference.detach().double().numpy()).snr_db
