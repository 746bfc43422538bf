"""NSF-HiFiGAN: HiFi-GAN with a harmonic source added behind every upsampler (or, `mini`, behind the second)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Annotated, Any, Literal, Self, cast, get_args

from pydantic import Field
from torch import Tensor, nn

from trt_svc.config import AudioSpec
from trt_svc.errors import ConfigError, InputError
from trt_svc.excitation import Excitation, GlideExcitation, HarmonicExcitation, SineSource
from trt_svc.registry import did_you_mean
from trt_svc.vocoders.base import CoreInput, Shapes, families
from trt_svc.vocoders.generator_config import MelConfig, TrunkConfig, check_hop, parse
from trt_svc.vocoders.trunk import UpsamplingTrunk, dilations_used, uses_resblock1

Source = Literal["sovits-interp", "openvpi", "openvpi-legacy", "mini"]
DEFAULT_SOURCE: Source = "openvpi"
"""The weights do not say which source maths they were trained with; this is the newest (DDSP-SVC, SingingVocoders)."""

HARMONICS = 9
MINI_SOURCE_STAGE = 1


class NSFConfig(TrunkConfig, MelConfig):
    """Keys of upstream's config.json; absent keys mean an ordinary source and no noise."""

    num_mels: Annotated[int, Field(ge=1, le=16384)] = 128
    n_fft: Annotated[int, Field(ge=16, le=65536)] = 2048
    win_size: Annotated[int, Field(ge=16, le=65536)] = 2048
    fmin: Annotated[float, Field(ge=0)] = 40.0
    mini_nsf: bool = False
    noise_sigma: Annotated[float, Field(ge=0)] = 0.0


class SourceMerge(nn.Module):
    """Holds the linear layer that merges the harmonics; the arithmetic is in `trt_svc.excitation`."""

    def __init__(self, harmonics: int = HARMONICS) -> None:
        super().__init__()
        self.l_linear = nn.Linear(harmonics, 1)


def harmonic_excitation(
    merge: SourceMerge,
    sample_rate: int,
    samples_per_frame: int,
    source: SineSource,
    pre_noise: tuple[int, float] = (0, 0.0),
) -> HarmonicExcitation:
    """The source stage with the weights of a checkpoint."""
    linear = merge.l_linear
    return HarmonicExcitation(
        sample_rate,
        samples_per_frame,
        source,
        weight=linear.weight.detach().float().cpu().numpy().reshape(-1).copy(),
        bias=float(linear.bias.detach()),
        pre_noise_channels=pre_noise[0],
        pre_noise_sigma=pre_noise[1],
    )


def source_convs(config: TrunkConfig, rounds_up: bool) -> nn.ModuleList:
    """One convolution per stage that brings the source down to the stage's rate."""
    convs = []
    for stage in range(len(config.upsample_rates)):
        stride = prod(config.upsample_rates[stage + 1 :])
        width = config.channels[stage + 1]
        if stage + 1 == len(config.upsample_rates):
            convs.append(nn.Conv1d(1, width, 1))
        else:
            padding = (stride + 1) // 2 if rounds_up else stride // 2
            convs.append(nn.Conv1d(1, width, 2 * stride, stride=stride, padding=padding))
    return nn.ModuleList(convs)


def check_stage_lengths(net: UpsamplingTrunk, family: str, convs: Sequence[nn.Module]) -> None:
    """A source can only be added where every stage keeps frames * rate samples."""
    frames = 8
    length, source_length = frames, frames * net.config.hop
    fits = net.samples_out(frames) == source_length
    for conv, rate in zip(convs, net.config.upsample_rates, strict=False):
        length *= rate
        conv = cast(nn.Conv1d, conv)
        kernel, stride, padding = conv.kernel_size[0], conv.stride[0], cast(int, conv.padding[0])
        fits = fits and (source_length + 2 * padding - kernel) // stride + 1 == length
    if not fits:
        kernels, rates = net.config.upsample_kernel_sizes, net.config.upsample_rates
        raise ConfigError(
            f"{family} config",
            f"upsample kernels {kernels} with rates {rates} do not keep lengths, so the source cannot be added.",
            "Kernel minus rate must be even in every stage, and so must the product of the rates behind it: "
            "use the config.json that came with the weights.",
        )


