"""What a stream loses when it waits for fewer frames than exactness needs, measured against one call on everything.

Every layer of a vocoder looks ahead a little. A stream that waits for all of it gives the samples of one call; one
that waits for less gives them earlier, and the last frames of every block, up to the seam with the next, a little off.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isnan
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from trt_svc.audio import mono, read_audio
from trt_svc.clips import pitch_of
from trt_svc.difference import Difference, difference, worst
from trt_svc.errors import InputError, shown
from trt_svc.files import replacing
from trt_svc.optional import require
from trt_svc.progress import Progress, Quiet
from trt_svc.sensitivity import RECORDINGS
from trt_svc.session import Vocoder
from trt_svc.stream import checked_lookahead
from trt_svc.types import Array

BLOCK_MS = 100.0
SECONDS = 2.0
ALL_UP_TO, MOST_POINTS = 16, 12
LATENTS = 2
"""So many seeded latents take the place of recordings where no mel goes in."""
PICTURES = (".png", ".svg")
DPI = 100
COLOURS = 200
_LATENT_HZ = 220.0
_IDENTICAL_DB = 150.0
"""Where the picture puts what has no difference at all: about the end of float32."""


@dataclass(frozen=True)
class Point:
    """A stream with so much look-ahead, against one call on everything."""

    lookahead_frames: int
    latency_ms: float
    """What waiting adds to the length of a block."""
    whole: Difference
    """Over all samples."""
    seams: Difference
    """A frame before and a frame behind every place where two blocks meet."""

    def as_dict(self) -> dict[str, Any]:
        where = {"whole": _figures(self.whole), "seams": _figures(self.seams)}
        return {"lookahead_frames": self.lookahead_frames, "latency_ms": self.latency_ms, **where}


@dataclass(frozen=True)
class ClipCurve:
    """The points of one recording."""

    name: str
    frames: int
    points: tuple[Point, ...]
    rounding_snr_db: float
    """What writing the same audio with 16 bits would leave: a landmark."""

    def as_dict(self) -> dict[str, Any]:
        rounding = self.rounding_snr_db if isfinite(self.rounding_snr_db) else None
        points = [point.as_dict() for point in self.points]
        return {"recording": self.name, "frames": self.frames, "rounding_to_16_bits_snr_db": rounding, "points": points}


@dataclass(frozen=True)
class LookaheadCurve:
    """Look-ahead against fidelity, for one vocoder and block length."""

    family: str
    backend: str
    exact_frames: int
    """Look-ahead from which on a stream gives the samples of one call."""
    exact_latency_ms: float
    block_frames: int
    frames_per_second: float
    clips: tuple[ClipCurve, ...]

    @property
    def block_ms(self) -> float:
        return 1000 * self.block_frames / self.frames_per_second

    @property
    def worst(self) -> tuple[Point, ...]:
        """The lowest quality of all recordings, for every look-ahead."""
        rows = zip(*(clip.points for clip in self.clips), strict=True)
        return tuple(
            Point(r[0].lookahead_frames, r[0].latency_ms, worst(p.whole for p in r), worst(p.seams for p in r))
            for r in rows
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON without infinities: where nothing differs, `snr_db` is null and `snr` says so."""
        return {
            "family": self.family,
            "backend": self.backend,
            "exact_frames": self.exact_frames,
            "exact_latency_ms": self.exact_latency_ms,
            "block_frames": self.block_frames,
            "block_ms": self.block_ms,
            "frames_per_second": self.frames_per_second,
            "worst": [point.as_dict() for point in self.worst],
            "recordings": [clip.as_dict() for clip in self.clips],
        }


def decibels(snr_db: float) -> str:
    """A ratio in words, also where it is not a number."""
    if isnan(snr_db):
        return "not a number"
    return "identical" if snr_db == float("inf") else f"{snr_db:.1f} dB"


def _figures(found: Difference) -> dict[str, Any]:
    numbers = {name: value if isfinite(value) else None for name, value in found.as_dict().items()}
    return {**numbers, "snr": decibels(found.snr_db)}


# Measuring.


@dataclass(frozen=True)
class _Clip:
    """What goes into the vocoder."""

    name: str
    mel: Array
    f0: Array | None
    speaker: Array | None

    @property
    def frames(self) -> int:
        return int(self.mel.shape[2])


