"""A recording through a vocoder and back: copy synthesis, with a change of key where asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trt_svc.audio import mono
from trt_svc.audio_blocks import Recording, Resampler, recording_written
from trt_svc.errors import InputError, shown
from trt_svc.features.f0.base import DEFAULT_F0, PitchTrack, constant_track, f0_estimators
from trt_svc.features.f0.blocks import PitchBlocks
from trt_svc.features.mel_blocks import MelBlocks
from trt_svc.inputs import check_rate
from trt_svc.milestones import reached
from trt_svc.progress import Progress, Quiet
from trt_svc.session import Vocoder
from trt_svc.types import Array

MAX_KEY = 36.0
MAX_CHANNELS = 2
SECONDS_PER_VALUE = 0.005
SECONDS_PER_BLOCK = 5
CONTEXTS_PER_BLOCK = 8
"""Frames of a block per frame of context, which some networks compute twice."""
FIRST_BLOCK_S, FIRST_BLOCK_CONTEXTS = 0.5, 2
"""The first block is short, so that the first samples come early."""


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
    given = _given_track(method, audio.shape[-1] / sample_rate)
    return f0_estimators.get(method)()(audio, sample_rate) if given is None else given


def _given_track(method: str, seconds: float) -> PitchTrack | None:
    """The pitch that nobody has to find: a constant or a file; None where the name is a method's."""
    try:
        return constant_track(float(method), seconds)
    except ValueError as err:
        if isinstance(err, InputError):
            raise
    return _track_from_file(Path(method)) if Path(method).suffix in (".npy", ".txt", ".csv") else None


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


@dataclass(frozen=True)
class _Task:
    """What is asked of a vocoder, checked."""

    vocoder: Vocoder
    key: float
    f0: str
    keep_formants: bool
    seed: int

    def __post_init__(self) -> None:
        spec, family = self.vocoder.spec, self.vocoder.family
        if not abs(self.key) <= MAX_KEY:
            raise InputError(
                f"key change of {self.key:g} semitones",
                f"it is outside -{MAX_KEY:g}..{MAX_KEY:g}.",
                "Two octaves sound usable at most.",
            )
        if spec.needs_speaker or spec.mel is None:
            raise InputError(
                f"vocode with {family}",
                "it decodes the latent of a voice model and cannot read a mel.",
                "Use a mel vocoder (NSF-HiFiGAN, HiFi-GAN, BigVGAN, WaveGlow).",
            )
        if self.keep_formants and not spec.needs_f0:
            raise InputError(
                f"a change of key that keeps formants with {family}",
                "this vocoder has no pitch input, so nothing would change.",
                "Leave --keep-formants out, or use an NSF-HiFiGAN.",
            )

    @property
    def mel_key(self) -> float:
        """The spectrum is read as if sung at the new pitch, which moves formants too; the source alone moves else."""
        return 0.0 if self.keep_formants else self.key

    def curves(self, tracks: list[PitchTrack], frames: int) -> Array:
        """f0 (channels, frames) in the new key."""
        spec = self.vocoder.spec
        gliding = self.vocoder.excitation.lookahead_frames > 0
        curves = np.stack([t.at_frames(frames, spec.hop, spec.sample_rate, fill_unvoiced=gliding) for t in tracks])
        moved: Array = curves * np.float32(2 ** (self.key / 12))
        return np.minimum(moved, np.float32(0.99 * spec.max_f0_hz))

    def output_samples(self, samples: int, sample_rate: int) -> int:
        """As long as the input."""
        return max(1, round(samples * self.vocoder.spec.sample_rate / sample_rate))


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
    task = _Task(vocoder, key, f0, keep_formants, seed)
    mel = np.asarray(vocoder.mel(audio, sample_rate, key_shift=task.mel_key))
    curves = None
    if vocoder.spec.needs_f0:
        curves = task.curves([pitch_track(channel, sample_rate, f0) for channel in audio], mel.shape[2])
    wave = np.asarray(vocoder(mel, f0=curves, seed=seed))
    samples = task.output_samples(audio.shape[-1], sample_rate)
    return np.pad(wave[:, :samples], ((0, 0), (0, max(0, samples - wave.shape[1]))))


