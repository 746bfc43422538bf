"""A so-vits-svc model with everything around it, each part opened when a song first needs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np

from trt_svc.errors import ConfigError, shown
from trt_svc.features.f0.base import DEFAULT_F0, F0Estimator, f0_estimators
from trt_svc.features.f0.weights import TrainedWeights
from trt_svc.loading import load_vocoder
from trt_svc.session import Vocoder
from trt_svc.svc.clusters import SpeakerClusters, read_clusters
from trt_svc.svc.conversion import AUTO_F0, ONLY, SHALLOW, Conversion
from trt_svc.svc.diffusion import Diffusion
from trt_svc.svc.encoders.base import encoders
from trt_svc.svc.f0_stages import f0_stage, run_f0_on
from trt_svc.svc.listening import Ears, Encoder, Listener, Mixing, f0_stage_name
from trt_svc.svc.model_folder import ModelFiles
from trt_svc.svc.networks.unit2mel import OpenedUnit2Mel, open_unit2mel
from trt_svc.svc.nsf import MelVocoder, open_mel_vocoder
from trt_svc.svc.repair import DiffusionEars, DiffusionParts, Repair
from trt_svc.svc.retrieval import Retrieval, read_retrieval
from trt_svc.svc.running import Running
from trt_svc.svc.sinc import WIDE_WIDTH, sinc_resample
from trt_svc.svc.singer import Singer
from trt_svc.svc.speakers import Speakers
from trt_svc.svc.stage import Run
from trt_svc.svc.stopwatch import Stopwatch
from trt_svc.svc.voice_model import VoiceModel, load_voice
from trt_svc.svc.voice_stages import cluster_stage, denoiser_for, denoiser_stage, retrieval_stage
from trt_svc.types import Array

RMVPE, UPSTREAM_F0 = "rmvpe", "pm"


@dataclass
class Model:
    """The parts of a model; nothing is read before it is asked for."""

    files: ModelFiles
    running: Running
    watch: Stopwatch
    compat: bool = False
    batch: int = 1
    """Most pieces of one length that are sung together."""
    given_encoder: Encoder | None = None
    _encoders: dict[str, Encoder] = field(default_factory=dict)
    _estimators: dict[str, F0Estimator] = field(default_factory=dict)
    _retrievals: dict[int, Run | Retrieval] = field(default_factory=dict)
    _clusters: dict[str, Run] = field(default_factory=dict)

    # What a song asks for.

    def ears(self, without_voice: bool) -> Ears:
        """What the model in charge was trained to hear with: the voice, or the diffusion model alone."""
        return self.diffusion_ears if without_voice else self.voice

    def speakers(self, without_voice: bool) -> Speakers:
        if without_voice:
            config = self.unit2mel.config
            return Speakers(config.spk or {}, config.speakers, f"the diffusion model {self.unit2mel.path.name}")
        voice = self.voice
        return Speakers(voice.speakers, voice.net.config.n_speakers, f"the voice {voice.path.name}")

    def listener(self, options: Conversion) -> Listener:
        """Encoder and pitch for a song."""
        without_voice = options.diffusion == ONLY
        ears, method = self.ears(without_voice), self.f0_method(options.f0)
        name = self.unit2mel.config.data.encoder if without_voice else self.voice.speech_encoder
        encoder = self.encoder(name or "", ears.unit_channels)
        return Listener(ears, encoder, self.pitch(method), self.watch, f0_name=method, compat=self.compat)

    def mixing(self, options: Conversion, name: str, number: int) -> Mixing | None:
        """What pulls units towards a speaker, where that is asked for."""
        if options.cluster_ratio == 0:
            return None
        if options.retrieval:
            return self.nearer_by_retrieval(number, options.cluster_ratio)
        return self.nearer_by_clusters(name, options.cluster_ratio)

    def require(self, options: Conversion) -> None:
        """Opens what comes last, so that a missing file is missed before minutes of work."""
        if options.diffusion == SHALLOW:
            self.check_shallow()
        if options.diffusion is not None:
            self.diffusion.check(options)
        if options.enhance and options.diffusion is None:
            _ = self.enhancer
        if options.diffusion != ONLY:
            self.singer.open(options)

    def notes(self) -> dict[str, dict[str, Any]]:
        """Stage -> what ran it and how well, as far as there is a choice."""
        found = {**self.running.notes(), **self._session_notes()}
        if self.given_encoder is not None:
            found.pop("content encoder", None)
        for stage in self.watch.taken():
            network = "denoiser" if stage == "diffusion" else "f0 network" if stage in self._network_f0_stages() else ""
            if network in found:
                found[stage] = found[network]
        return found

    def _network_f0_stages(self) -> set[str]:
        return {f0_stage_name(name) for name, kind in f0_estimators if hasattr(kind, "trained")}

    def _session_notes(self) -> dict[str, dict[str, Any]]:
        opened = vars(self)
        sessions: dict[str, Vocoder] = {}
        if "singer" in opened:
            sessions["decoder"] = self.singer.decoder
        if "diffusion" in opened:
            sessions["vocoder"] = self.diffusion.repair.vocoder.vocoder
        if "enhancer" in opened:
            sessions["enhancer"] = self.enhancer.vocoder.vocoder
        return {
            stage: {"backend": f"{session.backend} {session.precision}", "quality_db": session.quality_db}
            for stage, session in sessions.items()
        }

    # The voice.

    @cached_property
    def voice(self) -> VoiceModel:
        return load_voice(self.files.need_voice(), self.files.need_voice_config())

    @cached_property
    def singer(self) -> Singer:
        voice = self.voice

        def open_decoder() -> Vocoder:
            return self.running.opened("decoder", partial(load_vocoder, voice.net.dec))

        return Singer(voice, self.running.open_stage, open_decoder, self.watch, self.compat)

    # What is heard.

    def encoder(self, name: str, channels: int) -> Encoder:
        """The content encoder of that name, or the one that was handed in."""
        if self.given_encoder is not None:
            return self.given_encoder
        if name not in self._encoders:
            kind = encoders.get(name)
            path = self.files.need_pretrained(f"content encoder {name}", *kind.usual_files)
            encoder = kind.from_file(path, channels)
            stage = None if self.running.in_place else encoder.stage()
            if stage is not None:
                encoder.on(self.running.open_stage(stage))
            self._encoders[name] = encoder
        return self._encoders[name]

    def f0_method(self, asked: str) -> str:
        """The method's name; "auto" depends on what is there, and is upstream's own choice in compat."""
        if asked != AUTO_F0:
            return asked
        if self.compat:
            return UPSTREAM_F0
        trained: TrainedWeights = f0_estimators.get(RMVPE).trained  # type: ignore[attr-defined]
        return RMVPE if self.files.pretrained(*trained.file_names) or trained.find() else DEFAULT_F0

    def pitch(self, method: str) -> F0Estimator:
        """The estimator, which keeps its network."""
        if method not in self._estimators:
            self._estimators[method] = self._opened_pitch(method)
        return self._estimators[method]

    def _opened_pitch(self, method: str) -> F0Estimator:
        kind: Any = f0_estimators.get(method)
        options: dict[str, Any] = {}
        trained = getattr(kind, "trained", None)
        if isinstance(trained, TrainedWeights):
            options["weights"] = self.files.pretrained(*trained.file_names)
            if self.compat and method in (RMVPE, "fcpe"):
                options["resample"] = _wide_resample
        estimator: F0Estimator = kind(**options)
        stage = None if self.running.in_place else f0_stage(estimator)
        if stage is not None:
            run_f0_on(estimator, self.running.open_stage(stage))
        return estimator

    # What is known of the speakers.

    @cached_property
    def clusters(self) -> SpeakerClusters:
        return read_clusters(self.files.need_clusters())

    def nearer_by_clusters(self, speaker: str, ratio: float) -> Callable[[Array], Array]:
        """Units (channels, frames) towards the speaker's cluster centres."""
        table = self.clusters.of(speaker)
        self._check_width("clusters", table.channels)
        if self.running.on_torch:
            return self._timed("cluster mixing", lambda units: table.mixed(units, ratio))
        if speaker not in self._clusters:
            self._clusters[speaker] = self.running.open_stage(cluster_stage(table))
        return self._timed("cluster mixing", _mixed_by(self._clusters[speaker], ratio))

    def nearer_by_retrieval(self, speaker: int, ratio: float) -> Callable[[Array], Array]:
        """Units (channels, frames) towards the recorded ones nearest to them."""
        if speaker not in self._retrievals:
            index = read_retrieval(self.files.need_retrieval(), speaker)
            self._check_width("feature index", index.channels)
            self._retrievals[speaker] = (
                index if self.running.on_torch else self.running.open_stage(retrieval_stage(index))
            )
        opened = self._retrievals[speaker]
        if isinstance(opened, Retrieval):
            return self._timed("feature retrieval", lambda units: opened.mixed(units, ratio, self.compat))
        return self._timed("feature retrieval", _mixed_by(opened, ratio))

    def _check_width(self, what: str, channels: int) -> None:
        """Are they of the units that this model hears with?"""
        opened = vars(self)
        ears = self.voice if "voice" in opened else self.diffusion_ears
        if channels != ears.unit_channels:
            found = f"its vectors have {channels} channels, the model's units {ears.unit_channels}."
            raise ConfigError(f"{what} of this model", found, "Use the file that was made for this model.")

    def _timed(self, stage: str, mix: Callable[[Array], Array]) -> Callable[[Array], Array]:
        def timed(units: Array) -> Array:
            with self.watch.running(stage):
                return mix(units)

        return timed

    # Diffusion and vocoder.

    @cached_property
    def unit2mel(self) -> OpenedUnit2Mel:
        return open_unit2mel(self.files.need_diffusion(), self.files.need_diffusion_config())

    @cached_property
    def diffusion_ears(self) -> DiffusionEars:
        return DiffusionEars(self.unit2mel)

    @cached_property
    def diffusion(self) -> DiffusionParts:
        opened = self.unit2mel
        config = opened.config
        vocoder = self._vocoder(config.vocoder.ckpt, config.vocoder.type)
        found = (vocoder.n_mels, vocoder.sample_rate, vocoder.hop_samples)
        needed = (opened.net.n_mels, config.data.sampling_rate, config.data.block_size)
        if found != needed:
            raise ConfigError(
                "vocoder of the diffusion model",
                f"it has {found[0]} mel bins at {found[1]} Hz and a hop of {found[2]}; the model makes {needed[0]} at "
                f"{needed[1]} Hz and {needed[2]}.",
                "Use the vocoder that the diffusion model was trained with.",
            )
        for_slice = None
        self.running.place(opened.net)
        if not self.running.on_torch:
            denoiser = opened.net.denoiser
            for_slice = denoiser_for(self.running.open_stage(denoiser_stage(denoiser)), denoiser)
        model = Diffusion(opened.net, config.timesteps, config.k_step_max, for_slice)
        return DiffusionParts(model, opened, Repair(vocoder, self.watch, self.compat), self.watch, self.compat)

    @cached_property
    def enhancer(self) -> Repair:
        return Repair(self._vocoder(None, "nsf-hifigan"), self.watch, self.compat)

    def _vocoder(self, ckpt: str | None, kind: str) -> MelVocoder:
        return self.running.opened("vocoder", partial(open_mel_vocoder, self.files.need_vocoder(ckpt), kind))

    def check_shallow(self) -> None:
        """Shallow diffusion repairs what this voice sings: both must have been trained on the same frames and units."""
        voice, config = self.voice, self.unit2mel.config
        pairs = (
            ("sample rate", voice.sample_rate_hz, config.data.sampling_rate),
            ("hop", voice.hop_samples, config.data.block_size),
            ("unit channels", voice.unit_channels, config.data.encoder_out_channels),
            ("content encoder", voice.speech_encoder, config.data.encoder or voice.speech_encoder),
        )
        for what, of_voice, of_diffusion in pairs:
            if of_voice != of_diffusion:
                found = f"{what}: {shown(of_voice)} of the voice, {shown(of_diffusion)} of the diffusion model."
                raise ConfigError("shallow diffusion", found, "Use the diffusion model trained for this voice.")


def _mixed_by(run: Run, ratio: float) -> Callable[[Array], Array]:
    """A mixing stage as a function of units (channels, frames)."""
    share = np.full((1, 1, 1), ratio, np.float32)
    return lambda units: run({"units": np.ascontiguousarray(units[None]), "ratio": share})[0]


def _wide_resample(audio: Array, rate_in: int, rate_out: int) -> Array:
    return sinc_resample(audio, rate_in, rate_out, WIDE_WIDTH, single_precision=True)
