"""The network of a voice, stage by stage: content, pitch and speaker in, a latent and then audio out.

Each stage is a pure function of its tensors and may run as an engine of its own (`stages`); noise and the harmonic
source are rendered outside (`trt_svc.noise`, `trt_svc.excitation`). Parts are called as upstream calls them, so that
the keys of a checkpoint fit one to one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from trt_svc.arrays import on_host
from trt_svc.errors import InputError
from trt_svc.excitation import HarmonicExcitation
from trt_svc.noise import Noise, NoiseField, check_given, check_seeds
from trt_svc.svc.networks import pitch_decoder, prior
from trt_svc.svc.networks.flow import Flow, FlowShape
from trt_svc.svc.networks.pitch_decoder import PitchDecoder
from trt_svc.svc.networks.prior import Prior, coarse_pitch
from trt_svc.svc.networks.source import UpstreamRun
from trt_svc.types import Array
from trt_svc.vocoders.base import Shapes
from trt_svc.vocoders.generator_config import Channels, Kernel, UpstreamConfig, parse
from trt_svc.vocoders.layers import same_conv
from trt_svc.vocoders.sovits_dec import SovitsDec

UNIT_KERNEL = 5
SOURCE_RATE_HZ = 44100
"""What upstream's source takes every voice to be at, unless `model.sampling_rate` says otherwise."""
PRIOR_NOISE = "prior_noise"
Layers = Annotated[int, Field(ge=1, le=64)]


class SynthesizerConfig(UpstreamConfig):
    """`model` of a voice's config.json; absent keys mean what upstream's constructor takes them to mean."""

    inter_channels: Channels
    hidden_channels: Channels
    filter_channels: Channels
    n_heads: Layers
    n_layers: Layers
    kernel_size: Kernel
    gin_channels: Channels
    ssl_dim: Channels
    n_speakers: Annotated[int, Field(ge=1, le=100_000)]
    vol_embedding: bool = False
    use_automatic_f0_prediction: bool = True
    use_depthwise_conv: bool = False
    flow_share_parameter: bool = False
    use_transformer_flow: bool = False
    n_flow_layer: Layers = 4
    n_layers_trans_flow: Layers = 3

    @model_validator(mode="after")
    def _halves_and_heads_come_out_even(self) -> Self:
        if self.hidden_channels % self.n_heads:
            raise ValueError(f"{self.hidden_channels} hidden_channels do not divide into {self.n_heads} heads")
        if self.inter_channels % 2:
            raise ValueError("inter_channels is odd")
        return self

    def flow_shape(self) -> FlowShape:
        return FlowShape(
            inter=self.inter_channels,
            hidden=self.hidden_channels,
            gin=self.gin_channels,
            filter_channels=self.filter_channels,
            heads=self.n_heads,
            n_flow_layer=self.n_flow_layer,
            n_layers_trans_flow=self.n_layers_trans_flow,
            transformer=self.use_transformer_flow,
            shares=self.flow_share_parameter,
            depthwise=self.use_depthwise_conv,
        )


@dataclass(frozen=True)
class InferOptions:
    """How a take is rendered."""

    noise_scale: float = 0.4
    """Spread of the prior's noise."""
    predict_f0: bool = False
    """Speak with the voice's own pitch in place of the given one."""
    as_upstream: bool = False
    """To the last sample: the source's phase drifts as sums of float32 do, notes above 1100 Hz lose their bin."""


Speaker = int | Tensor
"""A number; a mix (T, n_speakers) of weights by frame; or vectors (B, gin, 1 or T)."""
Seen = dict[str, Tensor]


