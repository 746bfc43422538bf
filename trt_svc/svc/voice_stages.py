"""The neural stages of a voice, of shallow diffusion and of unit mixing, each ready to become an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch
from torch import nn

from trt_svc.build_config import ShapeRange
from trt_svc.svc.clusters import Clusters
from trt_svc.svc.diffusion import DenoiserFor
from trt_svc.svc.networks.denoiser import (
    WINDOW_FRAMES,
    ConditionedDenoiser,
    WaveNet,
)
from trt_svc.svc.networks.nearest import FeatureRetrieval, NearestCentre
from trt_svc.svc.networks.pitch_decoder import log_f0, normalised
from trt_svc.svc.networks.prior import coarse_pitch
from trt_svc.svc.networks.stages import EncoderStage, PitchStage
from trt_svc.svc.networks.synthesizer import Synthesizer
from trt_svc.svc.retrieval import Retrieval
from trt_svc.svc.stage import Examples, Run, StageNet
from trt_svc.types import Array
from trt_svc.vocoders.base import CoreInput

LENGTHS = ShapeRange(1, 860, 4096)
"""Frames of a slice: ten seconds usually; scores of attention grow with the square."""
PITCH_LENGTHS = ShapeRange(16, 860, 4096)
"""OpenVINO 2026.4 adds a convolution of one channel wrongly to something shorter than six frames."""
LOCAL_LENGTHS = ShapeRange(1, 860, 8192)
"""Of stages whose frames only see their neighbours."""
DENOISER_LENGTHS = ShapeRange(1, 860, WINDOW_FRAMES + 512)
"""A window and the context of a network with up to 256 blocks."""
KEPT_STEPS = 1100
"""Times whose biases are kept: 40 kB each in a model of the usual size."""
UNIT_SPREAD = 0.3
"""Of content units: what encoders put out."""
FRAMES_PER_S = 86


def voice_encoder_stage(net: Synthesizer) -> StageNet:
    """Units, uv, pitch_bins (and volume) -> the prior's statistics; see `EncoderStage`."""
    stage = EncoderStage(net)
    return StageNet("voice encoder", stage, stage.core_inputs(), _take_of(net, stage.core_inputs()), LENGTHS)


def pitch_stage(net: Synthesizer, by_frame: bool = False) -> StageNet:
    """Units, uv, norm_lf0, speaker (and volume) -> the log f0 that the voice would choose; see `PitchStage`.

    by_frame: as in `flow_stage`.
    """
    stage = PitchStage(net)
    inputs = stage.core_inputs() if by_frame else _one_speaker(stage.core_inputs())
    name = "voice pitch of a mix" if by_frame else "voice pitch"
    return StageNet(name, stage, inputs, _take_of(net, inputs), PITCH_LENGTHS)


def flow_stage(net: Synthesizer, by_frame: bool = False) -> StageNet:
    """z_p and speaker -> z. by_frame: the speaker is a mix that may change with every frame, (B, gin, T)."""
    inputs = net.flow.core_inputs() if by_frame else _one_speaker(net.flow.core_inputs())

    def examples(batch: int, frames: int, seed: int) -> dict[str, Array]:
        rng = np.random.default_rng(seed)
        z_p = rng.standard_normal((batch, net.config.inter_channels, frames)).astype(np.float32)
        return {"z_p": z_p, "speaker": _speakers(net, batch, frames if by_frame else 1, rng)}

    lengths = LENGTHS if net.config.use_transformer_flow else LOCAL_LENGTHS
    return StageNet("flow of a mix" if by_frame else "flow", net.flow, inputs, examples, lengths)


def denoiser_stage(net: WaveNet) -> StageNet:
    """x, steps and cond -> the noise in x."""
    width = net.layers * net.channels
    inputs = (CoreInput("x", net.n_mels), CoreInput("steps", width, 0), CoreInput("cond", net.cond_channels))

    def examples(batch: int, frames: int, seed: int) -> dict[str, Array]:
        rng = np.random.default_rng(seed)
        x, cond = (
            rng.standard_normal((batch, channels, frames)).astype(np.float32)
            for channels in (net.n_mels, net.cond_channels)
        )
        steps = np.concatenate([_biases_at(net, time) for time in rng.uniform(0, 1000, batch)])
        return {"x": x, "steps": steps, "cond": cond}

    return StageNet("denoiser", ConditionedDenoiser(net), inputs, examples, DENOISER_LENGTHS)


def denoiser_for(run: Run, net: WaveNet, window_frames: int = WINDOW_FRAMES) -> DenoiserFor:
    """The denoisers of slices, by a run of `denoiser_stage`, for `Diffusion`.

    What a time adds is worked out in torch, once for all slices. Long slices go through in windows.
    """
    biases = lru_cache(KEPT_STEPS)(partial(_biases_at, net))
    return lambda cond: _SliceOnEngine(run, net, biases, cond, window_frames)


@dataclass(frozen=True)
class _SliceOnEngine:
    """The denoiser of one slice: called with x (B, n_mels, T) and a model time, once per step."""

    run: Run
    net: WaveNet
    biases: Callable[[float], Array]
    cond: Array
    window_frames: int

    def __call__(self, x: Array, time: float) -> Array:
        frames, steps = x.shape[-1], np.repeat(self.biases(float(time)), len(x), axis=0)
        made = [self._window(x, steps, at) for at in range(0, frames, self.window_frames)]
        return made[0] if len(made) == 1 else np.concatenate(made, axis=-1)

    def _window(self, x: Array, steps: Array, first: int) -> Array:
        stop = min(x.shape[-1], first + self.window_frames)
        start, end = max(0, first - self.net.context_frames), min(x.shape[-1], stop + self.net.context_frames)
        given = {"x": _contiguous(x[..., start:end]), "steps": steps, "cond": _contiguous(self.cond[..., start:end])}
        return self.run(given)[..., first - start : stop - start]


