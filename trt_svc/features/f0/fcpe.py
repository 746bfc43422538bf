"""FCPE, fast: so-vits-svc's fcpe.pt, whose file says which mel its network reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from trt_svc.audio import resample
from trt_svc.config import MelSpec
from trt_svc.errors import ConfigError, WeightsMismatch, shown
from trt_svc.features.f0.base import PitchTrack, f0_estimators
from trt_svc.features.f0.network_run import NetworkRun
from trt_svc.features.f0.salience import voiced_hz
from trt_svc.features.f0.upstream import UpstreamPitch, post_process
from trt_svc.features.f0.weights import TrainedWeights, network_with, read_weights
from trt_svc.features.mel import log_mel
from trt_svc.types import Array, Doubles

if TYPE_CHECKING:
    from torch import Tensor

    from trt_svc.features.f0.networks.fcpe import Fcpe

VOICED_FROM = 0.05
PUBLISHED_MEL = {
    "sampling_rate": 16000, "num_mels": 128, "n_fft": 1024, "win_size": 1024, "hop_size": 160, "fmin": 0, "fmax": 8000,
}  # fmt: skip
LONG_FRAMES = 8192
"""Longer recordings are computed block by block."""
OTHER_NETWORKS = ("use_siren", "use_full")
"""Options of FCPE's training code under which the same weights would mean another network."""


def mel_spec(config: Mapping[str, Any] | None) -> MelSpec:
    """The mel that a checkpoint's config asks for; the published one where it says nothing."""
    asked = (config or {}).get("mel")
    merged = {**PUBLISHED_MEL, **(asked if isinstance(asked, Mapping) else {})}
    numbers = {key: merged[key] if merged[key] is not None else PUBLISHED_MEL[key] for key in PUBLISHED_MEL}
    for key, value in numbers.items():
        low, high = (0, 400_000) if key.startswith("f") else (1, 400_000)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            found = f"mel.{key} is {shown(value)}."
            raise ConfigError("config inside the fcpe weights", found, "Get the published fcpe.pt.")
    rate, mels, n_fft, win, hop = (int(numbers[key]) for key in list(PUBLISHED_MEL)[:5])
    if win > n_fft or not numbers["fmin"] < numbers["fmax"]:
        found = f"a window of {win} samples in a transform of {n_fft}, {numbers['fmin']:g} to {numbers['fmax']:g} Hz."
        raise ConfigError("config inside the fcpe weights", found, "Get the published fcpe.pt.")
    return MelSpec(rate, n_fft, win, hop, mels, float(numbers["fmin"]), float(numbers["fmax"]), padding="nvstft")


@dataclass(frozen=True)
class FcpeModel:
    """The network and its front end."""

    network: Fcpe
    mel: MelSpec

    def frames_of(self, audio: Array) -> Array:
        """Natural-log mel (1, 1 + samples // hop, mels) of audio (samples,) at the mel's rate."""
        mel = log_mel(audio, self.mel).transpose(0, 2, 1)
        # One more frame than the transform gives: the last one again.
        return np.ascontiguousarray(np.concatenate([mel, mel[:, -1:]], axis=1))

    def f0(self, audio: Array, threshold: float, run: NetworkRun | None = None) -> Doubles:
        """f0 (frames,) of audio (samples,) at the mel's rate; 0 where unvoiced. `run`: what runs the network."""
        salience = (run or in_torch(self.network))(self.frames_of(audio).transpose(0, 2, 1))[0].T
        cents = np.asarray(self.network.cent_table.cpu().numpy(), np.float64)
        return fcpe_hz(np.ascontiguousarray(salience), threshold, cents)


