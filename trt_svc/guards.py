"""Does what came out of a run look like sound made from what went in? Cheap questions, asked of every run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from trt_svc.arrays import on_host
from trt_svc.features.mel import log_mel
from trt_svc.types import Array
from trt_svc.voice import Voice

BOUND = 1.001
"""tanh and clamp end at 1; half precision may round a little over it."""
CLIPPED_AT = 0.999
MAX_CLIPPED = 0.05
LOUD_LOG_MEL = -4.0
"""Mean of the loudest tenth of a log-mel, above which something must be heard."""
SILENT_PEAK = 3e-5
CHECKED_FRAMES = 48
EDGE_FRAMES = 4
MIN_CHECKED_FRAMES = 8
MEL_SLACK = 2.5
MEL_FLOOR = 1.0
"""Log-mel distance (nepers) that is never suspicious."""
MAX_OWN_DISTANCE = 1.2
"""A network that misses its own mel by more than this says nothing about what it was given: random weights, a
latent that looks like a mel."""


@dataclass(frozen=True)
class Problem:
    """Something is wrong with an output, or (`certain` false) may be."""

    kind: Literal["nan", "bounds", "length", "silence", "clipping", "mel", "sentinel"]
    found: str
    certain: bool = True

    @property
    def may_be_the_inputs_fault(self) -> bool:
        """Could the network itself make the same of this input?"""
        return self.kind == "nan" or not self.certain


def check_stage(made: Any, shape: tuple[int, ...]) -> Problem | None:
    """The output of a stage: its shape, and finite."""
    if tuple(made.shape) != shape:
        return Problem("length", f"an output of shape {tuple(made.shape)} came instead of {shape}")
    if not _all_finite(made):
        return Problem("nan", "NaN or infinite values came out")
    return None


def check_audio(voice: Voice, inputs: Mapping[str, Any], made: Any, own_distance: float | None) -> Problem | None:
    """The audio of a run against its inputs; `own_distance`: how far this network's audio is from its mel as a rule."""
    mel = inputs["mel"]
    problem = check_stage(made, (int(mel.shape[0]), voice.samples_out(int(mel.shape[2]))))
    if problem:
        return problem
    return suspicion(voice, mel, made, own_distance)


def suspicion(voice: Voice, mel: Any, made: Any, own_distance: float | None) -> Problem | None:
    """The questions that need no exact length: audio (B, samples) of the frames of a mel."""
    peak = float(abs(made).max())
    if voice.bounded and peak > BOUND:
        return Problem("bounds", f"a sample of {peak:.3g} came from a network that ends at 1")
    return _clipping(voice, made) or _silence(voice, mel, made) or _mel(voice, mel, made, own_distance)


def _all_finite(made: Any) -> bool:
    if isinstance(made, np.ndarray):
        return bool(np.isfinite(made).all())
    return bool(made.isfinite().all())


def _clipping(voice: Voice, made: Any) -> Problem | None:
    if not voice.bounded:
        return None
    share = float((abs(made) >= CLIPPED_AT).sum()) / max(1, made.shape[0] * made.shape[1])
    if share <= MAX_CLIPPED:
        return None
    return Problem("clipping", f"{100 * share:.0f} % of the samples are at full scale", certain=False)


def _silence(voice: Voice, mel: Any, made: Any) -> Problem | None:
    if voice.spec.mel is None:
        return None
    loudest = [float(row.mean(0).max()) for row in mel]
    peaks = [float(abs(row).max()) for row in made]
    quiet = [i for i, (mel_level, peak) in enumerate(zip(loudest, peaks, strict=True))
             if mel_level > LOUD_LOG_MEL and peak < SILENT_PEAK]  # fmt: skip
    if not quiet:
        return None
    return Problem("silence", f"silence came from a mel of {loudest[quiet[0]]:.1f}", certain=False)


def _mel(voice: Voice, mel: Any, made: Any, own_distance: float | None) -> Problem | None:
    if own_distance is None or not _comparable(voice, mel.shape[2]):
        return None
    limit = max(MEL_FLOOR, MEL_SLACK * own_distance)
    worst = mel_distance(voice, mel, made)
    return None if worst <= limit else Problem("mel", f"its mel is {worst:.1f} from the one given", certain=False)


def _comparable(voice: Voice, frames: int) -> bool:
    """Does the audio have a mel with the same frames, and are there enough of them?"""
    mel = voice.spec.mel
    if mel is None or frames < MIN_CHECKED_FRAMES + 2 * EDGE_FRAMES:
        return False
    return mel.hop * voice.spec.sample_rate == voice.spec.hop * mel.sample_rate


def mel_distance(voice: Voice, mel: Any, audio: Any) -> float:
    """Mean distance of log-mels in the middle of a run, in nepers; the worst row of a batch."""
    spec = voice.spec.mel
    assert spec is not None
    frames = min(CHECKED_FRAMES, mel.shape[2] - 2 * EDGE_FRAMES)
    first = max(EDGE_FRAMES, (mel.shape[2] - frames) // 2)
    context = -(-spec.n_fft // spec.hop)
    # Some frames around it, so that the mirrored edges of the excerpt are not compared.
    start, stop = max(0, first - context), min(mel.shape[2], first + frames + context)
    hop = voice.spec.hop
    excerpt = on_host(audio[:, start * hop : stop * hop])
    if voice.spec.sample_rate != spec.sample_rate:
        from trt_svc.audio import resample

        excerpt = resample(excerpt, voice.spec.sample_rate, spec.sample_rate)
    heard = log_mel(excerpt, spec)[:, :, first - start : first - start + frames]
    given = on_host(mel[:, :, first : first + heard.shape[2]])
    return float(np.abs(heard - given).mean(axis=(1, 2)).max())


def own_distance(voice: Voice, mel: Array, audio: Array) -> float | None:
    """How far a network's own (reference) audio is from its mel, or None where that means nothing."""
    if not _comparable(voice, mel.shape[2]):
        return None
    distance = mel_distance(voice, mel, audio)
    return distance if distance <= MAX_OWN_DISTANCE else None
