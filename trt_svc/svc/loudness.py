"""The loudness envelope: root mean square over windows, and an output that follows that of its source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from trt_svc.errors import InputError
from trt_svc.svc.sound import as_sound
from trt_svc.types import Array, Doubles

_FRAMES_PER_BLOCK = 1024
_SAMPLES_PER_BLOCK = 1 << 18
_QUIETEST = 1e-6
"""What the output's own loudness is taken for where it is less: silence is not amplified without bound."""


def windowed_rms(audio: Array, window_samples: int, hop_samples: int) -> Array:
    """(frames,): the root mean square around every `hop_samples`-th sample of (samples,), with silence outside.

    librosa's `feature.rms` gives the same numbers: frame `i` is centred on sample `i * hop_samples`.
    """
    return windowed_rms_of_blocks([audio], window_samples, hop_samples)


def windowed_rms_of_blocks(blocks: Iterable[Array], window_samples: int, hop_samples: int) -> Array:
    """The same of audio that comes in blocks (samples,) of any length; how it was cut makes no difference."""
    if not 1 <= hop_samples <= window_samples:
        found = f"the window is {window_samples} and the hop {hop_samples} samples."
        raise InputError("measuring loudness", found, "The hop must be at least one sample and at most a window.")
    lead = np.zeros(window_samples // 2, np.float32)
    held, made = np.zeros(0, np.float32), []
    for block in _between(lead, blocks):
        held = np.concatenate([held, block])
        frames = (len(held) - window_samples) // hop_samples + 1
        if frames > 0:
            made.append(_rms_frames(held, frames, window_samples, hop_samples))
            held = held[frames * hop_samples :]
    return np.concatenate([np.zeros(0, np.float32), *made])


def _between(silence: Array, blocks: Iterable[Array]) -> Iterator[Array]:
    yield silence
    for block in blocks:
        yield as_sound(block, "measuring loudness")
    yield silence


def _rms_frames(held: Array, frames: int, window_samples: int, hop_samples: int) -> Array:
    made = np.empty(frames, np.float32)
    windows = sliding_window_view(held, window_samples)[::hop_samples][:frames]
    for start in range(0, frames, _FRAMES_PER_BLOCK):
        block = windows[start : start + _FRAMES_PER_BLOCK]
        made[start : start + len(block)] = np.sqrt(np.mean(np.square(block), axis=-1))
    return made


def following_loudness(audio: Array, sample_rate: int, source: Array, source_rate: int, own_share: float) -> Array:
    """`audio` (samples,) with the loudness envelope of `source`, measured over one second around every half.

    `own_share` 1 leaves the audio as it is, 0 gives it the envelope of the source entirely.
    """
    if not 0 <= own_share <= 1:
        advice = "Use 1 to leave the loudness as it is, 0 to follow the source."
        raise InputError(f"loudness envelope {own_share!r}", "it is not between 0 and 1.", advice)
    audio = as_sound(audio, "following the loudness of the source")
    if own_share == 1 or audio.size == 0:
        return audio
    wanted = _envelope(source, source_rate)
    found = _envelope(audio, sample_rate)
    made = np.empty_like(audio)
    for start in range(0, len(audio), _SAMPLES_PER_BLOCK):
        stop = min(start + _SAMPLES_PER_BLOCK, len(audio))
        middles = (np.arange(start, stop) + 0.5) / len(audio)
        own = np.maximum(_at(found, middles), _QUIETEST)
        gain = _at(wanted, middles) ** (1 - own_share) * own ** (own_share - 1)
        made[start:stop] = audio[start:stop] * gain
    return made


def _envelope(audio: Array, sample_rate: int) -> Array:
    half_second = sample_rate // 2
    return windowed_rms(audio, 2 * half_second, half_second)


def _at(envelope: Array, middles: Doubles) -> Doubles:
    """The envelope, stretched over the whole recording, at `middles` (0 to 1) of it; straight lines between frames."""
    places = np.clip(middles * len(envelope) - 0.5, 0, len(envelope) - 1)
    return np.asarray(np.interp(places, np.arange(len(envelope)), envelope), np.float64)