def vocode_file(
    vocoder: Vocoder,
    source: Path,
    output: Path,
    key: float = 0.0,
    f0: str = DEFAULT_F0,
    keep_formants: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Synthesis:
    """Copy-synthesises one recording of any length in bounded memory; the output keeps the number of channels."""
    if output.resolve() == source.resolve():
        raise InputError(f"writing {output.name}", "it is the input file itself.", "Give another output name (-o).")
    task = _Task(vocoder, key, f0, keep_formants, seed)
    started = time.perf_counter()
    copy = _Copy(task, Recording(source), progress or Quiet())
    rate = vocoder.spec.sample_rate
    with recording_written(output, rate, copy.channels, copy.output_samples) as writer:
        curves = copy.listen()
        reached("pitch")
        vocoder_s = copy.sing(curves, writer.write)
    total_s = time.perf_counter() - started
    return Synthesis(output, rate, copy.channels, copy.output_samples / rate, total_s - vocoder_s, vocoder_s)


class _Copy:
    """One recording on its way through the vocoder. It is read twice: the pitch of a frame may depend on later ones."""

    def __init__(self, task: _Task, recording: Recording, progress: Progress) -> None:
        self._task = task
        self._recording = recording
        self._progress = progress
        self._rate = check_rate(recording.sample_rate)
        self._samples = recording.samples
        self.channels = recording.channels if recording.channels <= MAX_CHANNELS else 1

    @property
    def output_samples(self) -> int:
        return self._task.output_samples(self._samples, self._rate)

    def listen(self) -> Array | None:
        """Reads everything once for its length and pitch: f0 per frame, for vocoders that need it."""
        method, needed = self._task.f0, self._task.vocoder.spec.needs_f0
        given = _given_track(method, self._samples / self._rate) if needed else None
        pitch = PitchBlocks(f0_estimators.get(method)(), self._rate) if needed and given is None else None
        self._progress.stage("reading" if pitch is None else "pitch")
        heard = 0
        for block in self._blocks():
            if pitch is not None:
                pitch.push(block)
            heard += block.shape[1]
            self._step(heard / self._rate)
        self._samples = heard
        if given is not None:
            return self._task.curves([given] * self.channels, self._most_frames())
        return None if pitch is None else self._task.curves(pitch.finish(), self._most_frames())

    def sing(self, curves: Array | None, write: Callable[[Array], None]) -> float:
        """Sends everything through the vocoder; returns the seconds that it took."""
        self._progress.stage("vocoder")
        vocoder, clock = self._task.vocoder, _Clock()
        cut = _Cut(write, self.output_samples)
        frames = 0
        with vocoder.stream(lookahead="exact", seed=self._task.seed) as stream:
            for mel in in_equal_blocks(self._mels(), self._frames_per_block, self._frames_of_first_block):
                first, frames = frames, frames + mel.shape[2]
                with clock.running():
                    wave = stream.push(mel, None if curves is None else curves[:, first:frames])
                cut.put(wave)
                if wave.shape[1]:
                    reached("first samples")
                self._step(frames / vocoder.spec.frames_per_second)
            with clock.running():
                wave = stream.flush()
            cut.put(wave)
        cut.put(np.zeros((self.channels, cut.left), np.float32))
        self._step(self._samples / self._rate)
        return clock.seconds

    def _blocks(self) -> Iterator[Array]:
        for block in self._recording.blocks(SECONDS_PER_BLOCK * self._rate):
            yield block if len(block) == self.channels else mono(block)[None]

    def _mels(self) -> Iterator[Array]:
        """The mel of the second reading, which has to find what the first one found."""
        spec = self._task.vocoder.spec.mel
        assert spec is not None
        resampler = Resampler(self._rate, spec.sample_rate, self.channels)
        mels = MelBlocks(spec, self._task.mel_key)
        read = 0
        for block in self._blocks():
            read += block.shape[1]
            if read > self._samples:
                break
            yield mels.push(resampler.push(block))
        if read != self._samples:
            raise self._recording.changed()
        yield mels.push(resampler.push(np.zeros((self.channels, 0), np.float32), last=True), last=True)

    @property
    def _frames_per_block(self) -> int:
        return self._frames_in(SECONDS_PER_BLOCK, CONTEXTS_PER_BLOCK)

    @property
    def _frames_of_first_block(self) -> int:
        return min(self._frames_in(FIRST_BLOCK_S, FIRST_BLOCK_CONTEXTS), self._frames_per_block)

    def _frames_in(self, seconds: float, contexts: int) -> int:
        """So many seconds, or contexts where those are longer."""
        vocoder = self._task.vocoder
        return max(round(seconds * vocoder.spec.frames_per_second), contexts * sum(vocoder.receptive_field), 1)

    def _most_frames(self) -> int:
        """No fewer than the mel will have."""
        spec = self._task.vocoder.spec.mel
        assert spec is not None
        return self._samples * spec.sample_rate // (self._rate * spec.hop) + 2

    def _step(self, seconds: float) -> None:
        total = self._samples // self._rate
        self._progress.step(min(int(seconds), total), total)


def in_equal_blocks(mels: Iterator[Array], frames: int, first: int | None = None) -> Iterator[Array]:
    """The same frames, so many at a time: runtimes keep memory and plans for every length that they have seen.

    first: frames of the first block, where it is another length.
    """
    held: list[Array] = []
    wanted = first or frames
    for mel in mels:
        held = [np.concatenate([*held, mel], axis=2)]
        while held[0].shape[2] >= wanted:
            yield held[0][:, :, :wanted]
            held, wanted = [held[0][:, :, wanted:]], frames
    yield from held


class _Clock:
    """Adds up the time of some work."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started


class _Cut:
    """Passes on so many samples and no more."""

    def __init__(self, write: Callable[[Array], None], samples: int) -> None:
        self._write = write
        self.left = samples

    def put(self, wave: Array) -> None:
        wave = wave[:, : self.left]
        self.left -= wave.shape[1]
        self._write(wave)