def cluster_stage(clusters: Clusters) -> StageNet:
    """Units and ratio (B, 1, 1) -> units, each frame that far on the way to its nearest centre."""

    def examples(batch: int, frames: int, seed: int) -> dict[str, Array]:
        return _units_near(clusters.centres, batch, frames, seed)

    inputs = (CoreInput("units", clusters.channels), CoreInput("ratio", 1, 0))
    return StageNet(
        "cluster mixing",
        NearestCentre(clusters),
        inputs,
        examples,
        LENGTHS,
        whole_float32=True,
        in_torch=_row_by_row(clusters.mixed),
    )


def retrieval_stage(retrieval: Retrieval) -> StageNet:
    """Units and ratio (B, 1, 1) -> units, each frame that far on the way to what was retrieved for it."""

    def examples(batch: int, frames: int, seed: int) -> dict[str, Array]:
        return _units_near(retrieval.index.vectors, batch, frames, seed)

    inputs = (CoreInput("units", retrieval.channels), CoreInput("ratio", 1, 0))
    return StageNet(
        "feature retrieval",
        FeatureRetrieval(retrieval),
        inputs,
        examples,
        LENGTHS,
        whole_float32=True,
        in_torch=_row_by_row(retrieval.mixed),
    )


def _row_by_row(mixed: Callable[[Array, float], Array]) -> Run:
    """Mixing outside of a network: in bounded memory, near ties settled in float64."""

    def run(inputs: Mapping[str, Array]) -> Array:
        ratios = np.broadcast_to(inputs["ratio"], (len(inputs["units"]), 1, 1))
        return np.stack(
            [mixed(units, float(ratio.item())) for units, ratio in zip(inputs["units"], ratios, strict=True)]
        )

    return run


# Inputs like real ones.


def _take_of(net: Synthesizer, inputs: Sequence[CoreInput]) -> Examples:
    """Units, a sung glide with rests, and whatever else a stage of the voice takes."""
    by_frame = any(spec.name == "speaker" and spec.per_frame for spec in inputs)

    def examples(batch: int, frames: int, seed: int) -> dict[str, Array]:
        rng = np.random.default_rng(seed)
        units = UNIT_SPREAD * rng.standard_normal((batch, net.config.ssl_dim, frames))
        seconds = np.arange(frames) / FRAMES_PER_S + rng.uniform(0, 3, (batch, 1))
        f0 = 220 * 2 ** np.sin(2 * np.pi * seconds / 3)
        uv = (np.sin(2 * np.pi * seconds / 0.7) > -0.8).astype(np.float32)
        f0_hz, voiced = torch.from_numpy((f0 * uv).astype(np.float32)), torch.from_numpy(uv)
        made = {
            "units": units.astype(np.float32),
            "uv": uv[:, None],
            "pitch_bins": coarse_pitch(f0_hz).unsqueeze(1).float().numpy(),
            "norm_lf0": normalised(log_f0(f0_hz).unsqueeze(1), voiced).numpy(),
            "speaker": _speakers(net, batch, frames if by_frame else 1, rng),
            "volume": rng.uniform(0, 0.3, (batch, 1, frames)).astype(np.float32),
        }
        return {spec.name: made[spec.name] for spec in inputs}

    return examples


def _speakers(net: Synthesizer, batch: int, frames: int, rng: np.random.Generator) -> Array:
    """Vectors (B, gin, T): one of the voice's speakers each, or a mix of two that moves from one to the other."""
    table = net.emb_g.weight.detach().cpu().numpy()
    pairs = table[rng.integers(0, len(table), (2, batch))][..., None]
    share = np.linspace(0, 1, frames, dtype=np.float32)
    return _contiguous(pairs[0] * (1 - share) + pairs[1] * share)


def _units_near(rows: Array, batch: int, frames: int, seed: int) -> dict[str, Array]:
    """Units around rows of a table, much nearer to their own row than rows are to each other."""
    rng = np.random.default_rng(seed)
    chosen = rows[rng.integers(0, len(rows), (batch, frames))].transpose(0, 2, 1)
    noise = 0.1 * rows.std() * rng.standard_normal(chosen.shape)
    ratio = rng.uniform(0.1, 1, (batch, 1, 1))
    return {"units": (chosen + noise).astype(np.float32), "ratio": ratio.astype(np.float32)}


def _one_speaker(inputs: Sequence[CoreInput]) -> tuple[CoreInput, ...]:
    return tuple(replace(spec, per_frame=0) if spec.name == "speaker" else spec for spec in inputs)


@torch.inference_mode()
def _biases_at(net: WaveNet, time: float) -> Array:
    """(1, layers * C, 1)"""
    made: Array = net.step_biases(torch.full((1,), time, dtype=torch.float32, device=_device(net))).cpu().numpy()
    return made


def _device(net: nn.Module) -> torch.device:
    return next(net.parameters()).device


def _contiguous(array: Array) -> Array:
    return np.ascontiguousarray(array, np.float32)
