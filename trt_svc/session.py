"""One call from mel to audio, whatever the vocoder and whatever runs it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from trt_svc.audio import resample
from trt_svc.backends.base import Runner
from trt_svc.backends.torch_eager import TorchRunner
from trt_svc.build import ask_sentinel, build_engine, usable_backend
from trt_svc.build_config import BuildConfig, Precision
from trt_svc.checkpoints.load import Checkpoint, open_checkpoint
from trt_svc.config import AudioSpec
from trt_svc.denoiser import BIAS_FRAMES, Denoiser
from trt_svc.errors import BackendUnavailable, InputError
from trt_svc.excitation import Excitation, LatentNoise
from trt_svc.features.mel import log_mel
from trt_svc.graph.vocoder import weights_sha256
from trt_svc.inputs import Utterance, as_wave, check_rate, check_utterance, is_tensor, like
from trt_svc.noise import Noise, check_given, check_seeds
from trt_svc.types import Array

if TYPE_CHECKING:
    import torch

Waves: TypeAlias = "Array | torch.Tensor"


class Vocoder:
    """A loaded vocoder. Call it with a mel (B, n_mels, T); see `load_vocoder`."""

    def __init__(self, checkpoint: Checkpoint, runner: Runner, backend: str, device: str) -> None:
        self.checkpoint = checkpoint
        self.backend = backend
        self.device = device
        self._runner = runner
        self._excitation: Excitation = checkpoint.net.excitation()
        self.last_run_s = 0.0
        """Seconds that the network took in the last call."""

    def __repr__(self) -> str:
        what = f"{self.checkpoint.family} ({self.checkpoint.net.variant}) {self.spec.sample_rate} Hz"
        return f"<Vocoder {what} on {self.backend}, {self.device}>"

    @property
    def spec(self) -> AudioSpec:
        """Rates, sizes and needs."""
        return self.checkpoint.net.spec

    @property
    def receptive_field(self) -> tuple[int, int]:
        """Mel frames each side (left, right) that an output frame depends on."""
        return self.checkpoint.net.receptive_field

    @property
    def excitation(self) -> Excitation:
        """The stage in front of the network: source and noise."""
        return self._excitation

    def noise_spec(self, batch: int, frames: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the random inputs, in the order upstream draws them."""
        return {field.name: field.shape(batch, frames) for field in self._excitation.fields}

    def mel(self, audio: Waves, sample_rate: int, key_shift: float = 0.0) -> Waves:
        """The family's own log-mel (B, n_mels, T) of audio (N,) or (B, N) at any rate."""
        spec = self.spec.mel
        if spec is None:
            raise InputError(
                f"mel for {self.checkpoint.family}",
                "this vocoder takes the latent of a voice model, not a mel.",
                "Call it with the latent (B, channels, T).",
            )
        wave = resample(as_wave(audio), check_rate(sample_rate), spec.sample_rate)
        return cast(Waves, like(audio, log_mel(wave, spec, key_shift)))

    def __call__(
        self,
        mel: Waves,
        f0: Waves | None = None,
        speaker: Waves | None = None,
        noise: Mapping[str, Any] | None = None,
        seed: int | list[int] = 0,
        *,
        sigma: float | None = None,
        denoiser_strength: float = 0.0,
    ) -> Waves:
        """Audio (B, samples) for a mel (B, n_mels, T).

        f0: (B, T) in Hz, 0 where unvoiced, for vocoders with a source. speaker: (B, channels) or
        (B, channels, T). noise: random inputs as upstream draws them (`noise_spec`); what is not given
        comes from `seed`. sigma and denoiser_strength belong to WaveGlow. Torch in, torch out.
        """
        utterance = check_utterance(self.spec, mel, f0, speaker)
        excitation = self._with_sigma(sigma)
        wave = self._render(excitation, utterance, noise or {}, seed)
        if not (np.isfinite(denoiser_strength) and denoiser_strength >= 0):
            raise InputError("denoiser_strength", f"{denoiser_strength} is not usable.", "Use 0 or more; 0.1 is usual.")
        if denoiser_strength:
            wave = self._denoiser(wave, denoiser_strength)
        return cast(Waves, like(mel, wave))

    def _render(
        self, excitation: Excitation, utterance: Utterance, noise: Mapping[str, Any], seed: int | list[int]
    ) -> Array:
        batch, frames = utterance.batch, utterance.frames
        arrays = {
            name: value.detach().float().cpu().numpy() if is_tensor(value) else value for name, value in noise.items()
        }
        given = check_given(excitation.fields, arrays, batch, frames)
        run = excitation.begin(Noise(excitation.fields, check_seeds(seed, batch), given))
        inputs = {"mel": utterance.mel, **run.push(utterance.f0, frames)}
        if utterance.speaker is not None:
            # Once per frame: engines have one time axis.
            shape = (*utterance.speaker.shape[:2], frames)
            inputs["speaker"] = np.broadcast_to(utterance.speaker, shape).copy()
        started = time.perf_counter()
        wave = self._runner.run(inputs)
        self.last_run_s = time.perf_counter() - started
        return wave

    def _with_sigma(self, sigma: float | None) -> Excitation:
        if sigma is None:
            return self._excitation
        if not isinstance(self._excitation, LatentNoise):
            raise InputError(
                "sigma", f"{self.checkpoint.family} has no noise to scale.", "It belongs to WaveGlow: leave it out."
            )
        if not (np.isfinite(sigma) and sigma >= 0):
            raise InputError("sigma", f"{sigma} is not usable.", "Use 0 or more; 0.6 suits speech.")
        return replace(self._excitation, sigma=float(sigma))

    @cached_property
    def _denoiser(self) -> Denoiser:
        if not isinstance(self._excitation, LatentNoise):
            raise InputError(
                "denoiser_strength",
                f"{self.checkpoint.family} has no denoiser.",
                "It belongs to WaveGlow: leave it at 0.",
            )
        silent = Utterance(np.zeros((1, self.spec.n_mels, BIAS_FRAMES), np.float32), None, None)
        return Denoiser.from_bias_audio(self._render(replace(self._excitation, sigma=0.0), silent, {}, 0))


