"""Stretches of real recordings as the inputs of a network: what numerics and quality are judged on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from trt_svc.audio import mono, read_audio, resample
from trt_svc.features.f0.base import PitchTrack, constant_track, f0_estimators
from trt_svc.features.mel import log_mel
from trt_svc.noise import Noise
from trt_svc.optional import is_installed
from trt_svc.types import Array
from trt_svc.vocoders.base import VocoderNet
from trt_svc.vocoders.healthy import example_inputs

_PITCH_METHODS = ("swift-f0", "harvest")
_FALLBACK_HZ = 220.0


@dataclass(frozen=True)
class Clip:
    """The loudest stretch of a recording."""

    inputs: dict[str, Tensor]
    recording: Array | None
    """The stretch itself (samples,) at the network's rate; None where a seeded latent took its place."""


def clip_of(net: VocoderNet, recording: Path, frames: int) -> Clip:
    """The network's inputs for the loudest stretch of a recording; a normal latent where no mel goes in."""
    if net.spec.mel is None:
        return Clip(example_inputs(net, 1, frames, seed=len(recording.name)), None)
    audio, rate = read_audio(recording)
    heard = mono(audio)[None]
    wave = resample(heard, rate, net.spec.mel.sample_rate)
    mel = log_mel(wave, net.spec.mel)
    frames = min(frames, mel.shape[2])
    level = np.convolve(np.exp(mel[0]).mean(axis=0), np.ones(frames), mode="valid")
    start = int(np.argmax(level))
    f0 = pitch_of(wave[0], net.spec.mel.sample_rate).at_frames(mel.shape[2], net.spec.hop, net.spec.sample_rate)
    curve = np.minimum(f0[None, start : start + frames], np.float32(0.9 * net.spec.max_f0_hz))
    excitation = net.excitation()
    rendered = excitation.begin(Noise(excitation.fields, (0,))).push(curve, frames)
    arrays = {"mel": np.ascontiguousarray(mel[:, :, start : start + frames]), **rendered}
    inputs = {name: torch.from_numpy(value) for name, value in arrays.items()}
    return Clip(inputs, _stretch(resample(heard, rate, net.spec.sample_rate)[0], net, start, frames))


def _stretch(wave: Array, net: VocoderNet, start: int, frames: int) -> Array:
    """As long as the audio that the network makes of it, with silence behind the end."""
    first, samples = start * net.spec.hop, net.samples_out(frames)
    piece = wave[first : first + samples]
    return np.pad(piece, (0, samples - len(piece)))


def pitch_of(wave: Array, sample_rate: int) -> PitchTrack:
    """By the first method that is installed, else a constant one."""
    for name in _PITCH_METHODS:
        method = f0_estimators.get(name)
        if is_installed(method.module):
            return method()(wave, sample_rate)
    return constant_track(_FALLBACK_HZ, wave.shape[-1] / sample_rate)