@families.register("nsf_hifigan")
class NSFHiFiGAN(UpsamplingTrunk):
    family = "nsf_hifigan"

    @classmethod
    def claims(cls, shapes: Shapes, config: Mapping[str, Any] | None) -> bool:
        has_source = "m_source.l_linear.weight" in shapes or "source_conv.weight" in shapes
        return has_source and not any(n.startswith("cond.") for n in shapes)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], shapes: Shapes, source: str | None = None) -> Self:
        checked = parse(NSFConfig, config, cls.family)
        check_hop(checked, checked.hop_size, cls.family)
        mini = "source_conv.weight" in shapes if shapes else checked.mini_nsf
        return cls(checked, uses_resblock1(checked, shapes), chosen_source(source, mini))

    def __init__(self, config: NSFConfig, resblock1: bool, source: Source) -> None:
        super().__init__(config, config.num_mels, resblock1=resblock1, dilations_per_block=dilations_used(resblock1))
        later = prod(config.upsample_rates[MINI_SOURCE_STAGE + 1 :])
        self.spec = AudioSpec(
            config.sampling_rate,
            config.hop,
            config.num_mels,
            needs_f0=True,
            mel=config.mel_spec("nvstft", config.hop),
            source_rate=config.sampling_rate / later if source == "mini" else None,
        )
        self.source: Source = source
        self.noise_sigma = config.noise_sigma
        if source == "mini":
            if len(config.upsample_rates) <= MINI_SOURCE_STAGE:
                raise ConfigError(
                    "nsf_hifigan config with mini_nsf",
                    "it has a single upsampling stage.",
                    "mini-NSF needs two stages or more.",
                )
            check_stage_lengths(self, self.family, [])
            self.source_conv = nn.Conv1d(1, config.channels[MINI_SOURCE_STAGE + 1], 1)
        else:
            self.m_source = SourceMerge()
            self.noise_convs = source_convs(config, rounds_up=False)
            check_stage_lengths(self, self.family, list(self.noise_convs))
        self.variant = f"source {source}" + (f", noise_sigma {config.noise_sigma:g}" if config.noise_sigma else "")

    @property
    def source_per_frame(self) -> int:
        rates = self.config.upsample_rates
        return prod(rates[: MINI_SOURCE_STAGE + 1]) if self.source == "mini" else prod(rates)

    def core_inputs(self) -> tuple[CoreInput, ...]:
        noise = (CoreInput("pre_noise", self.config.channels[0]),) if self.noise_sigma > 0 else ()
        return (CoreInput("mel", self.spec.n_mels), CoreInput("source", 1, self.source_per_frame), *noise)

    def excitation(self) -> Excitation:
        pre_noise = (self.config.channels[0], self.noise_sigma)
        if self.source == "mini":
            assert self.spec.source_rate is not None
            return GlideExcitation(self.spec.source_rate, self.source_per_frame, *pre_noise)
        return harmonic_excitation(self.m_source, self.spec.sample_rate, self.spec.hop, self.source, pre_noise)

    def condition(self, x: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        return x + inputs["pre_noise"].to(x.dtype) if "pre_noise" in inputs else x

    def injects(self, stage: int) -> bool:
        return self.source != "mini" or stage == MINI_SOURCE_STAGE

    def inject(self, stage: int, x: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        if self.source != "mini":
            return x + cast(Tensor, self.noise_convs[stage](inputs["source"]))
        return x + cast(Tensor, self.source_conv(inputs["source"])) if stage == MINI_SOURCE_STAGE else x


def chosen_source(asked: str | None, mini: bool) -> Source:
    """The source maths: mini is visible in the weights, the others only the caller can know."""
    known = list(get_args(Source))
    if asked is not None and asked not in known:
        raise InputError(f"source {asked!r}", "there is no source of that name.", did_you_mean(asked, known))
    if asked is not None and (asked == "mini") != mini:
        found = (
            "these are mini-NSF weights" if mini else "these weights have nine harmonics, not mini-NSF's single sine"
        )
        raise InputError(
            f"source {asked!r}", f"{found}.", f"Leave source out or use {'mini' if mini else DEFAULT_SOURCE!r}."
        )
    return "mini" if mini else cast(Source, asked or DEFAULT_SOURCE)
