"""Distances between magnitude spectra."""

from __future__ import annotations

from trt_svc.bench.quality.base import Pair, Role, SaysNothing, metric
from trt_svc.types import Doubles

LONGEST_FFT = 2048
"""Of auraloss' three resolutions."""
BAND_FROM_HZ = 8000.0
FRAME, HOP = 2048, 512
BIN_FLOOR, FRAME_FLOOR = 1e-8, 1e-6
"""Power under the reference's loudest bin and loudest frame of the band: -80 dB and -60 dB."""
NOTHING_BELOW = 1e-12
"""Power of the loudest bin, a full-scale sine being 1: -120 dB."""


@metric("mr_stft", "multi-resolution STFT", unit="", better="lower", needs=("auraloss",))
def mr_stft(pair: Pair) -> float:
    """Spectral convergence plus log-magnitude L1 (natural log), mean of auraloss' three default resolutions."""
    import auraloss
    import torch

    sounds = [pair.audio("made"), pair.sound("reference")]
    if len(pair.reference) < LONGEST_FFT:
        raise SaysNothing(f"{len(pair.reference)} samples are less than a frame of {LONGEST_FFT}")
    with torch.no_grad():
        loss = auraloss.freq.MultiResolutionSTFTLoss()
        return float(loss(*(torch.from_numpy(sound)[None, None] for sound in sounds)))


def _band_power(pair: Pair, role: Role) -> Doubles:
    """(bins above 8 kHz, frames), a full-scale sine being 1."""
    import torch

    audio = torch.from_numpy(pair.audio(role)).double()
    if len(audio) < FRAME:
        raise SaysNothing(f"{len(audio)} samples are less than a frame of {FRAME}")
    window = torch.hann_window(FRAME, dtype=torch.float64)
    spectrum = torch.stft(audio, FRAME, HOP, window=window, center=False, return_complex=True)
    first = int(BAND_FROM_HZ * FRAME / pair.sample_rate) + 1
    power: Doubles = (spectrum[first:].abs() * 2 / window.sum()).square().numpy()
    return power


@metric("lsd_above_8k_db", "log-spectral distance above 8 kHz", unit="dB", better="lower")
def lsd_above_8k_db(pair: Pair) -> float:
    """Root mean square over the bins of a frame of the difference in dB, mean over frames.

    Written out because no package kept here has it. Bins count as no quieter than 80 dB below the reference's
    loudest, and frames whose band is 60 dB below its loudest are left out: nobody hears the difference between
    two kinds of nearly nothing, yet in dB it would be most of the sum.
    """
    import numpy as np

    if pair.sample_rate <= 2 * BAND_FROM_HZ:
        raise SaysNothing(f"audio at {pair.sample_rate} Hz has nothing above 8 kHz")
    reference = pair.once("band power", ("reference",), lambda: _band_power(pair, "reference"))
    loudest, per_frame = float(reference.max()), reference.mean(axis=0)
    if loudest < NOTHING_BELOW:
        raise SaysNothing("the reference has nothing above 8 kHz")
    heard = per_frame >= FRAME_FLOOR * per_frame.max()
    levels = [10 * np.log10(np.maximum(power, BIN_FLOOR * loudest)) for power in (_band_power(pair, "made"), reference)]
    per_frame_db = np.sqrt(np.mean((levels[0] - levels[1]) ** 2, axis=0))
    return float(per_frame_db[heard].mean())
