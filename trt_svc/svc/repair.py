"""What is done to a sung piece, or in its place: shallow diffusion, diffusion from noise, the enhancer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trt_svc.errors import InputError
from trt_svc.svc.conversion import ONLY, SHALLOW, Conversion
from trt_svc.svc.diffusion import Diffusion, Sampling, seeded_draws
from trt_svc.svc.draws import FROM_NOISE
from trt_svc.svc.enhancer import enhanced
from trt_svc.svc.listening import Heard, Listener
from trt_svc.svc.networks.unit2mel import OpenedUnit2Mel
from trt_svc.svc.nsf import MelVocoder
from trt_svc.svc.samplers.base import Course, Draws, Law
from trt_svc.svc.sinc import WIDE_WIDTH, sinc_resample
from trt_svc.svc.singer import Chance, Sung, usable_pitch
from trt_svc.svc.stopwatch import Stopwatch
from trt_svc.svc.volume import frame_volume
from trt_svc.types import Array


@dataclass(frozen=True)
class DiffusionEars:
    """What a diffusion model was trained to hear with; takes the voice's place where that is left out."""

    opened: OpenedUnit2Mel

    @property
    def sample_rate_hz(self) -> int:
        return self.opened.config.data.sampling_rate

    @property
    def hop_samples(self) -> int:
        return self.opened.config.data.block_size

    @property
    def unit_interpolate_mode(self) -> str:
        return self.opened.config.data.unit_interpolate_mode or "left"

    @property
    def unit_channels(self) -> int:
        return self.opened.config.data.encoder_out_channels

    @property
    def takes_volume(self) -> bool:
        return True


class Repair:
    """The vocoder, and a diffusion model in front of it where one is used."""

    def __init__(self, vocoder: MelVocoder, watch: Stopwatch, compat: bool) -> None:
        self.vocoder, self._watch, self._compat = vocoder, watch, compat

    def enhanced(self, sung: Sung, rate: int, hop_samples: int, options: Conversion, chance: Chance) -> Array:
        """The enhancer's version of sung pieces, at their own rate; in compat at the vocoder's."""
        made = []
        for audio, f0_hz, first_frame in zip(sung.audio, sung.f0_hz, chance.first_frames, strict=True):
            with self._watch.running("enhancer"):
                spoken = enhanced(
                    self.vocoder,
                    audio,
                    rate,
                    f0_hz,
                    hop_samples,
                    options.enhancer_key,
                    chance.draws,
                    chance.seed,
                    single_precision=self._compat,
                    first_frame=first_frame,
                )
                if not self._compat:
                    spoken = sinc_resample(spoken, self.vocoder.sample_rate, rate, WIDE_WIDTH)
            made.append(spoken)
        return np.stack(made)

    def spoken(self, mel: Array, f0_hz: Array, chance: Chance) -> Array:
        """Audio (pieces, samples) of mels (pieces, frames, n_mels)."""
        with self._watch.running("vocoder"):
            curve = usable_pitch(f0_hz, self.vocoder.vocoder.spec.max_f0_hz)
            return self.vocoder.infer(mel, curve, chance.draws, chance.seed, chance.first_frames)


@dataclass(frozen=True)
class DiffusionParts:
    """A diffusion model with the vocoder that it was trained for."""

    model: Diffusion
    opened: OpenedUnit2Mel
    repair: Repair
    watch: Stopwatch
    compat: bool

    def check(self, options: Conversion) -> None:
        """Refuses what the model was not trained for."""
        sampling = self.sampling(options)
        if options.diffusion == ONLY and self.model.shallow_only:
            found = f"it was trained on the {self.model.k_step_max} least noisy steps."
            raise InputError("diffusion from noise with this model", found, "Use shallow diffusion (-shd).")
        if options.diffusion == SHALLOW and options.k_step > self.model.k_step_max:
            found = f"the model was trained on the {self.model.k_step_max} least noisy steps."
            raise InputError(f"k_step {options.k_step}", found, f"Use 1 to {self.model.k_step_max}.")
        steps = options.k_step if options.diffusion == SHALLOW else self.model.k_step_max
        Course(self.model.schedule, steps, 1 if sampling.takes_every_step else sampling.speedup)

    def sampling(self, options: Conversion) -> Sampling:
        """What the options ask for; what they leave open is in the model's config."""
        usual = Sampling.from_config(self.opened.config)
        method = usual.method if options.sampler is None else options.sampler
        return Sampling(method, usual.speedup if options.speedup is None else options.speedup)

    def refined(
        self, heard: Heard, sung: Sung, speaker: int | Array, options: Conversion, chance: Chance, listener: Listener
    ) -> Array:
        """Sung pieces with the finest steps of their mels made anew."""
        with self.watch.running("mel"):
            mel = self.repair.vocoder.extract(sung.audio, listener.ears.sample_rate_hz, single_precision=self.compat)
        again = heard.units
        if options.second_encoding:
            again = np.concatenate([listener.units(audio, heard.frames) for audio in sung.audio])
        cond = self._condition(again, sung.f0_hz, self._volume(heard, sung, listener), speaker)
        with self.watch.running("diffusion"):
            made = self.model.refined(
                mel[:, : heard.frames], cond, options.k_step, self.sampling(options), _draws(chance, False)
            )
        return self.repair.spoken(made, sung.f0_hz, chance)

    def generated(self, heard: Heard, speaker: int | Array, options: Conversion, chance: Chance) -> Array:
        """Pieces made from noise alone."""
        cond = self._condition(heard.units, heard.f0_hz, heard.volume, speaker)
        with self.watch.running("diffusion"):
            made = self.model.generated(cond, self.sampling(options), _draws(chance, True))
        return self.repair.spoken(made, heard.f0_hz, chance)

    def _condition(self, units: Array, f0_hz: Array, volume: Array, speaker: int | Array) -> Array:
        with self.watch.running("diffusion"):
            return self.model.condition(units.transpose(0, 2, 1), np.maximum(f0_hz, 0), volume, speaker)

    def _volume(self, heard: Heard, sung: Sung, listener: Listener) -> Array:
        """That of the source where the voice was told it, else that of what the voice made of it."""
        if listener.ears.takes_volume:
            return heard.volume
        return frame_volume(sung.audio, listener.ears.hop_samples)


def _draws(chance: Chance, from_noise: bool) -> Draws:
    if chance.draws is None:
        return seeded_draws(chance.seed, *chance.first_frames)
    given = chance.draws

    def draw(name: str, law: Law, shape: tuple[int, ...]) -> Array:
        return given(FROM_NOISE if from_noise and name == "diffusion_start" else name, law, shape)

    return draw
