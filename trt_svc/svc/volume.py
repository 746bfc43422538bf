"""How loud every frame of a recording is: what networks with a volume embedding are told."""

from __future__ import annotations

import numpy as np

from trt_svc.errors import InputError
from trt_svc.svc.sound import as_sound
from trt_svc.types import Array

_FRAMES_PER_BLOCK = 4096


def frame_volume(audio: Array, hop_samples: int) -> Array:
    """(..., samples // hop_samples): the root mean square of the hop around the start of every frame.

    The recording is mirrored at both ends. What is shorter than a hop has no frame.
    """
    audio = as_sound(audio, "measuring the volume")
    if hop_samples < 1:
        raise InputError("measuring the volume", f"the hop is {hop_samples} samples.", "Use at least one.")
    frames = audio.shape[-1] // hop_samples
    made = np.zeros((*audio.shape[:-1], frames), np.float32)
    if frames == 0:
        return made
    lead = hop_samples // 2
    first = np.concatenate([audio[..., lead:0:-1], audio[..., : hop_samples - lead]], axis=-1)
    made[..., 0] = _rms(first)
    for start in range(1, frames, _FRAMES_PER_BLOCK):
        stop = min(start + _FRAMES_PER_BLOCK, frames)
        block = audio[..., start * hop_samples - lead : stop * hop_samples - lead]
        made[..., start:stop] = _rms(block.reshape(*audio.shape[:-1], stop - start, hop_samples))
    return made


def _rms(windows: Array) -> Array:
    return np.asarray(np.sqrt(np.mean(np.square(windows), axis=-1)), np.float32)
