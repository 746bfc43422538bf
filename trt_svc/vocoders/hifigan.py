"""HiFi-GAN V1, V2, V3 (jik876): mel in, no pitch, deterministic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from trt_svc.config import AudioSpec
from trt_svc.vocoders.base import Shapes, families
from trt_svc.vocoders.generator_config import MelConfig, TrunkConfig, check_hop, parse
from trt_svc.vocoders.trunk import UpsamplingTrunk, dilations_used, uses_resblock1

UPSTREAM_MELS = 80
"""Hard-wired upstream, whatever `num_mels` says; forks with other widths show it in the weights."""


class HiFiGANConfig(TrunkConfig, MelConfig):
    """Keys of upstream's config_v1.json and friends."""


@families.register("hifigan")
class HiFiGAN(UpsamplingTrunk):
    family = "hifigan"

    @classmethod
    def claims(cls, shapes: Shapes, config: Mapping[str, Any] | None) -> bool:
        if "ups.0.weight" not in shapes or any(n.startswith(("m_source.", "source_conv.", "cond.")) for n in shapes):
            return False
        if config and "initial_channel" in config:
            return False
        mels = shapes.get("conv_pre.weight", (0, 0))[1]
        return "conv_post.bias" in shapes and (
            mels == UPSTREAM_MELS or (config is not None and mels == config.get("num_mels"))
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any], shapes: Shapes, source: str | None = None) -> Self:
        checked = parse(HiFiGANConfig, config, cls.family)
        check_hop(checked, checked.hop_size, cls.family)
        mels = shapes["conv_pre.weight"][1] if "conv_pre.weight" in shapes else UPSTREAM_MELS
        return cls(checked, uses_resblock1(checked, shapes), mels)

    def __init__(self, config: HiFiGANConfig, resblock1: bool, mels: int = UPSTREAM_MELS) -> None:
        super().__init__(config, mels, resblock1=resblock1, dilations_per_block=dilations_used(resblock1))
        self.spec = AudioSpec(config.sampling_rate, config.hop, mels, mel=config.mel_spec("hifigan", config.hop, mels))
        self.variant = {512: "V1", 128: "V2", 256: "V3"}.get(config.upsample_initial_channel, "custom size")
