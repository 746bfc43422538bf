"""WaveGlow (NVIDIA): noise is turned into audio by twelve invertible flows, run backwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Self, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from trt_svc.config import AudioSpec, MelSpec
from trt_svc.errors import ConfigError
from trt_svc.excitation import Excitation, LatentNoise
from trt_svc.noise import NoiseField
from trt_svc.vocoders.base import CoreInput, Shapes, Stage, VocoderNet, families
from trt_svc.vocoders.generator_config import Channels, SampleRate, UpstreamConfig, parse
from trt_svc.vocoders.reach import Reach

UPSAMPLE_KERNEL, HOP = 1024, 256  # hard-wired upstream


class WNConfig(UpstreamConfig):
    n_layers: Annotated[int, Field(ge=1, le=16)] = 8
    n_channels: Channels = 256
    kernel_size: Annotated[int, Field(ge=1, le=31)] = 3


class FlowConfig(UpstreamConfig):
    """Upstream's `waveglow_config`."""

    n_mel_channels: Channels = 80
    n_flows: Annotated[int, Field(ge=1, le=64)] = 12
    n_group: Annotated[int, Field(ge=2, le=64, multiple_of=2)] = 8
    n_early_every: Annotated[int, Field(ge=1, le=64)] = 4
    n_early_size: Annotated[int, Field(ge=2, le=32, multiple_of=2)] = 2
    WN_config: WNConfig = WNConfig()


class WaveGlowData(UpstreamConfig):
    """Upstream's `data_config`."""

    sampling_rate: SampleRate = 22050
    filter_length: Annotated[int, Field(ge=16, le=65536)] = 1024
    win_length: Annotated[int, Field(ge=16, le=65536)] = 1024
    mel_fmin: Annotated[float, Field(ge=0)] = 0.0
    mel_fmax: Annotated[float, Field(gt=0)] = 8000.0


class WaveGlowConfig(UpstreamConfig):
    """Upstream's config.json; `sigma` is the scale of the noise at inference."""

    waveglow_config: FlowConfig
    data_config: WaveGlowData = WaveGlowData()
    sigma: Annotated[float, Field(ge=0, le=10)] = 1.0


