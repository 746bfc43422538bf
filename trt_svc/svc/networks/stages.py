"""Stages of a voice that become engines: plain tensors in, one out. (Flow and decoder are stages as they are.)"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from trt_svc.svc.networks.synthesizer import Synthesizer
from trt_svc.vocoders.base import CoreInput


class EncoderStage(nn.Module):
    """Units, voicing, pitch bins (and volume) -> the prior's statistics (B, 2 * inter, T): mean, then log spread."""

    def __init__(self, net: Synthesizer) -> None:
        super().__init__()
        self.net = net

    def core_inputs(self) -> tuple[CoreInput, ...]:
        """The tensors that `forward` takes, in order; all float32."""
        inputs = (CoreInput("units", self.net.config.ssl_dim), CoreInput("uv", 1), CoreInput("pitch_bins", 1))
        return inputs if self.net.emb_vol is None else (*inputs, CoreInput("volume", 1))

    def forward(self, units: Tensor, uv: Tensor, pitch_bins: Tensor, *volume: Tensor) -> Tensor:
        x = self.net.content(units, uv, volume[0] if volume else None)
        prior_net = self.net.enc_p
        return cast(Tensor, prior_net.proj(prior_net.hidden(x, pitch_bins.squeeze(1).to(torch.int64))))


class PitchStage(nn.Module):
    """Units, voicing, normalised log f0, speaker (and volume) -> the log f0 (B, 1, T) that the voice would choose."""

    def __init__(self, net: Synthesizer) -> None:
        super().__init__()
        self.net = net

    def core_inputs(self) -> tuple[CoreInput, ...]:
        """The tensors that `forward` takes, in order."""
        config = self.net.config
        speaker = CoreInput("speaker", config.gin_channels, may_be_constant=True)
        inputs = (CoreInput("units", config.ssl_dim), CoreInput("uv", 1), CoreInput("norm_lf0", 1), speaker)
        return inputs if self.net.emb_vol is None else (*inputs, CoreInput("volume", 1))

    def forward(self, units: Tensor, uv: Tensor, norm_lf0: Tensor, g: Tensor, *volume: Tensor) -> Tensor:
        assert self.net.f0_decoder is not None, "only voices with an f0 decoder have this stage"
        x = self.net.content(units, uv, volume[0] if volume else None)
        return cast(Tensor, self.net.f0_decoder(x, norm_lf0, g))
