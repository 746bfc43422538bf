"""The stages of a conversion at the size of the published models, with random weights of a trained network's scale."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from trt_svc.features.f0.base import F0Estimator
from trt_svc.features.f0.crepe import CrepeEstimator
from trt_svc.features.f0.fcpe import PUBLISHED_MEL, FcpeEstimator
from trt_svc.features.f0.networks.crepe import Crepe
from trt_svc.features.f0.networks.fcpe import Fcpe
from trt_svc.features.f0.networks.rmvpe import Rmvpe
from trt_svc.features.f0.rmvpe import RmvpeEstimator
from trt_svc.svc.clusters import Clusters
from trt_svc.svc.encoders.contentvec import Vec768Layer12
from trt_svc.svc.encoders.hubert import HubertConfig, HubertNet
from trt_svc.svc.encoders.transformer import LayerSizes
from trt_svc.svc.encoders.wavlm import WavLMBasePlus
from trt_svc.svc.encoders.whisper import WhisperConfig, WhisperMedium, WhisperNet
from trt_svc.svc.f0_stages import f0_stage
from trt_svc.svc.faiss_file import IvfFlat
from trt_svc.svc.networks.denoiser import WaveNet
from trt_svc.svc.networks.synthesizer import Synthesizer
from trt_svc.svc.retrieval import Retrieval
from trt_svc.svc.stage import StageNet
from trt_svc.svc.voice_stages import (
    cluster_stage,
    denoiser_stage,
    flow_stage,
    pitch_stage,
    retrieval_stage,
    voice_encoder_stage,
)

VOICE = {
    "inter_channels": 192, "hidden_channels": 192, "filter_channels": 768, "n_heads": 2, "n_layers": 6,
    "kernel_size": 3, "resblock": "1", "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]], "upsample_rates": [8, 8, 2, 2, 2],
    "upsample_initial_channel": 512, "upsample_kernel_sizes": [16, 16, 4, 4, 4], "gin_channels": 768,
    "ssl_dim": 768, "n_speakers": 200, "sampling_rate": 44100, "vol_embedding": True, "use_depthwise_conv": False,
    "flow_share_parameter": False, "use_automatic_f0_prediction": True, "vocoder_name": "nsf-hifigan",
}  # fmt: skip
"""The template of so-vits-svc 4.1."""
UNIT_CHANNELS, CENTRES, INDEXED, CELLS = 768, 10_000, 20_000, 120

Net = TypeVar("Net", bound=nn.Module)


def randomised(net: Net, seed: int = 0) -> Net:
    """Weights that keep the variance of what passes through; scales near 1, shifts near 0; buffers as they are."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.named_parameters():
            drawn = torch.randn(value.shape, generator=generator)
            if value.ndim > 1:
                value.copy_(drawn / max(1, value[0].numel()) ** 0.5)
            else:
                value.copy_(0.1 * drawn + (1.0 if name.endswith(("gamma", "weight", "weight_g")) else 0.0))
    return net.eval().requires_grad_(False)


def voice(**changes: object) -> Synthesizer:
    return randomised(Synthesizer.from_config({**VOICE, **changes}, {}))


def denoiser() -> WaveNet:
    return randomised(WaveNet(n_mels=128, layers=20, channels=512, cond_channels=256))


def contentvec() -> StageNet:
    return Vec768Layer12(randomised(HubertNet(_base_hubert()))).stage()


def wavlm() -> StageNet:
    return WavLMBasePlus(randomised(HubertNet(_base_hubert(buckets=320, max_distance=800)))).stage()


def _base_hubert(buckets: int = 0, max_distance: int = 0) -> HubertConfig:
    return HubertConfig(
        conv_channels=(512,) * 7,
        conv_bias=False,
        extractor_norm="group",
        width=768,
        position_kernel=128,
        position_groups=16,
        layers=(LayerSizes(12, 64, 3072),) * 12,
        norm_first=False,
        buckets=buckets,
        max_distance=max_distance,
    )


def whisper() -> StageNet:
    stage = WhisperMedium(randomised(WhisperNet(WhisperConfig(width=1024, heads=16, layers=24)))).stage()
    assert stage is not None, "the medium network fits in a graph"
    return stage


def crepe() -> StageNet:
    return _f0(CrepeEstimator, randomised(Crepe()).state_dict())


def rmvpe() -> StageNet:
    return _f0(RmvpeEstimator, {"model": randomised(Rmvpe()).state_dict()})


def fcpe() -> StageNet:
    state = randomised(Fcpe()).state_dict()
    last = state.pop("dense_out.weight")
    state |= {"dense_out.weight_v": last, "dense_out.weight_g": last.norm(dim=1, keepdim=True)}
    return _f0(FcpeEstimator, {"config": {"mel": dict(PUBLISHED_MEL), "model": {"n_layers": 12}}, "model": state})


def _f0(kind: Callable[[Path], F0Estimator], tree: Mapping[str, object]) -> StageNet:
    """Through a file, as these networks are published."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pt"
        torch.save(dict(tree), path)
        stage = f0_stage(kind(path))
    assert stage is not None, "it has a network of ours"
    return stage


def clusters() -> Clusters:
    return Clusters(_units(CENTRES))


def retrieval() -> Retrieval:
    """Vectors in cells around the first ones of them."""
    vectors = _units(INDEXED)
    centroids = vectors[:CELLS]
    halves = 0.5 * np.square(centroids).sum(axis=1) - vectors @ centroids.T
    cells = halves.argmin(axis=1)
    order = np.argsort(cells, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=CELLS))])
    return Retrieval(IvfFlat(centroids, vectors[order], order, starts))


def _units(rows: int) -> np.ndarray:
    return (0.3 * np.random.default_rng(0).standard_normal((rows, UNIT_CHANNELS))).astype(np.float32)


STAGES: dict[str, Callable[[], StageNet]] = {
    "content encoder, vec768l12": contentvec,
    "content encoder, wavlmbase+": wavlm,
    "f0, crepe full": crepe,
    "f0, rmvpe": rmvpe,
    "f0, fcpe": fcpe,
    "voice encoder, 4.1": lambda: voice_encoder_stage(voice()),
    "voice pitch, 4.1": lambda: pitch_stage(voice()),
    "flow, 4.1": lambda: flow_stage(voice()),
    "flow of a mix, 4.1": lambda: flow_stage(voice(), by_frame=True),
    "transformer flow, 4.1": lambda: flow_stage(voice(use_transformer_flow=True)),
    "diffusion denoiser, 20 x 512": lambda: denoiser_stage(denoiser()),
    "cluster mixing, 10000 x 768": lambda: cluster_stage(clusters()),
    "feature retrieval, 20000 x 768": lambda: retrieval_stage(retrieval()),
    "content encoder, whisper medium": whisper,
}
