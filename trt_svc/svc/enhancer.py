"""so-vits-svc's enhancer: the converted voice is analysed and spoken again by NSF-HiFiGAN.

High voices lie outside what the vocoder was trained on. An adaptive key resamples the recording first, so that the
vocoder sees it slowed down and lower, and plays what it makes faster again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from trt_svc.errors import InputError, shown
from trt_svc.inputs import as_array, as_wave, check_rate
from trt_svc.svc.nsf import MelVocoder
from trt_svc.svc.samplers.base import Draws
from trt_svc.svc.sinc import WIDE_WIDTH, sinc_resample
from trt_svc.types import Array

MAX_KEY = 36.0
RATE_STEP = 100
"""Adaptive rates are whole multiples of this, which keeps the resampler's ratios small."""


def enhanced(
    vocoder: MelVocoder,
    audio: Any,
    sample_rate: int,
    f0_hz: Any,
    hop_samples: int,
    adaptive_key: float = 0.0,
    draws: Draws | None = None,
    seed: int = 0,
    single_precision: bool = False,
    first_frame: int = 0,
) -> Array:
    """The recording (samples,) spoken again, at the vocoder's rate; it may be a frame shorter.

    f0_hz: (frames,), one value per `hop_samples` of the audio; it is left as it is. adaptive_key: semitones that the
    vocoder hears the voice lower. draws, seed, first_frame: as in `MelVocoder.infer`. single_precision: see
    `sinc.resampled_length`.
    """
    wave, curve = as_wave(audio), as_array("f0", f0_hz).reshape(-1)
    if wave.ndim == 2 and len(wave) > 1:
        raise InputError("enhancing", f"{len(wave)} channels came.", "Give one at a time.")
    if curve.size == 0 or hop_samples < 1:
        found = f"{curve.size} f0 values came with a hop of {shown(hop_samples)}."
        raise InputError("enhancing", found, "Give f0 for every frame and the hop in samples.")
    rate = check_rate(sample_rate)
    slowed_rate = adaptive_rate(vocoder.sample_rate, adaptive_key)
    slowed = sinc_resample(wave.reshape(-1), rate, slowed_rate, WIDE_WIDTH, single_precision)
    pitch = slowed_f0(curve, hop_samples / rate, vocoder, slowed_rate, slowed.size // vocoder.hop_samples + 1)
    mel = vocoder.extract(slowed)
    frames = mel.shape[1]
    pitch = np.pad(pitch, (0, max(0, frames - pitch.size)), mode="edge")[None, :frames]
    spoken = vocoder.infer(mel, pitch, draws, seed, first_frame)[0]
    return sinc_resample(spoken, slowed_rate, vocoder.sample_rate, WIDE_WIDTH, single_precision)


def adaptive_rate(sample_rate: int, adaptive_key: float) -> int:
    """The rate at which a recording must be read for it to sound `adaptive_key` semitones lower at `sample_rate`."""
    usable = isinstance(adaptive_key, (int, float, np.integer, np.floating)) and abs(adaptive_key) <= MAX_KEY
    if not usable:
        advice = f"Use {-MAX_KEY:g} to {MAX_KEY:g} semitones."
        raise InputError("adaptive key", f"{shown(adaptive_key)} is not usable.", advice)
    return RATE_STEP * round(sample_rate * 2 ** (float(adaptive_key) / 12) / RATE_STEP)


def slowed_f0(f0_hz: Array, spacing_s: float, vocoder: MelVocoder, slowed_rate: int, frames: int) -> Array:
    """f0 as low and as slow as the recording is for the vocoder, at the vocoder's frames; its ends are held."""
    slower = slowed_rate / vocoder.sample_rate
    given_at = np.arange(f0_hz.size) * (spacing_s * slower)
    wanted_at = np.arange(frames) * (vocoder.hop_samples / vocoder.sample_rate)
    slowed = np.interp(wanted_at, given_at, f0_hz * (vocoder.sample_rate / slowed_rate)).astype(np.float32)
    # Keys below 0 may take a pitch beyond what the source can make, and a voice's own pitch may be none.
    highest = np.nextafter(np.float32(vocoder.vocoder.spec.max_f0_hz), np.float32(0))
    return np.asarray(slowed.clip(0, highest), np.float32)
