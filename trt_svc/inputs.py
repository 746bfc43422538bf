"""What users hand to a vocoder, checked: shapes, ranges and the mistakes that make wrong sounds."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from trt_svc.config import AudioSpec
from trt_svc.errors import InputError, shown
from trt_svc.types import Array


@dataclass(frozen=True)
class Utterance:
    """Checked inputs, float32 and on the host."""

    mel: Array
    f0: Array | None
    speaker: Array | None

    @property
    def batch(self) -> int:
        return int(self.mel.shape[0])

    @property
    def frames(self) -> int:
        return int(self.mel.shape[2])


def is_tensor(value: object) -> bool:
    """Is it a torch tensor? Answered without importing torch."""
    return type(value).__module__.partition(".")[0] == "torch"


def like(given: Any, made: Array) -> Any:
    """`made` as the same kind of thing as `given`, on the same device."""
    if not is_tensor(given):
        return made
    import torch

    return torch.from_numpy(made).to(given.device)


def as_array(name: str, value: Any) -> Array:
    """float32 on the host, or an InputError."""
    try:
        array = np.asarray(value.detach().float().cpu().numpy() if is_tensor(value) else value)
        array = np.ascontiguousarray(array, dtype=np.float32)
    except (TypeError, ValueError) as err:
        raise InputError(
            name,
            f"a {type(value).__name__} is not an array of numbers ({err}).",
            "Give a NumPy array or a torch tensor.",
        ) from err
    if not np.isfinite(array).all():
        raise InputError(
            name, f"it contains {int((~np.isfinite(array)).sum())} NaN or infinite values.", "Repair what made it."
        )
    return array


def as_wave(value: Any) -> Array:
    """Audio (samples,) or (batch, samples), float32; integers are scaled from their full range."""
    kind = np.asarray(value.detach().cpu().numpy() if is_tensor(value) else value).dtype
    wave = as_array("audio", value)
    if np.issubdtype(kind, np.integer):
        wave = wave / np.float32(2.0 ** (8 * kind.itemsize - 1))
    if wave.ndim not in (1, 2) or wave.shape[-1] == 0:
        raise InputError("audio", f"its shape is {wave.shape}.", "Give (samples,) or (batch, samples) with samples.")
    return wave


def check_rate(sample_rate: Any) -> int:
    """A whole sample rate in Hz, or an InputError."""
    whole = isinstance(sample_rate, (int, np.integer)) or (isinstance(sample_rate, float) and sample_rate.is_integer())
    if not whole or not 1000 <= sample_rate <= 768_000:
        raise InputError(
            "sample_rate", f"{shown(sample_rate)} is not usable.", "Give the rate of the audio in Hz, such as 44100."
        )
    return int(sample_rate)


def check_utterance(spec: AudioSpec, mel: Any, f0: Any, speaker: Any) -> Utterance:
    """The inputs of one call, or an InputError with the exact shape or range seen."""
    checked = as_array("mel", mel)
    if checked.ndim != 3 or checked.shape[1] != spec.n_mels:
        turned = checked.ndim == 3 and checked.shape[2] == spec.n_mels
        advice = (
            "It looks transposed: swap the last two axes."
            if turned
            else "Add a batch axis if it is missing."
            if checked.ndim == 2
            else "Use the mel of this vocoder: v.mel(audio, sample_rate)."
        )
        raise InputError(
            f"mel for a vocoder with {spec.n_mels} bands",
            f"its shape is {checked.shape}, expected (batch, {spec.n_mels}, frames).",
            advice,
        )
    if checked.shape[0] == 0 or checked.shape[2] == 0:
        raise InputError("mel", f"its shape {checked.shape} holds nothing.", "Give at least one frame.")
    batch, _, frames = checked.shape
    return Utterance(checked, _check_f0(spec, f0, batch, frames), _check_speaker(spec, speaker, batch, frames))


def _check_f0(spec: AudioSpec, f0: Any, batch: int, frames: int) -> Array | None:
    if not spec.needs_f0:
        if f0 is not None:
            warnings.warn("f0 was given, but this vocoder has no pitch input; it is ignored", stacklevel=4)
        return None
    if f0 is None:
        raise InputError(
            "f0",
            "none was given, but this vocoder has a harmonic source.",
            f"Give f0 in Hz, shape ({batch}, {frames}), 0 where unvoiced.",
        )
    curve = as_array("f0", f0)
    if curve.ndim == 1 and batch == 1:
        curve = curve[None]
    if curve.ndim == 3 and 1 in curve.shape[1:]:
        curve = curve.reshape(curve.shape[0], -1)
    if curve.ndim == 2 and curve.shape[0] == batch and frames < curve.shape[1] <= frames + 2:
        warnings.warn(
            f"f0 has {curve.shape[1]} frames for a mel of {frames}: its end is cut off, as upstream does", stacklevel=4
        )
        curve = curve[:, :frames]
    if curve.shape != (batch, frames):
        raise InputError(
            "f0", f"its shape is {np.shape(f0)}.", f"It must be ({batch}, {frames}): one value in Hz per mel frame."
        )
    if (curve < 0).any():
        raise InputError("f0", f"its lowest value is {curve.min():g} Hz.", "Use 0 for unvoiced frames.")
    if curve.max() >= spec.max_f0_hz:
        found = f"its highest value is {curve.max():g} Hz; this source reaches {spec.max_f0_hz:g} Hz."
        raise InputError("f0", found, "Give f0 in Hz.")
    return np.ascontiguousarray(curve)


def _check_speaker(spec: AudioSpec, speaker: Any, batch: int, frames: int) -> Array | None:
    if not spec.needs_speaker:
        if speaker is not None:
            warnings.warn("a speaker was given, but this vocoder has no speaker input; it is ignored", stacklevel=4)
        return None
    if speaker is None:
        raise InputError(
            "speaker",
            "none was given, but this vocoder needs one.",
            f"Give an embedding of shape ({batch}, {spec.speaker_channels}, 1) or one per frame.",
        )
    embedding = as_array("speaker", speaker)
    if embedding.ndim == 2:
        embedding = embedding[:, :, None]
    if (
        embedding.ndim != 3
        or embedding.shape[:2] != (batch, spec.speaker_channels)
        or embedding.shape[2] not in (1, frames)
    ):
        raise InputError(
            "speaker",
            f"its shape is {np.shape(speaker)}.",
            f"It must be ({batch}, {spec.speaker_channels}, 1) or ({batch}, {spec.speaker_channels}, {frames}).",
        )
    return embedding