def in_torch(network: Fcpe) -> NetworkRun:
    """The network by torch, on the device of its weights; in blocks where there is much to do."""
    import torch

    from trt_svc.features.f0.networks.fcpe_blocks import logits_in_blocks

    @torch.inference_mode()
    def run(mel: Array) -> Array:
        frames = torch.tensor(np.ascontiguousarray(mel.transpose(0, 2, 1)), device=network.cent_table.device)
        logits = network(frames) if frames.shape[1] <= LONG_FRAMES else logits_in_blocks(network, frames)
        salience: Array = torch.sigmoid(logits).cpu().numpy()
        return salience.transpose(0, 2, 1)

    return run


def fcpe_hz(salience: Array, threshold: float, cent_table: Doubles) -> Doubles:
    """f0 (frames,) from salience (frames, bins); 0 where no bin exceeds the threshold."""
    return voiced_hz(salience, threshold, cent_table, edge="repeat")


@f0_estimators.register("fcpe")
class FcpeEstimator:
    module: ClassVar[str] = "torch"
    trained: ClassVar[TrainedWeights] = TrainedWeights("fcpe", ("fcpe.pt",))

    def __init__(
        self, weights: str | Path | None = None, resample: Callable[[Array, int, int], Array] = resample
    ) -> None:
        self.model = open_fcpe(self.trained.locate(weights))
        self.network_run = in_torch(self.model.network)
        """Log mel (1, mels, frames) -> salience (1, bins, frames); may be replaced."""
        self._resample = resample

    def __call__(self, audio: Array, sample_rate: int) -> PitchTrack:
        f0 = self._f0(audio, sample_rate, VOICED_FROM)
        frame_s = self.model.mel.hop / self.model.mel.sample_rate
        return PitchTrack((np.arange(len(f0), dtype=np.float64) + 0.5) * frame_s, f0)

    def like_upstream(self, wav: Array, sample_rate: int, hop_samples: int, threshold: float) -> UpstreamPitch:
        return post_process(
            self._f0(wav, sample_rate, threshold).astype(np.float32), len(wav) // hop_samples, hop_samples, sample_rate
        )

    def _f0(self, audio: Array, sample_rate: int, threshold: float) -> Doubles:
        wave = self._resample(np.asarray(audio, np.float32), sample_rate, self.model.mel.sample_rate)
        return self.model.f0(wave, threshold, self.network_run)


def open_fcpe(path: Path) -> FcpeModel:
    """The model in a file (fcpe.pt)."""
    what = f"fcpe weights {path.name}"
    found = read_weights(path, what)
    spec = mel_spec(found.embedded_config)
    model = (found.embedded_config or {}).get("model")
    other = [key for key in OTHER_NETWORKS if isinstance(model, Mapping) and model.get(key) is True]
    if other:
        raise ConfigError(f"config inside {what}", f"it asks for {other[0]}.", "Get the published fcpe.pt.")
    network = fcpe_with(found.weights, what)
    if network.stack[0].in_channels != spec.n_mels:
        mismatch = f"its network reads {network.stack[0].in_channels} mel bins, its config says {spec.n_mels}."
        raise WeightsMismatch(what, mismatch, "Get the published fcpe.pt.")
    return FcpeModel(network, spec)


def fcpe_with(weights: dict[str, Tensor], what: str) -> Fcpe:
    """The network of the size that the weights (weight norm folded) have."""
    from trt_svc.features.f0.networks.fcpe import HEADS, NORM_GROUPS, Fcpe

    entry, out = weights.get("stack.0.weight"), weights.get("dense_out.weight")
    directions = weights.get("decoder._layers.0.attn.fast_attention.projection_matrix")
    if entry is None or entry.ndim != 3 or out is None or directions is None or entry.shape[0] % (HEADS * NORM_GROUPS):
        found = "it holds no weights of so-vits-svc's FCPE network."
        raise WeightsMismatch(
            what, found, "The file of the torchfcpe package is another network: get so-vits-svc's fcpe.pt."
        )
    layers = len({name.split(".")[2] for name in weights if name.startswith("decoder._layers.")})
    width, mels = entry.shape[:2]
    return network_with(lambda: Fcpe(mels, width, layers, len(directions), len(out)), weights, what)