def lookahead_curve(
    vocoder: Vocoder,
    recordings: Sequence[Path] | None = None,
    frames: int | None = None,
    block_frames: int | None = None,
    lookaheads: Sequence[int] | None = None,
    progress: Progress | None = None,
) -> LookaheadCurve:
    """Streams recordings with every look-ahead and compares them with one call on everything.

    recordings: the demo clips by default; vocoders that take a latent get seeded normal ones. frames: of each
    recording, its loudest part; about two seconds by default. block_frames: pushed at once; about 100 ms by default.
    lookaheads: in frames; by default all from 0 to what exactness needs, or a dozen of them where there are many.
    """
    progress = progress or Quiet()
    block = block_length(vocoder, BLOCK_MS) if block_frames is None else _checked_block(block_frames)
    asked = _checked_lookaheads(vocoder.receptive_field[1], lookaheads)
    length = _checked_length(vocoder, block, frames)
    progress.stage("reading the recordings")
    clips = _latents(vocoder, length, recordings) if vocoder.spec.mel is None else _mels(vocoder, recordings, length)
    for clip in clips:
        _check_long_enough(clip, _least_frames(vocoder, block))
    progress.stage("streaming with every look-ahead")
    work = _Work(vocoder, block, asked, progress, len(clips) * (len(asked) + 1))
    curves = tuple(work.curve(clip) for clip in clips)
    exact = vocoder.receptive_field[1]
    rate = vocoder.spec.frames_per_second
    return LookaheadCurve(vocoder.family, vocoder.backend, exact, latency_ms(vocoder, exact), block, rate, curves)


def latency_ms(vocoder: Vocoder, lookahead: int) -> float:
    """What a look-ahead adds to the length of a block, the source's own included."""
    return vocoder.stream(lookahead).latency_frames / vocoder.spec.frames_per_second * 1000


def block_length(vocoder: Vocoder, milliseconds: float) -> int:
    """Whole frames nearest to a time, at least one."""
    return max(1, round(milliseconds / 1000 * vocoder.spec.frames_per_second))


class _Work:
    """Runs the streams and counts them."""

    def __init__(self, vocoder: Vocoder, block: int, lookaheads: Sequence[int], progress: Progress, runs: int) -> None:
        self._vocoder = vocoder
        self._block = block
        self._lookaheads = lookaheads
        self._progress = progress
        self._done = 0
        self._runs = runs

    def curve(self, clip: _Clip) -> ClipCurve:
        """All points of a clip."""
        whole = np.asarray(self._vocoder(clip.mel, clip.f0, clip.speaker))
        self._step()
        points = tuple(self._point(clip, lookahead, whole) for lookahead in self._lookaheads)
        rounded = np.round(whole * np.float32(2**15)) / np.float32(2**15)
        return ClipCurve(clip.name, clip.frames, points, difference(rounded, whole).snr_db)

    def _point(self, clip: _Clip, lookahead: int, whole: Array) -> Point:
        blocks = self._streamed(clip, lookahead)
        made = np.concatenate(blocks, axis=1)
        near = _near_seams(blocks, self._vocoder.spec.hop)
        self._step()
        seams = difference(made[:, near], whole[:, near])
        return Point(lookahead, latency_ms(self._vocoder, lookahead), difference(made, whole), seams)

    def _streamed(self, clip: _Clip, lookahead: int) -> list[Array]:
        """The samples as they come, block by block."""
        made = []
        with self._vocoder.stream(lookahead, clip.speaker) as stream:
            for first in range(0, clip.frames, self._block):
                part = slice(first, first + self._block)
                made.append(stream.push(clip.mel[:, :, part], None if clip.f0 is None else clip.f0[:, part]))
            made.append(stream.flush())
        return [np.asarray(block) for block in made if block.shape[1]]

    def _step(self) -> None:
        self._done += 1
        self._progress.step(self._done, self._runs)


def _near_seams(blocks: Sequence[Array], hop: int) -> Array:
    """Which samples (N,) lie within a frame of the seam of two blocks; all where there is only one block."""
    lengths = np.cumsum([block.shape[1] for block in blocks])
    near = np.full(lengths[-1], len(blocks) == 1)
    for seam in lengths[:-1]:
        near[max(0, seam - hop) : seam + hop] = True
    return near


# What is streamed.


