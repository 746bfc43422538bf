"""Audio as the stages of the conversion take it: checked where it comes in."""

from __future__ import annotations

import numpy as np

from trt_svc.audio_blocks import MAX_AMPLITUDE
from trt_svc.errors import InputError
from trt_svc.inputs import as_array
from trt_svc.types import Array


def as_sound(audio: object, doing: str) -> Array:
    """Audio (..., samples) as float32; refuses what is no array of finite numbers around full scale 1."""
    made = as_array(doing, audio)
    if made.ndim == 0:
        raise InputError(doing, "a single number came.", "Give audio (..., samples).")
    peak = max(made.max(initial=0.0), -made.min(initial=0.0))
    if peak > MAX_AMPLITUDE:
        raise InputError(doing, f"the audio reaches {peak:g}, where full scale is 1.", "Divide it by its full scale.")
    return made


def as_mono(audio: object, doing: str) -> Array:
    """The same as (samples,): the mean of the channels of (channels, samples)."""
    made = as_sound(audio, doing)
    if made.ndim == 1:
        return made
    if made.ndim != 2 or made.shape[0] == 0:
        raise InputError(doing, f"the audio has shape {made.shape}.", "Give (samples,) or (channels, samples).")
    return np.asarray(made.mean(axis=0), np.float32)
