"""A recording through a vocoder and back: copy synthesis, with a change of key where asked."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trt_svc.audio import mono, read_audio, write_audio
from trt_svc.errors import InputError, shown
from trt_svc.features.f0.base import DEFAULT_F0, PitchTrack, constant_track, f0_estimators
from trt_svc.session import Vocoder
from trt_svc.types import Array

MAX_KEY = 36.0
SECONDS_PER_VALUE = 0.005


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
        return self.vocoder_s / max(self.audio_s, 1e-9)


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
    what = f"f0 file {shown(path.name)}"
    advice = "Give Hz per 5 ms in one column, or two columns: seconds (rising) and Hz, 0 where unvoiced."
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            values = np.loadtxt(path, delimiter="," if path.suffix == ".csv" else None, ndmin=2)
    except (OSError, ValueError, EOFError, MemoryError, UserWarning) as err:
        raise InputError(what, f"it cannot be read ({shown(str(err))}).", advice) from err
    if (
        not isinstance(values, np.ndarray)
        or values.dtype.kind not in "fiu"
        or values.ndim not in (1, 2)
        or values.size < 2
    ):
        raise InputError(what, "it holds no table of numbers.", advice)
    table = values.astype(np.float64)
    if table.ndim == 1 or table.shape[1] == 1:
        table = np.stack([np.arange(table.size) * SECONDS_PER_VALUE, table.ravel()], axis=1)
    if (
        table.shape[1] != 2
        or not np.isfinite(table).all()
        or (table[:, 1] < 0).any()
        or (np.diff(table[:, 0]) <= 0).any()
    ):
        raise InputError(
            what, f"it has {table.shape[1]} columns, or times that do not rise, or negative values.", advice
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
    if keep_formants and not spec.needs_f0:
        raise InputError(
            f"a change of key that keeps formants with {vocoder.checkpoint.family}",
            "this vocoder has no pitch input, so nothing would change.",
            "Leave --keep-formants out, or use an NSF-HiFiGAN.",
        )
    # The spectrum is read as if sung at the new pitch, which moves formants too; the source alone moves otherwise.
    mel = np.asarray(vocoder.mel(audio, sample_rate, key_shift=0.0 if keep_formants else key))
    curves = None
    if spec.needs_f0:
        gliding = vocoder.excitation.lookahead_frames > 0
        tracks = [pitch_track(channel, sample_rate, f0) for channel in audio]
        curves = np.stack(
            [t.at_frames(mel.shape[2], spec.hop, spec.sample_rate, fill_unvoiced=gliding) for t in tracks]
        )
        curves = np.minimum(curves * np.float32(2 ** (key / 12)), np.float32(0.99 * spec.max_f0_hz))
    wave = np.asarray(vocoder(mel, f0=curves, seed=seed))
    samples = max(1, round(audio.shape[-1] * spec.sample_rate / sample_rate))
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
