"""The waveform decoder inside so-vits-svc's SynthesizerTrn: VITS latent, f0 and speaker in, audio out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self, cast

from pydantic import Field
from torch import Tensor, nn

from trt_svc.config import AudioSpec
from trt_svc.excitation import Excitation
from trt_svc.vocoders.antialias import AntiAliasedSnake, without_filters
from trt_svc.vocoders.base import Shapes, families
from trt_svc.vocoders.generator_config import Channels, SampleRate, TrunkConfig, parse
from trt_svc.vocoders.latent_decoder import LatentDecoder
from trt_svc.vocoders.layers import Activation, Leaky
from trt_svc.vocoders.nsf_hifigan import SourceMerge, check_stage_lengths, harmonic_excitation, source_convs
from trt_svc.vocoders.trunk import dilations_used, uses_resblock1

SNAKE_NAME = "nsf-snake-hifigan"


class SovitsDecConfig(TrunkConfig):
    """The dictionary that SynthesizerTrn hands to `dec`."""

    sampling_rate: SampleRate = 44100
    inter_channels: Channels = 192
    gin_channels: Annotated[int, Field(ge=1, le=16384)] = 768
    vocoder_name: str = "nsf-hifigan"


def dec_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The decoder's keys, from so-vits' whole config.json or from the inner dictionary itself."""
    model = config.get("model")
    if not isinstance(model, Mapping):
        return dict(config)
    data = config.get("data")
    rate = data.get("sampling_rate") if isinstance(data, Mapping) else None
    return {**({"sampling_rate": rate} if rate else {}), **model}


@families.register("sovits_dec")
class SovitsDec(LatentDecoder):
    family = "sovits_dec"

    @classmethod
    def claims(cls, shapes: Shapes, config: Mapping[str, Any] | None) -> bool:
        merges_several = shapes.get("m_source.l_linear.weight", (1, 1)) != (1, 1)  # RVC's has a single sine
        return merges_several and "cond.weight" in shapes and "ups.0.weight" in shapes

    @classmethod
    def from_config(cls, config: Mapping[str, Any], shapes: Shapes, source: str | None = None) -> Self:
        checked = parse(SovitsDecConfig, dec_config(config), cls.family)
        snake = "snakes.0.act.alpha" in shapes if shapes else checked.vocoder_name == SNAKE_NAME
        return cls(checked, uses_resblock1(checked, shapes), snake)

    @classmethod
    def adapt(cls, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return without_filters(weights)

    def __init__(self, config: SovitsDecConfig, resblock1: bool, snake: bool) -> None:
        activation: Activation = _snake if snake else lambda channels: Leaky()
        super().__init__(
            config,
            config.inter_channels,
            resblock1=resblock1,
            dilations_per_block=dilations_used(resblock1),
            activation=activation,
            upsample_padding=lambda kernel, stride: (kernel - stride + 1) // 2,
        )
        self.cond = nn.Conv1d(config.gin_channels, config.channels[0], 1)
        self.m_source = SourceMerge()
        self.noise_convs = source_convs(config, rounds_up=True)
        check_stage_lengths(self, self.family, list(self.noise_convs))
        self.snake = snake
        if snake:
            self.snakes = nn.ModuleList(_snake(width) for width in config.channels[:-1])
            self.snake_post = _snake(config.channels[-1])
        self.spec = AudioSpec(
            config.sampling_rate,
            config.hop,
            config.inter_channels,
            needs_f0=True,
            needs_speaker=True,
            speaker_channels=config.gin_channels,
        )
        self.variant = SNAKE_NAME if snake else "nsf-hifigan"

    def excitation(self) -> Excitation:
        return harmonic_excitation(self.m_source, self.spec.sample_rate, self.spec.hop, "sovits-dec")

    def before_stage(self, stage: int, x: Tensor) -> Tensor:
        return cast(Tensor, self.snakes[stage](x)) if self.snake else super().before_stage(stage, x)

    def before_post(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.snake_post(x)) if self.snake else super().before_post(x)

    def stage_activation(self, stage: int) -> nn.Module | None:
        return self.snakes[stage] if self.snake else None

    def post_activation(self) -> nn.Module | None:
        return self.snake_post if self.snake else None


def _snake(channels: int) -> AntiAliasedSnake:
    return AntiAliasedSnake(channels, logscale=True, has_beta=True)