class Synthesizer(nn.Module):
    """A voice: units (B, ssl, T), f0 in Hz and uv (B, T), a speaker -> audio (B, T * hop)."""

    def __init__(self, config: SynthesizerConfig, dec: SovitsDec) -> None:
        super().__init__()
        self.config = config
        hidden, heads, kernel = config.hidden_channels, config.n_heads, config.kernel_size
        body = (config.filter_channels, heads, config.n_layers, kernel)
        self.emb_g = nn.Embedding(config.n_speakers, config.gin_channels)
        self.pre = same_conv(config.ssl_dim, hidden, UNIT_KERNEL)
        self.enc_p = Prior(hidden, config.inter_channels, *body)
        self.dec = dec
        self.flow = Flow(config.flow_shape())
        self.f0_decoder = (
            PitchDecoder(hidden, *body, config.gin_channels) if config.use_automatic_f0_prediction else None
        )
        self.emb_uv = nn.Embedding(2, hidden)
        self.emb_vol = nn.Linear(1, hidden) if config.vol_embedding else None

    @classmethod
    def from_config(cls, model: Mapping[str, Any], dec_shapes: Shapes) -> Self:
        """The network for `model` of a config.json; the decoder's weights settle what their config leaves open."""
        given = {key: value for key, value in model.items() if value is not None}
        config = parse(SynthesizerConfig, given, "so-vits-svc voice")
        dec = SovitsDec.from_config({"sampling_rate": SOURCE_RATE_HZ, **given}, dec_shapes)
        return cls(config, dec)

    @property
    def hop_samples(self) -> int:
        return self.dec.spec.hop

    @property
    def predicts_f0(self) -> bool:
        return self.f0_decoder is not None

    @property
    def noise_fields(self) -> tuple[NoiseField, ...]:
        """The random inputs in upstream's order of drawing."""
        return (NoiseField(PRIOR_NOISE, "normal", self.config.inter_channels, 1), *self.dec.excitation().fields)

    def noise_spec(self, batch: int, frames: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the random inputs."""
        return {field.name: field.shape(batch, frames) for field in self.noise_fields}

    # Speakers.

    def speaker_vectors(self, speaker: Speaker) -> Tensor:
        """(B, gin, 1), or (1, gin, T) for a mix."""
        if isinstance(speaker, Tensor):
            return speaker if speaker.ndim == 3 else self._mixed(speaker)
        if not 0 <= speaker < self.config.n_speakers:
            found = f"this voice has {self.config.n_speakers}, numbered from 0."
            raise InputError(f"speaker {speaker}", found, "Give one of those numbers, or a name of its config.json.")
        return self.emb_g.weight[speaker].reshape(1, -1, 1)

    def _mixed(self, weights: Tensor) -> Tensor:
        if weights.ndim != 2 or weights.shape[1] != self.config.n_speakers:
            raise InputError(
                f"a speaker mix shaped {tuple(weights.shape)}",
                f"this voice has {self.config.n_speakers} speakers.",
                f"Give weights by frame: (frames, {self.config.n_speakers}).",
            )
        return torch.matmul(weights, self.emb_g.weight).transpose(0, 1).unsqueeze(0)

    # Stages.

    def content(self, units: Tensor, uv: Tensor, volume: Tensor | None = None, seen: Seen | None = None) -> Tensor:
        """Units (B, ssl, T), voicing and volume (B, 1, T) -> (B, hidden, T)."""
        pre = self.pre(units)
        _note(seen, pre=pre)
        voicing = self.emb_uv.weight.unsqueeze(-1)
        x = pre + (voicing[:1] * (1.0 - uv) + voicing[1:] * uv)
        if self.emb_vol is not None and volume is not None:
            x = x + (self.emb_vol.weight * volume + self.emb_vol.bias.unsqueeze(-1))
        return cast(Tensor, x)

    def spoken_f0(self, x: Tensor, f0_hz: Tensor, uv: Tensor, g: Tensor, seen: Seen | None = None) -> Tensor:
        """The pitch (B, T) that the voice would choose."""
        decoder = self.require_f0_decoder()
        norm_lf0 = pitch_decoder.normalised(pitch_decoder.log_f0(f0_hz).unsqueeze(1), uv)
        lf0 = decoder(x, norm_lf0, g)
        _note(seen, norm_lf0=norm_lf0, pred_lf0=lf0)
        return pitch_decoder.hz_from_log(lf0).squeeze(1)

    def require_f0_decoder(self) -> PitchDecoder:
        """The part that chooses a pitch, or an error where the voice has none."""
        if self.f0_decoder is None:
            found = "this voice was trained without an f0 decoder."
            raise InputError("automatic f0", found, "Leave it off (-a, auto_f0).")
        return self.f0_decoder

    def source(self, f0_hz: Tensor, noise: Noise, as_upstream: bool = False) -> Tensor:
        """The harmonic source (B, 1, T * hop) that the decoder adds to its stages."""
        excitation = cast(HarmonicExcitation, self.dec.excitation())
        run = UpstreamRun(excitation, noise) if as_upstream else excitation.begin(noise)
        return torch.from_numpy(run.push(on_host(f0_hz), f0_hz.shape[1])["source"]).to(f0_hz.device)

    # All of it.

    @torch.inference_mode()
    def latent(
        self,
        units: Tensor,
        f0_hz: Tensor,
        uv: Tensor,
        speaker: Speaker,
        volume: Tensor | None = None,
        *,
        prior_noise: Tensor,
        options: InferOptions = InferOptions(),
        seen: Seen | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What the decoder sings from, (B, inter, T), and at which pitch (B, T) in Hz; any length in bounded memory.

        f0_hz, uv (1 where voiced), volume: (B, T). What the stages make is put into `seen` under upstream's names.
        """
        self._check(units, f0_hz, uv, volume)
        g = self._checked(self.speaker_vectors(speaker), units)
        x = self.content(units, uv.unsqueeze(1), None if volume is None else volume.unsqueeze(1), seen)
        if options.predict_f0:
            f0_hz = self.spoken_f0(x, f0_hz, uv, g, seen)
        pitch_bins = coarse_pitch(f0_hz, clamps_high=not options.as_upstream)
        hidden = self.enc_p.hidden(x, pitch_bins)
        mean, log_spread = self.enc_p.halves(self.enc_p.proj(hidden))
        z_p = prior.sample(mean, log_spread, prior_noise, options.noise_scale)
        z = self.flow(z_p, g)
        _note(seen, x=x, f0_coarse=pitch_bins, enc_p_hidden=hidden, m_p=mean, logs_p=log_spread, z_p=z_p, z=z)
        return z, f0_hz

    @torch.inference_mode()
    def infer(
        self,
        units: Tensor,
        f0_hz: Tensor,
        uv: Tensor,
        speaker: Speaker,
        volume: Tensor | None = None,
        *,
        options: InferOptions = InferOptions(),
        noise: Mapping[str, Array] | None = None,
        seed: int = 0,
        seen: Seen | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Audio (B, T * hop) and the f0 (B, T) it is sung at; `noise` as `noise_spec` lists it, else from the seed."""
        self._check(units, f0_hz, uv, volume)
        batch, _, frames = units.shape
        fields = self.noise_fields
        drawn = Noise(fields, check_seeds(seed, batch), check_given(fields, noise or {}, batch, frames))
        prior_noise = torch.tensor(drawn.over(PRIOR_NOISE, 0, frames), device=units.device)
        z, f0_hz = self.latent(units, f0_hz, uv, speaker, volume, prior_noise=prior_noise, options=options, seen=seen)
        source = self.source(f0_hz, drawn, options.as_upstream)
        audio = self.dec(z, source, self.speaker_vectors(speaker))
        _note(seen, har=source.transpose(1, 2), audio=audio, f0_out=f0_hz)
        return audio, f0_hz

    def _checked(self, g: Tensor, units: Tensor) -> Tensor:
        """Speaker vectors, after checking that they fit the units."""
        batch, _, frames = units.shape
        if g.shape[0] not in (1, batch) or g.shape[1] != self.config.gin_channels or g.shape[2] not in (1, frames):
            raise InputError(
                f"a speaker for {batch} x {frames} frames",
                f"its vectors are shaped {tuple(g.shape)}.",
                f"Give ({batch}, {self.config.gin_channels}, 1 or {frames}), or a mix with as many frames.",
            )
        return g

    def _check(self, units: Tensor, f0_hz: Tensor, uv: Tensor, volume: Tensor | None) -> None:
        if units.ndim != 3 or units.shape[1] != self.config.ssl_dim or units.shape[2] == 0:
            raise InputError(
                f"units shaped {tuple(units.shape)}",
                f"this voice takes {self.config.ssl_dim} channels and one frame or more.",
                f"Give (batch, {self.config.ssl_dim}, frames) from the content encoder that it was trained with.",
            )
        if (volume is None) != (self.emb_vol is None):
            has = "has no volume embedding" if self.emb_vol is None else "has a volume embedding"
            advice = "Leave the volume out." if self.emb_vol is None else "Give the volume of every frame."
            raise InputError("the volume of a take", f"this voice {has}.", advice)
        by_frame = (units.shape[0], units.shape[2])
        for name, given in (("f0", f0_hz), ("uv", uv), ("volume", volume)):
            if given is not None and tuple(given.shape) != by_frame:
                found = f"its shape is {tuple(given.shape)}, the units have {by_frame[1]} frames."
                raise InputError(f"{name} of a take", found, f"It must be {by_frame}.")
        for name, given in (("units", units), ("f0", f0_hz), ("uv", uv), ("volume", volume)):
            if given is not None and not torch.isfinite(given).all():
                raise InputError(f"{name} of a take", "it contains NaN or Inf.", "Give finite numbers.")


def _note(seen: Seen | None, **made: Tensor) -> None:
    if seen is not None:
        seen.update(made)
