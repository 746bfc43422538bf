"""What the decoders inside voices have in common: a VITS latent, a source behind every upsampler, a speaker."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from trt_svc.vocoders.base import CoreInput
from trt_svc.vocoders.trunk import UpsamplingTrunk


class LatentDecoder(UpsamplingTrunk):
    """Base of so-vits-svc's and RVC's decoders, which differ in paddings, activations and source."""

    cond: nn.Conv1d
    noise_convs: nn.ModuleList

    def core_inputs(self) -> tuple[CoreInput, ...]:
        return (
            CoreInput("mel", self.spec.n_mels),
            CoreInput("source", 1, self.spec.hop),
            CoreInput("speaker", self.spec.speaker_channels, may_be_constant=True),
        )

    def condition(self, x: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        return x + cast(Tensor, self.cond(inputs["speaker"]))

    def injects(self, stage: int) -> bool:
        return True

    def inject(self, stage: int, x: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        return x + cast(Tensor, self.noise_convs[stage](inputs["source"]))
