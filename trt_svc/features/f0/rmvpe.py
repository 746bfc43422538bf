"""RMVPE, robust against accompaniment: its mel front end, and its network's salience read as pitch."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from trt_svc.audio import resample
from trt_svc.errors import WeightsMismatch
from trt_svc.features.f0.base import PitchTrack, f0_estimators
from trt_svc.features.f0.network_run import NetworkRun
from trt_svc.features.f0.salience import CREPE_CENTS, voiced_hz
from trt_svc.features.f0.upstream import UpstreamPitch, post_process
from trt_svc.features.f0.weights import TrainedWeights, network_with, read_weights
from trt_svc.types import Array, Doubles

if TYPE_CHECKING:
    from torch import Tensor

    from trt_svc.features.f0.networks.rmvpe import Rmvpe

RATE = 16000
HOP_SAMPLES = 160
N_FFT = 1024
MELS = 128
MEL_LOW_HZ, MEL_HIGH_HZ = 30.0, 8000.0
MEL_FLOOR = 1e-5
VOICED_FROM = 0.03
FRAMES_PER_PIECE = 8192
"""Frames of the mel that the U-Net sees at once, not counting context; a multiple of its coarsest step."""
MAX_LEVELS = 7
"""As often as 128 mel bins can be halved."""
UNUSED_WEIGHTS = "unet.tf."
"""A filter that published files carry and that the network never runs."""


@lru_cache(maxsize=1)
def _mel_filters() -> Array:
    """HTK's mel scale in triangles (mels, bins) of unit area in Hz."""
    bins = np.linspace(0.0, RATE / 2, N_FFT // 2 + 1)
    low, high = (2595 * np.log10(1 + hz / 700) for hz in (MEL_LOW_HZ, MEL_HIGH_HZ))
    corners = 700 * (10 ** (np.linspace(low, high, MELS + 2) / 2595) - 1)
    slopes, widths = corners[:, None] - bins, np.diff(corners)[:, None]
    triangles = np.maximum(0.0, np.minimum(-slopes[:-2] / widths[:-1], slopes[2:] / widths[1:]))
    return (triangles * (2 / (corners[2:] - corners[:-2]))[:, None]).astype(np.float32)


def rmvpe_mel(audio: Array) -> Array:
    """Natural-log mel (1, 128, 1 + samples // 160) of audio (samples,) at 16 kHz, frames centred."""
    side, count = N_FFT // 2, 1 + len(audio) // HOP_SAMPLES
    # What is too short to be mirrored goes on in silence.
    held = np.pad(np.asarray(audio, np.float32), (0, max(0, side + 1 - len(audio))))
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(held, side, mode="reflect"), N_FFT)[::HOP_SAMPLES][:count]
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(N_FFT) / N_FFT)).astype(np.float32)
    mel = np.concatenate(
        [_mel_filters() @ np.abs(np.fft.rfft(part * window, axis=1)).T for part in _in_blocks(frames)], axis=1
    )
    return np.asarray(np.log(np.maximum(mel, np.float32(MEL_FLOOR)))[None], np.float32)


def _in_blocks(frames: Array, size: int = 1024) -> list[Array]:
    return [frames[start : start + size] for start in range(0, len(frames), size)]


def rmvpe_hz(salience: Array, threshold: float) -> Doubles:
    """f0 (frames,) from salience (frames, 360); 0 where no bin exceeds the threshold."""
    return voiced_hz(salience, threshold, CREPE_CENTS, edge="drop")


@f0_estimators.register("rmvpe")
class RmvpeEstimator:
    module: ClassVar[str] = "torch"
    trained: ClassVar[TrainedWeights] = TrainedWeights("rmvpe", ("rmvpe.pt",))

    def __init__(
        self, weights: str | Path | None = None, resample: Callable[[Array, int, int], Array] = resample
    ) -> None:
        self.network = open_rmvpe(self.trained.locate(weights))
        self.network_run = in_torch(self.network)
        """Mel (1, 128, frames) -> salience (1, 360, frames); may be replaced."""
        self._resample = resample

    def __call__(self, audio: Array, sample_rate: int) -> PitchTrack:
        f0 = self._f0(audio, sample_rate, VOICED_FROM)
        return PitchTrack(np.arange(len(f0), dtype=np.float64) * (HOP_SAMPLES / RATE), f0)

    def like_upstream(self, wav: Array, sample_rate: int, hop_samples: int, threshold: float) -> UpstreamPitch:
        return post_process(
            self._f0(wav, sample_rate, threshold).astype(np.float32), len(wav) // hop_samples, hop_samples, sample_rate
        )

    def _f0(self, audio: Array, sample_rate: int, threshold: float) -> Doubles:
        mel = rmvpe_mel(self._resample(np.asarray(audio, np.float32), sample_rate, RATE))
        return rmvpe_hz(np.ascontiguousarray(self.network_run(mel)[0].T), threshold)


def open_rmvpe(path: Path) -> Rmvpe:
    """The network in a file (rmvpe.pt)."""
    what = f"rmvpe weights {path.name}"
    return rmvpe_with(read_weights(path, what).weights, what)


def rmvpe_with(weights: dict[str, Tensor], what: str) -> Rmvpe:
    """The network of the size that the weights have."""
    from trt_svc.features.f0.networks.rmvpe import Rmvpe

    def count(before: str) -> int:
        return len({name[len(before) :].split(".")[0] for name in weights if name.startswith(before)})

    last = weights.get("cnn.weight")
    levels, blocks = count("unet.decoder.layers."), count("unet.encoder.layers.0.conv.")
    middle = count("unet.intermediate.layers.")
    if last is None or last.ndim != 4 or not (1 <= levels <= MAX_LEVELS and blocks and middle):
        raise WeightsMismatch(what, "it holds no weights of RMVPE's network.", "Get the published rmvpe.pt.")
    used = {name: value for name, value in weights.items() if not name.startswith(UNUSED_WEIGHTS)}
    return network_with(lambda: Rmvpe(last.shape[1], levels, blocks, middle), used, what)


def salience_of(network: Rmvpe, mel: Array) -> Array:
    """Salience (frames, 360) of a mel (1, 128, frames) of any length; the U-Net gets long ones piece by piece."""
    import torch

    frames = mel.shape[2]
    with torch.inference_mode():
        padded = np.pad(mel, ((0, 0), (0, 0), (0, -frames % network.frame_multiple)))
        whole = torch.from_numpy(padded).to(network.cnn.weight.device)
        reach = -(-network.image_reach // network.frame_multiple) * network.frame_multiple
        images = []
        for start in range(0, whole.shape[2], FRAMES_PER_PIECE):
            first = max(0, start - reach)
            piece = network.image(whole[:, :, first : start + FRAMES_PER_PIECE + reach])
            images.append(piece[:, start - first : start - first + FRAMES_PER_PIECE])
        return np.asarray(network.salience(torch.cat(images, dim=1))[0, :frames].cpu().numpy(), np.float32)


def in_torch(network: Rmvpe) -> NetworkRun:
    """The network by torch, on the device of its weights."""
    return lambda mel: np.stack([salience_of(network, one[None]).T for one in mel])