def _mels(vocoder: Vocoder, recordings: Sequence[Path] | None, frames: int) -> list[_Clip]:
    paths = RECORDINGS if recordings is None else tuple(recordings)
    if not paths:
        raise InputError("recordings", "none was given.", "Give at least one, or leave them out for the demo clips.")
    return [_from_recording(vocoder, path, frames) for path in paths]


def _from_recording(vocoder: Vocoder, path: Path, frames: int) -> _Clip:
    """The loudest stretch of a recording, and its pitch."""
    spec = vocoder.spec
    audio, rate = read_audio(path)
    wave = mono(audio)
    mel = np.asarray(vocoder.mel(wave, rate))
    frames = min(frames, mel.shape[2])
    level = np.convolve(np.exp(mel[0]).mean(axis=0), np.ones(frames), mode="valid")
    part = slice(int(np.argmax(level)), int(np.argmax(level)) + frames)
    f0 = None
    if spec.needs_f0:
        gliding = vocoder.excitation.lookahead_frames > 0
        pitch = pitch_of(wave, rate).at_frames(mel.shape[2], spec.hop, spec.sample_rate, fill_unvoiced=gliding)
        f0 = np.minimum(pitch[None, part], np.float32(0.9 * spec.max_f0_hz))
    return _Clip(path.name, np.ascontiguousarray(mel[:, :, part]), f0, _speaker(vocoder, 0))


def _latents(vocoder: Vocoder, frames: int, recordings: Sequence[Path] | None) -> list[_Clip]:
    if recordings is not None:
        raise InputError(
            f"recordings for {vocoder.family}",
            "this vocoder takes the latent of a voice model, not a mel.",
            "Leave them out: seeded normal latents are used.",
        )
    return [_latent(vocoder, frames, seed) for seed in range(LATENTS)]