def load_vocoder(
    path: str | Path,
    config: str | Path | Mapping[str, Any] | None = None,
    family: str | None = None,
    source: str | None = None,
    backend: str = "torch",
    device: str = "auto",
    precision: str = "fp32",
    *,
    build: BuildConfig | None = None,
) -> Vocoder:
    """The vocoder stored at a path, in a folder or under an alias ("demo" is the voice that ships with the package).

    config: a path, a dictionary in upstream's keys or the name of a preset; by default the config.json
    beside the weights, or the published config that fits. family: hifigan, nsf_hifigan, sovits_dec,
    bigvgan, gptsovits_generator or waveglow; by default recognised. source (nsf_hifigan): sovits-interp,
    openvpi (the default), openvpi-legacy or mini; the weights do not tell the first three apart.
    backend: torch, auto (the fastest here), or one that `trt-svc doctor` lists; engines are built once and
    then come from the cache. build: all settings of the engine at once, in place of backend and precision.
    """
    where = chosen_device(device)
    wanted = Precision(precision)
    if backend == "torch" and build is None:
        if wanted.name not in ("fp32", "auto"):
            raise InputError(
                f"precision {precision!r}",
                "the torch backend runs in fp32.",
                "Use precision='fp32', or an engine backend.",
            )
        checkpoint = open_checkpoint(path, config, family, source)
        return Vocoder(checkpoint, TorchRunner(checkpoint.net, where), backend, where)
    settings = build or BuildConfig(backend=backend, device="cpu" if device == "cpu" else "auto", precision=wanted)
    if settings.backend != "auto":
        usable_backend(settings.backend)
    engine = build_engine(path, settings, config=config, family=family, source=source)
    checkpoint = open_checkpoint(path, config, family, source)
    if weights_sha256(checkpoint.net) != engine.entry.metadata["weights_sha256"]:
        engine = build_engine(checkpoint, settings)  # the file was replaced in between
    runner = usable_backend(engine.backend).open(engine.entry.files, where)
    ask_sentinel(engine, runner)
    return Vocoder(checkpoint, runner, engine.backend, where)


def chosen_device(asked: str) -> str:
    """ "auto" is the first GPU where there is one, else the CPU."""
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(asked).type
    except RuntimeError as err:
        raise InputError(
            f"device {asked!r}", "there is no such kind of device.", "Use auto, cpu, cuda or cuda:N."
        ) from err
    if kind not in ("cpu", "cuda"):
        raise InputError(f"device {asked!r}", f"{kind} devices are not supported.", "Use auto, cpu, cuda or cuda:N.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable(
            f"device {asked}", "torch sees no CUDA GPU here.", "Use device='cpu' or 'auto', or see `trt-svc doctor`."
        )
    return asked
