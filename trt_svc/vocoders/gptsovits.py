"""The GPT-SoVITS generator: the v4 vocoder (mel in, 48 kHz out) and the `dec` of v1, v2 and v2Pro (latent in)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self, cast

from pydantic import Field
from torch import Tensor, nn

from trt_svc.config import AudioSpec, MelSpec
from trt_svc.vocoders.base import CoreInput, Shapes, families
from trt_svc.vocoders.generator_config import Channels, SampleRate, TrunkConfig, parse
from trt_svc.vocoders.trunk import UpsamplingTrunk, dilations_used, uses_resblock1

MEL_BANDS = 100
MEL_FRAMES_PER_SECOND = 100
LATENT_FRAMES_PER_SECOND = 50
# The mel of v4 is taken at 32 kHz although the audio comes out at 48 kHz: both have 100 frames a second.
V4_MEL = MelSpec(
    sample_rate=32000, n_fft=1280, win=1280, hop=320, n_mels=MEL_BANDS, fmin=0.0, fmax=16000.0, epsilon=1e-8
)


class GPTSoVITSConfig(TrunkConfig):
    """The constructor arguments of upstream's Generator (there is no config file for the v4 vocoder)."""

    initial_channel: Channels
    gin_channels: Annotated[int, Field(ge=0, le=16384)] = 0
    is_bias: bool = False
    sampling_rate: SampleRate | None = None


def generator_config(config: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The generator's keys, from the `config` of a GPT-SoVITS voice or from the arguments themselves."""
    model, data = config.get("model"), config.get("data")
    if not isinstance(model, Mapping):
        return dict(config)
    rate = data.get("sampling_rate") if isinstance(data, Mapping) else None
    width = shapes.get("conv_pre.weight", (0, model.get("inter_channels", 192)))[1]
    return {"initial_channel": width, **({"sampling_rate": rate} if rate else {}), **model}


@families.register("gptsovits_generator")
class GPTSoVITSGenerator(UpsamplingTrunk):
    family = "gptsovits_generator"

    @classmethod
    def claims(cls, shapes: Shapes, config: Mapping[str, Any] | None) -> bool:
        if "ups.0.weight" not in shapes or any(n.startswith(("m_source.", "source_conv.")) for n in shapes):
            return False
        if config and ("initial_channel" in config or isinstance(config.get("model"), Mapping)):
            return True
        return "cond.weight" in shapes or shapes.get("conv_pre.weight", (0, 0))[1] == MEL_BANDS

    @classmethod
    def from_config(cls, config: Mapping[str, Any], shapes: Shapes, source: str | None = None) -> Self:
        checked = parse(GPTSoVITSConfig, generator_config(config, shapes), cls.family)
        bias = "conv_post.bias" in shapes if shapes else checked.is_bias
        return cls(checked, uses_resblock1(checked, shapes), bias)

    def __init__(self, config: GPTSoVITSConfig, resblock1: bool, post_bias: bool) -> None:
        super().__init__(
            config,
            config.initial_channel,
            resblock1=resblock1,
            dilations_per_block=dilations_used(resblock1),
            post_bias=post_bias,
        )
        takes_mel = config.initial_channel == MEL_BANDS and not config.gin_channels
        frame_rate = MEL_FRAMES_PER_SECOND if takes_mel else LATENT_FRAMES_PER_SECOND
        self.spec = AudioSpec(
            config.sampling_rate or frame_rate * config.hop,
            config.hop,
            config.initial_channel,
            needs_speaker=config.gin_channels > 0,
            speaker_channels=config.gin_channels,
            mel=V4_MEL if takes_mel else None,
        )
        if config.gin_channels:
            self.cond = nn.Conv1d(config.gin_channels, config.channels[0], 1)
        self.variant = "v4 vocoder" if takes_mel else "dec of v1/v2"

    def core_inputs(self) -> tuple[CoreInput, ...]:
        mel = CoreInput("mel", self.spec.n_mels)
        if not self.spec.needs_speaker:
            return (mel,)
        return (mel, CoreInput("speaker", self.spec.speaker_channels, may_be_constant=True))

    def condition(self, x: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        return x + cast(Tensor, self.cond(inputs["speaker"])) if "speaker" in inputs else x
