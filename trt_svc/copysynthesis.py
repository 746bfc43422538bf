"""A recording through a vocoder and back: copy synthesis, with a change of key where asked."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trt_svc.audio import mono, read_audio, write_audio
from trt_svc.errors import InputError
from trt_svc.features.f0.base import DEFAULT_F0, PitchTrack, constant_track, f0_estimators
from trt_svc.session import Vocoder
from trt_svc.types import Array

MAX_KEY = 36.0


@dataclass(frozen=True)
class Synthesis:
    """What was made, and how fast."""

    output: Path
    sample_rate: int
    channels: int
    audio_s: float
    analysis_s: float
    vocoder_s: float

    @property
    def rtf(self) -> float:
        """Seconds of vocoder work per second of audio."""
        return self.vocoder_s / self.audio_s


def pitch_track(audio: Array, sample_rate: int, method: str) -> PitchTrack:
    """Pitch of a mono recording by a registered method, from a file (.npy, .txt, .csv), or a constant in Hz."""
    try:
        return constant_track(float(method), audio.shape[-1] / sample_rate)
    except ValueError as err:
        if isinstance(err, InputError):
            raise
    if Path(method).suffix in (".npy", ".txt", ".csv"):
        return _track_from_file(Path(method))
    return f0_estimators.get(method)()(audio, sample_rate)


def _track_from_file(path: Path) -> PitchTrack:
    what = f"f0 file {path.name}"
    try:
        values = (
            np.load(path, allow_pickle=False)
            if path.suffix == ".npy"
            else np.loadtxt(path, delimiter="," if path.suffix == ".csv" else None)
        )
    except (OSError, ValueError) as err:
        raise InputError(
            what, f"it cannot be read ({err}).", "Give numbers: Hz per 5 ms, or two columns of seconds and Hz."
        ) from err
    table = np.atleast_2d(np.asarray(values, np.float64))
    if table.shape[0] == 1 or table.shape[1] == 1:
        table = np.stack([np.arange(table.size) * 0.005, table.ravel()], axis=1)
    if table.shape[1] != 2 or not np.isfinite(table).all() or (table[:, 1] < 0).any():
        raise InputError(
            what,
            f"it holds {table.shape[1]} columns, or negative or missing values.",
            "Give Hz per 5 ms, or two columns of seconds and Hz, 0 where unvoiced.",
        )
    return PitchTrack(table[:, 0], table[:, 1])


def vocode(
    vocoder: Vocoder,
    audio: Array,
    sample_rate: int,
    key: float = 0.0,
    f0: str = DEFAULT_F0,
    keep_formants: bool = False,
    seed: int = 0,
) -> Array:
    """(channels, samples) at the vocoder's rate from (channels, samples) at any rate, as long as the input."""
    if not abs(key) <= MAX_KEY:
        raise InputError(
            f"key change of {key:g} semitones",
            f"it is outside -{MAX_KEY:g}..{MAX_KEY:g}.",
            "Two octaves sound usable at most.",
        )
    spec = vocoder.spec
    if spec.needs_speaker:
        raise InputError(
            f"vocode with {vocoder.checkpoint.family}",
            "it decodes the latent of a voice model and cannot read a mel.",
            "Use a mel vocoder (NSF-HiFiGAN, HiFi-GAN, BigVGAN, WaveGlow).",
        )
    # The spectrum is read as if sung at the new pitch, which moves formants too; the source alone moves otherwise.
    mel = vocoder.mel(audio, sample_rate, key_shift=0.0 if keep_formants else key)
    curves = None
    if spec.needs_f0:
        gliding = vocoder.excitation.lookahead_frames > 0
        tracks = [pitch_track(channel, sample_rate, f0) for channel in audio]
        curves = np.stack(
            [t.at_frames(mel.shape[2], spec.hop, spec.sample_rate, fill_unvoiced=gliding) for t in tracks]
        )
        curves = np.minimum(curves * np.float32(2 ** (key / 12)), spec.sample_rate / 4)
    wave = np.asarray(vocoder(mel, f0=curves, seed=seed))
    samples = round(audio.shape[-1] * spec.sample_rate / sample_rate)
    return np.pad(wave[:, :samples], ((0, 0), (0, max(0, samples - wave.shape[1]))))


def vocode_file(
    vocoder: Vocoder,
    source: Path,
    output: Path,
    key: float = 0.0,
    f0: str = DEFAULT_F0,
    keep_formants: bool = False,
    seed: int = 0,
) -> Synthesis:
    """Copy-synthesises one recording; the output keeps the number of channels."""
    if output.resolve() == source.resolve():
        raise InputError(f"writing {output.name}", "it is the input file itself.", "Give another output name (-o).")
    audio, rate = read_audio(source)
    started = time.perf_counter()
    wave = vocode(vocoder, audio if audio.shape[0] <= 2 else mono(audio)[None], rate, key, f0, keep_formants, seed)
    total_s = time.perf_counter() - started
    write_audio(output, wave, vocoder.spec.sample_rate)
    vocoder_s = vocoder.last_run_s
    return Synthesis(
        output,
        vocoder.spec.sample_rate,
        wave.shape[0],
        wave.shape[1] / vocoder.spec.sample_rate,
        total_s - vocoder_s,
        vocoder_s,
    )