def _latent(vocoder: Vocoder, frames: int, seed: int) -> _Clip:
    """A normal latent with a sung glide, an eighth of it unvoiced."""
    latent = np.random.default_rng(seed).normal(size=(1, vocoder.spec.n_mels, frames)).astype(np.float32)
    time = np.arange(frames) / vocoder.spec.frames_per_second
    f0 = (_LATENT_HZ * 2 ** (0.5 * np.sin(2 * np.pi * (time + seed / LATENTS)))).astype(np.float32)
    f0[frames // 2 : frames // 2 + frames // 8] = 0
    curve = f0[None] if vocoder.spec.needs_f0 else None
    return _Clip(f"normal latent, seed {seed}", latent, curve, _speaker(vocoder, seed))


def _speaker(vocoder: Vocoder, seed: int) -> Array | None:
    if not vocoder.spec.needs_speaker:
        return None
    return np.random.default_rng(seed).normal(size=(1, vocoder.spec.speaker_channels)).astype(np.float32)


# What is asked, checked.


def _checked_block(frames: int) -> int:
    if frames < 1:
        raise InputError(f"blocks of {shown(frames)} frames", "a block has at least one.", "Use 1 or more.")
    return int(frames)


def _checked_lookaheads(exact: int, asked: Sequence[int] | None) -> list[int]:
    """Rising, each once; all of them, or a dozen of many, where none are asked for."""
    if asked is None:
        points = exact + 1 if exact <= ALL_UP_TO else MOST_POINTS
        return [round(k) for k in np.linspace(0, exact, points).tolist()]
    if not asked:
        raise InputError("lookaheads", "none was given.", f"Give some of 0 to {exact} frames.")
    return sorted({checked_lookahead(k, exact) for k in asked})


def _least_frames(vocoder: Vocoder, block: int) -> int:
    """Two whole blocks come out before the end is known."""
    return 2 * block + vocoder.receptive_field[1] + vocoder.excitation.lookahead_frames + vocoder.voice.frame_step


def _checked_length(vocoder: Vocoder, block: int, asked: int | None) -> int:
    least = _least_frames(vocoder, block)
    if asked is None:
        return max(round(SECONDS * vocoder.spec.frames_per_second), 2 * least)
    if asked < least:
        raise InputError(
            f"{asked} frames of each recording",
            f"blocks of {block} frames and the look-ahead need {least}.",
            f"Use {least} or more, or shorter blocks.",
        )
    return int(asked)


def _check_long_enough(clip: _Clip, least: int) -> None:
    if clip.frames < least:
        raise InputError(
            f"recording {shown(clip.name)}",
            f"it has {clip.frames} frames; the blocks and the look-ahead need {least}.",
            "Give a longer recording, or use shorter blocks.",
        )


# The picture.


def check_picture(path: Path) -> None:
    """Can it be drawn? Refuses other formats, and a machine without matplotlib, before any work is done."""
    if path.suffix.lower() not in PICTURES:
        found = f"{shown(path.suffix)} is no format of pictures here." if path.suffix else "it has no suffix."
        raise InputError(f"picture {shown(path.name)}", found, f"Use {' or '.join(PICTURES)}.")
    _matplotlib()


def _matplotlib() -> ModuleType:
    require("matplotlib", "drawing the curve")
    return require("matplotlib.figure", "drawing the curve")


def draw(curve: LookaheadCurve, path: Path) -> None:
    """Writes the curve as a picture, a line per recording; the suffix chooses the format."""
    check_picture(path)
    figure = _matplotlib().Figure(figsize=(8.4, 5.6), layout="constrained")
    axis = figure.add_subplot()
    for number, clip in enumerate(curve.clips):
        _draw_clip(axis, clip, f"C{number}", curve.exact_frames)
    _draw_landmarks(axis, curve)
    _label(axis, curve)
    figure.legend(loc="outside lower center", ncols=2)
    with replacing(path) as part, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # names of files can use any script
        figure.savefig(part, format=path.suffix[1:].lower(), dpi=DPI)
        if path.suffix.lower() == ".png":
            _fewer_colours(part)


def _fewer_colours(picture: Path) -> None:
    """A palette is enough for lines and letters, and a third of the bytes."""
    image = require("PIL.Image", "drawing the curve")  # comes with matplotlib
    with image.open(picture) as drawn:
        small = drawn.convert("RGB").quantize(COLOURS)
    small.save(picture, optimize=True)


def _draw_clip(axis: Any, clip: ClipCurve, colour: str, exact: int) -> None:
    frames = [point.lookahead_frames for point in clip.points]
    name = shown(clip.name).replace("$", r"\$")
    over_all = [_height(point.whole) for point in clip.points]
    at_seams = [_height(point.seams) for point in clip.points]
    axis.plot(frames, over_all, color=colour, marker="o", label=f"all samples of {name}")
    axis.plot(frames, at_seams, color=colour, marker=".", linestyle="--", alpha=0.7, label=f"where blocks meet, {name}")
    if frames[-1] == exact:
        axis.plot(exact, over_all[-1], color=colour, marker="*", markersize=17, clip_on=False)


def _height(found: Difference) -> float:
    return min(found.snr_db, _IDENTICAL_DB)


def _draw_landmarks(axis: Any, curve: LookaheadCurve) -> None:
    """The exact point, and the loss of an ordinary file."""
    words = f"exact: {curve.exact_frames} frames, {curve.exact_latency_ms:.0f} ms\n(what is left is rounding)"
    axis.axvline(curve.exact_frames, color="green", linewidth=1.5, alpha=0.6)
    top = ((curve.exact_frames, 1), (-8, -8), ("data", "axes fraction"), "offset points")
    axis.annotate(words, *top, color="green", ha="right", va="top")
    rounding = [clip.rounding_snr_db for clip in curve.clips if isfinite(clip.rounding_snr_db)]
    if rounding:
        axis.axhline(max(rounding), color="grey", linestyle=":")
        note = "above: a smaller difference than saving as a 16-bit WAV makes"
        where = ((0.01, max(rounding)), (0, 5), ("axes fraction", "data"), "offset points")
        paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        axis.annotate(note, *where, color="dimgrey", bbox=paper)


def _label(axis: Any, curve: LookaheadCurve) -> None:
    own_ms = curve.exact_latency_ms - 1000 * curve.exact_frames / curve.frames_per_second
    per_frame = 1000 / curve.frames_per_second
    above = axis.secondary_xaxis(
        "top", functions=(lambda k: own_ms + k * per_frame, lambda t: (t - own_ms) / per_frame)
    )
    above.set_xlabel("latency that this adds to the block, ms")
    axis.set_xlabel("look-ahead: frames that the stream waits for before it gives a frame's samples")
    axis.set_ylabel("SNR, dB (higher: closer to one call on everything)")
    axis.set_ylim(min(0, axis.get_ylim()[0]), _IDENTICAL_DB + 5)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_title(f"What a stream loses by waiting less: {curve.family}, blocks of {curve.block_ms:.0f} ms")
    axis.grid(alpha=0.3)
