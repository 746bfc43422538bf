"""The networks of crepe, rmvpe and fcpe as stages: what an engine is built of, and how it is put to work."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import trt_svc.svc.f0_writers  # noqa: F401 - files the writers of the networks' own operations
from trt_svc.build_config import ShapeRange
from trt_svc.features.f0 import crepe, fcpe, rmvpe
from trt_svc.features.f0.base import F0Estimator
from trt_svc.features.f0.network_run import NetworkRun
from trt_svc.features.f0.networks.crepe import Crepe
from trt_svc.features.f0.networks.crepe_spectral import SpectralCrepe
from trt_svc.features.f0.networks.fcpe import Fcpe
from trt_svc.features.f0.networks.norm import folded
from trt_svc.features.f0.networks.rmvpe import Rmvpe, cut_as, filled_up
from trt_svc.svc.example_audio import sung
from trt_svc.svc.stage import Run, StageNet
from trt_svc.types import Array
from trt_svc.vocoders.base import CoreInput

NAME = "f0 network"
WINDOWS, MEL = "windows", "mel"
MEL_FRAMES = ShapeRange(1, 1000, 8192)
"""Of 10 ms; longer recordings run in torch, piece by piece."""
NetworkEstimator = crepe.CrepeEstimator | rmvpe.RmvpeEstimator | fcpe.FcpeEstimator


def f0_stage(estimator: F0Estimator) -> StageNet | None:
    """The stage of an estimator's network; None for methods without one, or whose network is none of ours."""
    if isinstance(estimator, crepe.CrepeEstimator):
        return _crepe_stage(estimator)
    if isinstance(estimator, rmvpe.RmvpeEstimator):
        return _rmvpe_stage(estimator)
    if isinstance(estimator, fcpe.FcpeEstimator):
        return _fcpe_stage(estimator)
    return None


def run_f0_on(estimator: F0Estimator, run: Run) -> None:
    """Lets `run` compute the network from now on, as long as it runs this estimator's `f0_stage`."""
    if isinstance(estimator, NetworkEstimator):
        name = WINDOWS if isinstance(estimator, crepe.CrepeEstimator) else MEL
        estimator.network_run = lambda heard: run({name: np.ascontiguousarray(heard)})


def _as_run(run: NetworkRun, name: str) -> Run:
    return lambda inputs: run(inputs[name])


# CREPE: every window by itself.


class CrepeStage(nn.Module):
    """Normalised windows (B, 1024, 1) -> salience (B, 360, 1)."""

    def __init__(self, net: Crepe | SpectralCrepe) -> None:
        super().__init__()
        self.net = net

    def forward(self, windows: Tensor) -> Tensor:
        salience: Tensor = self.net(windows.squeeze(2)).unsqueeze(2)
        return salience


def _crepe_stage(estimator: crepe.CrepeEstimator) -> StageNet:
    return StageNet(
        NAME,
        CrepeStage(estimator.network),
        (CoreInput(WINDOWS, crepe.WINDOW_SAMPLES),),
        _windows,
        ShapeRange(1, 1, 1),
        in_torch=_as_run(crepe.in_torch(estimator.network), WINDOWS),
        on_cpu=lambda: CrepeStage(SpectralCrepe(estimator.network)).eval(),
        batch=ShapeRange(1, crepe.WINDOWS_PER_RUN, crepe.WINDOWS_PER_RUN),
    )


def _windows(batch: int, _length: int, seed: int) -> dict[str, Array]:
    (wave,) = sung(1, batch * crepe.HOP_SAMPLES, crepe.RATE, seed)
    return {WINDOWS: crepe.normalised(crepe.windows(wave, crepe.HOP_SAMPLES)[:batch])[:, :, None]}


# RMVPE: an image, then all of its frames in order.


class RmvpeStage(nn.Module):
    """Log mel (B, 128, T) of any length -> salience (B, 360, T)."""

    def __init__(self, net: Rmvpe) -> None:
        super().__init__()
        self.net = folded(net)

    def forward(self, mel: Tensor) -> Tensor:
        salience = self.net(filled_up(mel, self.net.frame_multiple)).transpose(1, 2)
        return cut_as(salience, mel)


def _rmvpe_stage(estimator: rmvpe.RmvpeEstimator) -> StageNet:
    return StageNet(
        NAME,
        RmvpeStage(estimator.network),
        (CoreInput(MEL, rmvpe.MELS),),
        _rmvpe_mels,
        MEL_FRAMES,
        float32=("net.fc*",),  # an error in one frame reaches all later ones
        in_torch=_as_run(rmvpe.in_torch(estimator.network), MEL),
    )


def _rmvpe_mels(batch: int, frames: int, seed: int) -> dict[str, Array]:
    waves = sung(batch, frames * rmvpe.HOP_SAMPLES, rmvpe.RATE, seed)
    return {MEL: np.concatenate([rmvpe.rmvpe_mel(wave)[:, :, :frames] for wave in waves])}


# FCPE: attention that is linear in the frames.


class FcpeStage(nn.Module):
    """Log mel (B, mels, T) -> salience (B, bins, T)."""

    def __init__(self, net: Fcpe) -> None:
        super().__init__()
        self.net = net

    def forward(self, mel: Tensor) -> Tensor:
        return torch.sigmoid(self.net(mel.transpose(1, 2))).transpose(1, 2)


def _fcpe_stage(estimator: fcpe.FcpeEstimator) -> StageNet:
    model = estimator.model

    def mels(batch: int, frames: int, seed: int) -> dict[str, Array]:
        waves = sung(batch, frames * model.mel.hop, model.mel.sample_rate, seed)
        heard = np.concatenate([model.frames_of(wave)[:, :frames] for wave in waves])
        return {MEL: np.ascontiguousarray(heard.transpose(0, 2, 1))}

    return StageNet(
        NAME,
        FcpeStage(model.network),
        (CoreInput(MEL, model.mel.n_mels),),
        mels,
        MEL_FRAMES,
        float32=("net.decoder._layers.*.attn",),  # exponentials, and sums over all frames; its four layers are others
        in_torch=_as_run(fcpe.in_torch(model.network), MEL),
    )
