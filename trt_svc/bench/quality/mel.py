"""The distance that vocoders are trained on."""

from __future__ import annotations

import numpy as np

from trt_svc.bench.quality.base import Pair, SaysNothing, metric
from trt_svc.features.mel import log_mel


@metric("mel_l1", "log-mel L1", unit="Np", better="lower")
def mel_l1(pair: Pair) -> float:
    """Mean distance of both natural-log mels, by the family's own mel: a gain of 1 Np everywhere makes 1."""
    spec = pair.mel
    if spec is None:
        raise SaysNothing("the family takes a latent, not a mel")
    if spec.sample_rate != pair.sample_rate:
        raise SaysNothing(f"the mel is for {spec.sample_rate} Hz, the audio has {pair.sample_rate} Hz")
    reference = pair.once("log mel", ("reference",), lambda: log_mel(pair.audio("reference"), spec))
    return float(np.mean(np.abs(log_mel(pair.audio("made"), spec) - reference)))