class WN(nn.Module):
    """The gated, dilated network inside one coupling."""

    def __init__(self, half: int, conditioning: int, config: WNConfig) -> None:
        super().__init__()
        width, layers, kernel = config.n_channels, config.n_layers, config.kernel_size
        self.width = width
        self.start = nn.Conv1d(half, width, 1)
        self.cond_layer = nn.Conv1d(conditioning, 2 * width * layers, 1)
        self.in_layers = nn.ModuleList(
            nn.Conv1d(width, 2 * width, kernel, dilation=2**i, padding=(kernel - 1) * 2**i // 2) for i in range(layers)
        )
        self.res_skip_layers = nn.ModuleList(
            nn.Conv1d(width, 2 * width if i + 1 < layers else width, 1) for i in range(layers)
        )
        self.end = nn.Conv1d(width, 2 * half, 1)

    def forward(self, audio: Tensor, mel: Tensor) -> Tensor:
        x = self.start(audio)
        conditions = self.cond_layer(mel).chunk(len(self.in_layers), dim=1)
        skips: list[Tensor] = []
        for in_layer, res_skip, condition in zip(self.in_layers, self.res_skip_layers, conditions, strict=True):
            gate, filtered = (in_layer(x) + condition).split(self.width, dim=1)
            out = res_skip(torch.tanh(gate) * torch.sigmoid(filtered))
            skips.append(out[:, -self.width :])
            if len(skips) < len(self.in_layers):
                x = x + out[:, : self.width]
        total = skips[0]
        for skip in skips[1:]:
            total = total + skip
        return cast(Tensor, self.end(total))


@families.register("waveglow")
class WaveGlow(VocoderNet):
    family = "waveglow"
    # Twelve inverse couplings in a row amplify rounding: audio, scales and mixing stay float32.
    float32_tails = ("inverse.*",)
    half_regions = ("WN.*",)
    bounded = False
    live_copies = 4

    @classmethod
    def claims(cls, shapes: Shapes, config: Mapping[str, Any] | None) -> bool:
        return "upsample.weight" in shapes and any(n.startswith("WN.0.") for n in shapes)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], shapes: Shapes, source: str | None = None) -> Self:
        wrapped = config if "waveglow_config" in config else {**config, "waveglow_config": config}
        return cls(parse(WaveGlowConfig, wrapped, cls.family))

    @classmethod
    def adapt(cls, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return with_inverses(merged_old_layers(weights))

    def __init__(self, config: WaveGlowConfig) -> None:
        super().__init__()
        flow = config.waveglow_config
        data = config.data_config
        self.flow = flow
        self.sigma = config.sigma
        self.upsample = nn.ConvTranspose1d(flow.n_mel_channels, flow.n_mel_channels, UPSAMPLE_KERNEL, stride=HOP)
        self.widths = flow_widths(flow)
        conditioning = flow.n_mel_channels * flow.n_group
        self.WN = nn.ModuleList(WN(width // 2, conditioning, flow.WN_config) for width in self.widths)
        self.inverse = nn.ModuleList(nn.Conv1d(width, width, 1, bias=False) for width in self.widths)
        mel = MelSpec(
            data.sampling_rate,
            data.filter_length,
            data.win_length,
            HOP,
            flow.n_mel_channels,
            data.mel_fmin,
            data.mel_fmax,
            padding="centered",
            epsilon=0.0,
        )
        self.spec = AudioSpec(data.sampling_rate, HOP, flow.n_mel_channels, mel=mel)
        self.variant = f"{flow.n_flows} flows, {flow.WN_config.n_channels} channels"

    @property
    def groups_per_frame(self) -> Fraction:
        return Fraction(HOP, self.flow.n_group)

    def early_flows(self) -> list[int]:
        """Flows behind which new noise joins, in order of use."""
        every = self.flow.n_early_every
        return [k for k in range(self.flow.n_flows - 1, 0, -1) if k % every == 0]

    def latents(self) -> tuple[NoiseField, ...]:
        per_frame = self.groups_per_frame
        early = [NoiseField(f"z_early_{k}", "normal", self.flow.n_early_size, per_frame) for k in self.early_flows()]
        return (NoiseField("z_initial", "normal", self.widths[-1], per_frame), *early)

    def excitation(self) -> Excitation:
        return LatentNoise(self.latents(), self.sigma)

    def core_inputs(self) -> tuple[CoreInput, ...]:
        latents = (CoreInput(field.name, field.channels, field.per_frame) for field in self.latents())
        return (CoreInput("mel", self.spec.n_mels), *latents)

    def conditioning(self, mel: Tensor) -> Tensor:
        """The upsampled mel with time folded into channels, mel-major: (B, n_mels * n_group, groups)."""
        group = self.flow.n_group
        up = self.upsample(mel)[:, :, : HOP - UPSAMPLE_KERNEL]
        if HOP % group:
            up = up[:, :, : up.shape[2] // group * group]
        groups: Tensor = torch.unflatten(up, 2, (-1, group))
        return groups.transpose(2, 3).flatten(1, 2)

    def forward(self, mel: Tensor, *latents: Tensor) -> Tensor:
        condition = self.conditioning(mel)
        audio, joining = latents[0], iter(latents[1:])
        early = set(self.early_flows())
        for k in range(self.flow.n_flows - 1, -1, -1):
            audio = self.run_flow(k, audio, condition, next(joining) if k in early else None)
        return audio

    def run_flow(self, k: int, audio: Tensor, condition: Tensor, joining: Tensor | None) -> Tensor:
        """Flow k backwards, with the new noise behind it; the last one (k = 0) ends with the audio."""
        audio = self.inverse[k](self.uncouple(k, audio, condition))
        if joining is not None:
            audio = torch.cat([joining, audio], dim=1)
        return audio if k else audio.transpose(1, 2).flatten(1, 2)

    def uncouple(self, k: int, audio: Tensor, condition: Tensor) -> Tensor:
        """The inverse of affine coupling k: the network gives shift first, log scale second."""
        kept, changed = audio.chunk(2, dim=1)
        shift, log_scale = self.WN[k](kept, condition).chunk(2, dim=1)
        return torch.cat([kept, (changed - shift) / torch.exp(log_scale)], dim=1)

    def samples_out(self, frames: int) -> int:
        return frames * HOP // self.flow.n_group * self.flow.n_group

    def stages(self) -> list[Stage]:
        if HOP % self.flow.n_group:
            return []
        return [FlowStage(self, k) for k in range(self.flow.n_flows - 1, -1, -1)]

    def reach(self) -> Reach:
        return self.flows_reach(self.flow.n_flows)

    def flows_reach(self, flows: int) -> Reach:
        """Samples that a mel frame influences through so many flows."""
        wn, group = self.flow.WN_config, self.flow.n_group
        side = (wn.kernel_size - 1) // 2
        # The mel joins behind the first dilated layer of a WN, so its longest path skips that one layer once.
        groups = sum(side * 2**i for i in range(wn.n_layers)) * flows - side
        last = (UPSAMPLE_KERNEL - 1) // group
        return Reach(-groups * group, (last + groups) * group + group - 1)


class FlowStage(Stage):
    """One flow, with the upsampled mel made again for it: that is cheap beside the flow."""

    def __init__(self, net: WaveGlow, k: int) -> None:
        super().__init__()
        self.net = net
        self.k = k
        per_frame = net.groups_per_frame
        first = k == net.flow.n_flows - 1
        joins = [field for field in net.latents() if field.name == f"z_early_{k}"]
        self.inputs = (
            CoreInput("mel", net.spec.n_mels),
            CoreInput("z_initial" if first else "x", net.widths[k], per_frame),
            *(CoreInput(field.name, field.channels, per_frame) for field in joins),
        )
        self.ticks_per_frame = Fraction(1)
        self.out_per_tick = Fraction(HOP) if k == 0 else per_frame
        # Audio enters a WN through all its layers, the mel through all but one.
        group = net.flow.n_group
        own = net.flows_reach(1).widen((net.flow.WN_config.kernel_size - 1) // 2 * group)
        self.context = own.frames(HOP)

    def forward(self, *tensors: Tensor) -> Tensor:
        mel, audio, *joining = tensors
        net = cast(WaveGlow, self.net)
        return net.run_flow(self.k, audio, net.conditioning(mel), joining[0] if joining else None)


def flow_widths(flow: FlowConfig) -> list[int]:
    """Channels that flow k works on: early outputs leave the later flows narrower."""
    left = [flow.n_group - flow.n_early_size * (k // flow.n_early_every) for k in range(flow.n_flows)]
    if min(left) < 2:
        raise ConfigError(
            "waveglow config",
            f"n_group {flow.n_group} is used up by the early outputs before the last flow.",
            "Use the config.json that came with the weights.",
        )
    return left


def with_inverses(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each flow's 1x1 convolution as its float32 inverse (not the transpose: training leaves it non-orthogonal)."""
    out: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.startswith("convinv."):
            square = value.float().squeeze(-1)
            out[f"inverse.{name.split('.')[1]}.weight"] = torch.linalg.inv(square).unsqueeze(-1)
        else:
            out[name] = value
    return out


def merged_old_layers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Very old files keep residual, skip and conditioning layers apart; later ones concatenate them."""
    if not any(".res_layers." in name for name in weights):
        return weights
    out = {
        n: v for n, v in weights.items() if not any(p in n for p in (".res_layers.", ".skip_layers.", ".cond_layers."))
    }
    flows = sorted({int(n.split(".")[1]) for n in weights if n.startswith("WN.")})
    for k in flows:
        layers = sorted({int(n.split(".")[3]) for n in weights if n.startswith(f"WN.{k}.skip_layers.")})
        for kind in ("weight", "bias"):
            for i in layers:
                parts = [weights.get(f"WN.{k}.{side}.{i}.{kind}") for side in ("res_layers", "skip_layers")]
                out[f"WN.{k}.res_skip_layers.{i}.{kind}"] = _concatenated(parts)
            conditions: Sequence[Tensor | None] = [weights.get(f"WN.{k}.cond_layers.{i}.{kind}") for i in layers]
            out[f"WN.{k}.cond_layer.{kind}"] = _concatenated(conditions)
    return out


def _concatenated(parts: Sequence[Tensor | None]) -> Tensor:
    """Rows of the parts that exist: the last layer has no residual half."""
    return torch.cat([part for part in parts if part is not None], dim=0)
