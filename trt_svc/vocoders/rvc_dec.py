"""The waveform decoder inside the voices of RVC and Applio: VITS latent, f0 and speaker in, audio out.

Like the decoder of so-vits-svc, with a single sine for a source. The decoders for voices without pitch are generators
of the GPT-SoVITS family.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Annotated, Any, Literal, Self, cast, get_args

from pydantic import Field
from torch import nn

from trt_svc.config import AudioSpec
from trt_svc.errors import ConfigError, InputError
from trt_svc.excitation import Excitation
from trt_svc.registry import did_you_mean
from trt_svc.vocoders.base import Shapes, families
from trt_svc.vocoders.generator_config import Channels, SampleRate, TrunkConfig, parse
from trt_svc.vocoders.latent_decoder import LatentDecoder
from trt_svc.vocoders.nsf_hifigan import SourceMerge, check_stage_lengths, harmonic_excitation
from trt_svc.vocoders.trunk import dilations_used, uses_resblock1

Source = Literal["sovits-interp", "openvpi"]
"""RVC's maths; Applio's."""
HARMONICS = 1
LINEAR = "m_source.l_linear.weight"


class RvcDecConfig(TrunkConfig):
    """The arguments of upstream's generator."""

    sampling_rate: SampleRate = 40000
    inter_channels: Channels = 192
    gin_channels: Annotated[int, Field(ge=1, le=16384)] = 256


@families.register("rvc_dec")
class RvcDec(LatentDecoder):
    family = "rvc_dec"

    @classmethod
    def claims(cls, shapes: Shapes, config: Mapping[str, Any] | None) -> bool:
        return shapes.get(LINEAR) == (1, HARMONICS) and "cond.weight" in shapes and "ups.0.weight" in shapes

    @classmethod
    def from_config(cls, config: Mapping[str, Any], shapes: Shapes, source: str | None = None) -> Self:
        checked = parse(RvcDecConfig, config, cls.family)
        known = list(get_args(Source))
        if source is not None and source not in known:
            raise InputError(f"source {source!r}", f"{cls.family} has none of that name.", did_you_mean(source, known))
        return cls(checked, uses_resblock1(checked, shapes), cast(Source, source or known[0]))

    def __init__(self, config: RvcDecConfig, resblock1: bool, source: Source) -> None:
        super().__init__(
            config,
            config.inter_channels,
            resblock1=resblock1,
            dilations_per_block=None if resblock1 else dilations_used(resblock1),
            upsample_padding=lambda kernel, rate: upsampler_padding(kernel, rate)[0],
            post_bias=False,
        )
        self.cond = nn.Conv1d(config.gin_channels, config.channels[0], 1)
        self.m_source = SourceMerge(HARMONICS)
        self.noise_convs = source_convs(config)
        check_stage_lengths(self, self.family, list(self.noise_convs))
        self.source = source
        self.spec = AudioSpec(
            config.sampling_rate,
            config.hop,
            config.inter_channels,
            needs_f0=True,
            needs_speaker=True,
            speaker_channels=config.gin_channels,
        )
        self.variant = f"source {source}"

    def make_upsampler(self, conv: nn.ConvTranspose1d) -> nn.Module:
        conv.output_padding = (upsampler_padding(conv.kernel_size[0], conv.stride[0])[1],)
        return conv

    def samples_out(self, frames: int) -> int:
        return frames * self.config.hop

    def excitation(self) -> Excitation:
        return harmonic_excitation(self.m_source, self.spec.sample_rate, self.spec.hop, self.source)


def upsampler_padding(kernel: int, rate: int) -> tuple[int, int]:
    """(padding, output_padding) that keep frames * rate samples; Applio's odd rates have kernels of twice the rate."""
    odd = (kernel - rate) % 2
    if odd and (rate % 2 == 0 or rate == 1 or kernel != 2 * rate):
        raise ConfigError(
            "rvc_dec config",
            f"an upsample kernel of {kernel} with the rate {rate} does not keep lengths.",
            "Kernel minus rate must be even, or the kernel twice an odd rate: use the config of these weights.",
        )
    return (kernel - rate + odd) // 2, odd


def source_convs(config: TrunkConfig) -> nn.ModuleList:
    """One convolution per stage that brings the source down to the stage's rate."""
    convs = []
    for stage, width in enumerate(config.channels[1:]):
        stride = prod(config.upsample_rates[stage + 1 :])
        kernel = 2 * stride - stride % 2
        convs.append(nn.Conv1d(1, width, kernel, stride=stride, padding=(kernel - stride) // 2))
    return nn.ModuleList(convs)
