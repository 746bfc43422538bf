"""The voice: what was heard, sung by somebody else. Each of its networks runs as a stage of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from trt_svc.noise import Noise, NoiseField
from trt_svc.session import Vocoder
from trt_svc.svc.conversion import Conversion
from trt_svc.svc.draws import UNUSED
from trt_svc.svc.listening import Heard
from trt_svc.svc.networks import pitch_decoder
from trt_svc.svc.networks.prior import coarse_pitch
from trt_svc.svc.networks.source import RenderedExcitation
from trt_svc.svc.networks.synthesizer import PRIOR_NOISE, Speaker
from trt_svc.svc.samplers.base import Draws
from trt_svc.svc.stage import Run, StageOpener
from trt_svc.svc.stopwatch import Stopwatch
from trt_svc.svc.voice_model import VoiceModel
from trt_svc.svc.voice_stages import flow_stage, pitch_stage, voice_encoder_stage
from trt_svc.types import Array


@dataclass(frozen=True)
class Chance:
    """Where the random numbers of some pieces come from."""

    seed: int
    first_frames: tuple[int, ...]
    """Of every piece in the song: seeded numbers belong to a place there."""
    draws: Draws | None = None
    """Numbers from elsewhere, asked for in upstream's order."""


@dataclass(frozen=True)
class Sung:
    """Pieces in the new voice."""

    audio: Array
    """(pieces, frames * hop)"""
    f0_hz: Array
    """(pieces, frames): the given pitch, or the voice's own."""


class Singer:
    """A voice with its stages opened."""

    def __init__(
        self,
        voice: VoiceModel,
        open_stage: StageOpener,
        open_decoder: Callable[[], Vocoder],
        watch: Stopwatch,
        compat: bool,
    ) -> None:
        self.voice, self._open, self._watch, self._compat = voice, open_stage, watch, compat
        self._open_decoder = open_decoder

    def open(self, options: Conversion) -> None:
        """Opens what a song with these options needs: building engines is no part of singing it."""
        mixed = options.speaker_mix is not None
        _ = self.decoder, self._encode, self._flow_of_mix if mixed else self._flow
        if options.auto_f0:
            self.voice.net.require_f0_decoder()
            _ = self._pitch_of_mix if mixed else self._pitch

    def speaker(self, speaker: Speaker) -> Array:
        """(1, channels, 1), or (1, channels, frames) of a mix (frames, speakers)."""
        net = self.voice.net
        chosen = speaker.to(net.emb_g.weight.device) if isinstance(speaker, torch.Tensor) else speaker
        return np.ascontiguousarray(net.speaker_vectors(chosen).detach().cpu().numpy())

    def sing(self, heard: Heard, speaker: Array, options: Conversion, chance: Chance) -> Sung:
        """Pieces by a speaker: (1, channels, 1), or (pieces, channels, 1 or frames)."""
        given = {"units": heard.units, "uv": heard.uv[:, None]}
        if self.voice.takes_volume:
            given["volume"] = heard.volume[:, None]
        f0 = self._own_pitch(given, heard, speaker) if options.auto_f0 else heard.f0_hz
        bins = coarse_pitch(torch.from_numpy(f0), clamps_high=not self._compat).float().numpy()[:, None]
        with self._watch.running("voice encoder"):
            statistics = self._encode({**given, "pitch_bins": bins})
        mean, log_spread = np.split(statistics, 2, axis=1)
        noise = self._noise(chance, heard.frames)
        z_p = mean + noise[PRIOR_NOISE] * np.exp(log_spread) * np.float32(options.noise_scale)
        mixed = speaker.shape[2] != 1
        with self._watch.running("flow of a mix" if mixed else "flow"):
            flow = self._flow_of_mix if mixed else self._flow
            z = flow({"z_p": z_p, "speaker": speaker})
        return Sung(self._audio(z, f0, speaker, noise, chance), f0)

    def _audio(self, z: Array, f0_hz: Array, speaker: Array, noise: dict[str, Array], chance: Chance) -> Array:
        given = {name: value for name, value in noise.items() if name != PRIOR_NOISE}
        decoder = self.decoder
        with self._watch.running("decoder"):
            if self._compat:
                source = self.voice.net.source(torch.from_numpy(f0_hz), self._drawn(given), as_upstream=True)
                decoder, given = decoder.excited_by(RenderedExcitation(source.numpy(), decoder.spec.hop)), {}
            curve = usable_pitch(f0_hz, decoder.spec.max_f0_hz)
            voices = np.repeat(speaker, len(z), axis=0) if len(speaker) == 1 else speaker
            made = decoder(z, curve, voices, given, chance.seed, first_frame=chance.first_frames)
        return np.asarray(made)

    def _drawn(self, given: dict[str, Array]) -> Noise:
        return Noise(self.voice.net.noise_fields, (0,), given)

    def _own_pitch(self, given: dict[str, Array], heard: Heard, speaker: Array) -> Array:
        """(pieces, frames)"""
        net = self.voice.net
        net.require_f0_decoder()
        f0, uv = torch.from_numpy(heard.f0_hz), torch.from_numpy(heard.uv)
        norm_lf0 = pitch_decoder.normalised(pitch_decoder.log_f0(f0).unsqueeze(1), uv)
        mixed = speaker.shape[2] != 1
        with self._watch.running("voice pitch of a mix" if mixed else "voice pitch"):
            choose = self._pitch_of_mix if mixed else self._pitch
            lf0 = choose({**given, "norm_lf0": norm_lf0.numpy(), "speaker": speaker})
        return np.asarray(pitch_decoder.hz_from_log(torch.from_numpy(lf0)).squeeze(1).numpy())

    def _noise(self, chance: Chance, frames: int) -> dict[str, Array]:
        """The prior's noise, and that of the source where it does not follow from the seed."""
        fields = self.voice.net.noise_fields
        if chance.draws is None:
            noise = Noise(fields, (chance.seed,) * len(chance.first_frames), first_frame=chance.first_frames)
            return {PRIOR_NOISE: np.ascontiguousarray(noise.over(PRIOR_NOISE, 0, frames))}
        drawn = {field.name: _drawn(chance.draws, field, frames) for field in fields}
        chance.draws(UNUSED, "normal", (1, frames * self.voice.hop_samples, 1))
        return drawn

    # What runs the stages.

    @cached_property
    def decoder(self) -> Vocoder:
        """The session of the waveform decoder."""
        return self._open_decoder()

    @cached_property
    def _encode(self) -> Run:
        return self._open(voice_encoder_stage(self.voice.net))

    @cached_property
    def _flow(self) -> Run:
        return self._open(flow_stage(self.voice.net))

    @cached_property
    def _flow_of_mix(self) -> Run:
        return self._open(flow_stage(self.voice.net, by_frame=True))

    @cached_property
    def _pitch(self) -> Run:
        return self._open(pitch_stage(self.voice.net))

    @cached_property
    def _pitch_of_mix(self) -> Run:
        return self._open(pitch_stage(self.voice.net, by_frame=True))


def usable_pitch(f0_hz: Array, limit_hz: float) -> Array:
    """The same below what a source can make: a voice's own pitch may be anything, and what is none is unvoiced."""
    return np.clip(f0_hz, 0, np.nextafter(np.float32(limit_hz), np.float32(0)))


def _drawn(draws: Draws, field: NoiseField, frames: int) -> Array:
    return draws(field.name, field.law, field.shape(1, frames))
