"""Whisper's front end: the log mel of 30 s of audio at 16 kHz, scaled to about -1 to 1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from trt_svc.config import MelSpec
from trt_svc.features.mel import mel_filters
from trt_svc.svc.encoders.base import RATE_HZ

WINDOW_SAMPLES = 30 * RATE_HZ
MEL_BINS = 80
SPEC = MelSpec(RATE_HZ, n_fft=400, win=400, hop=160, n_mels=MEL_BINS, fmin=0, fmax=RATE_HZ / 2)
FLOOR = 1e-10
RANGE_DECADES = 8.0
"""What lies further below the loudest bin is lifted to there."""


def whisper_mel(wave: Tensor) -> Tensor:
    """(batch, 80, 3000) of audio (batch, samples), silence behind it."""
    padded = F.pad(wave, (0, WINDOW_SAMPLES - wave.shape[1]))
    window = torch.hann_window(SPEC.win)
    spectrum = torch.stft(padded, SPEC.n_fft, SPEC.hop, window=window, return_complex=True)
    # One frame is centred behind the end.
    power = spectrum[..., :-1].abs().square()
    mel = torch.from_numpy(mel_filters(SPEC)) @ power
    log = mel.clamp(min=FLOOR).log10()
    loudest = log.amax(dim=(1, 2), keepdim=True)
    return (torch.maximum(log, loudest - RANGE_DECADES) + 4.0) / 4.0
