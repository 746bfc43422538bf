"""BigVGAN v1 and v2 (NVIDIA): anti-aliased snake activations instead of leaky ReLUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, cast

from torch import Tensor, nn

from trt_svc.config import AudioSpec
from trt_svc.vocoders.antialias import AntiAliasedSnake, without_filters
from trt_svc.vocoders.base import Shapes, families
from trt_svc.vocoders.generator_config import MelConfig, TrunkConfig, check_hop, parse
from trt_svc.vocoders.layers import clamp_unit
from trt_svc.vocoders.trunk import UpsamplingTrunk, uses_resblock1


class BigVGANConfig(TrunkConfig, MelConfig):
    """Keys of upstream's config.json; v1 configs omit the two `at_final` keys."""

    activation: Literal["snake", "snakebeta"] = "snakebeta"
    snake_logscale: bool = True
    use_tanh_at_final: bool = True
    use_bias_at_final: bool = True


@families.register("bigvgan")
class BigVGAN(UpsamplingTrunk):
    family = "bigvgan"

    @classmethod
    def claims(cls, shapes: Shapes, config: Mapping[str, Any] | None) -> bool:
        return "ups.0.0.weight" in shapes and any(n.startswith("activation_post.") for n in shapes)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], shapes: Shapes, source: str | None = None) -> Self:
        checked = parse(BigVGANConfig, config, cls.family)
        check_hop(checked, checked.hop_size, cls.family)
        return cls(checked, uses_resblock1(checked, shapes))

    @classmethod
    def adapt(cls, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return without_filters(weights)

    def __init__(self, config: BigVGANConfig, resblock1: bool) -> None:
        def snake(channels: int) -> AntiAliasedSnake:
            return AntiAliasedSnake(channels, config.snake_logscale, config.activation == "snakebeta")

        super().__init__(
            config, config.num_mels, resblock1=resblock1, activation=snake, post_bias=config.use_bias_at_final
        )
        self.activation_post = snake(config.channels[-1])
        self.spec = AudioSpec(
            config.sampling_rate, config.hop, config.num_mels, mel=config.mel_spec("hifigan", config.hop)
        )
        self.clamps = not config.use_tanh_at_final
        self.variant = f"{'v2' if self.clamps else 'v1'} {config.activation}"

    def make_upsampler(self, conv: nn.ConvTranspose1d) -> nn.Module:
        return nn.ModuleList([conv])  # upstream's names have one more level: ups.0.0.weight

    def upsampler(self, stage: int) -> nn.ConvTranspose1d:
        return cast(nn.ConvTranspose1d, cast(nn.ModuleList, self.ups[stage])[0])

    def before_stage(self, stage: int, x: Tensor) -> Tensor:
        return x

    def before_post(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.activation_post(x))

    def post_activation(self) -> nn.Module:
        return self.activation_post

    def bound(self, x: Tensor) -> Tensor:
        return clamp_unit(x) if self.clamps else super().bound(x)
