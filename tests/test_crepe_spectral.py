"""CREPE's convolutions as products of spectra: the same numbers with a sixth of the multiplications."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trt_svc.build_config import BuildConfig, Precision
from trt_svc.cache import EngineCache
from trt_svc.difference import difference
from trt_svc.features.f0.crepe import CrepeEstimator
from trt_svc.features.f0.networks.crepe import FULL_WIDTHS, Crepe
from trt_svc.features.f0.networks.crepe_spectral import SpectralConv, SpectralCrepe
from trt_svc.svc.engine_stages import EngineStages
from trt_svc.svc.f0_stages import f0_stage
from trt_svc.svc.stage import in_torch

WIDTHS = (24, 8, 8, 8, 12, 16)


def small_crepe() -> Crepe:
    torch.manual_seed(3)
    net = Crepe(WIDTHS).eval().requires_grad_(False)
    for name, value in [*net.named_parameters(), *net.named_buffers()]:
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.ndim == 1:
            value.normal_(0, 0.2)
        else:
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
    return net


@pytest.mark.parametrize("length", [128, 64, 32, 16, 8, 2, 1])
def test_a_convolution_of_every_length(length: int) -> None:
    torch.manual_seed(length)
    conv = nn.Conv2d(5, 7, (64, 1)).requires_grad_(False)
    x = torch.randn(3, 5, length)
    expected = conv(F.pad(x.unsqueeze(3), (0, 0, 31, 32))).squeeze(3)
    assert difference(SpectralConv(conv, length)(x).numpy(), expected.numpy()).snr_db > 110


@pytest.mark.parametrize("windows", [1, 5])
def test_the_same_salience(windows: int) -> None:
    net = small_crepe()
    heard = torch.randn(windows, 1024)
    assert difference(SpectralCrepe(net)(heard).numpy(), net(heard).numpy()).snr_db > 110


def test_fewer_multiplications_at_full_size() -> None:
    layers = list(zip(FULL_WIDTHS, FULL_WIDTHS[1:], (128, 64, 32, 16, 8), strict=False))
    first = 512 * FULL_WIDTHS[0] * 256
    direct = sum(64 * channels_in * channels_out * length for channels_in, channels_out, length in layers)
    spectral = 0
    for channels_in, channels_out, length in layers:
        made = SpectralConv(nn.Conv2d(channels_in, channels_out, (64, 1)), length)
        transforms = made.table.numel() * channels_in + made.inverse.numel() * channels_out
        spectral += transforms + made.weight.numel()
    assert (first + spectral) < (first + direct) / 6


def test_engines_on_a_cpu_take_it(tmp_path: Path) -> None:
    path = tmp_path / "crepe_full.pth"
    torch.save(small_crepe().state_dict(), path)
    estimator = CrepeEstimator(path)
    stage = f0_stage(estimator)
    assert stage is not None
    run = EngineStages(BuildConfig("onnxruntime", "cpu", Precision("fp32")), EngineCache(tmp_path / "engines"))(stage)
    heard = np.random.default_rng(0).standard_normal((70, 1024, 1)).astype(np.float32)
    assert difference(run({"windows": heard}), in_torch(stage)({"windows": heard})).snr_db > 100
    (graph,) = (tmp_path / "engines").rglob("*.onnx")
    assert graph.read_bytes().count(b"MatMul") >= 15
