"""How long each vocoder takes per second of audio on this machine, full-size configs with random weights.

pytest benchmarks --benchmark-only [--benchmark-json FILE]; compare runs with pytest-benchmark compare.
"""

from __future__ import annotations

import pytest
import torch

from trt_svc.checkpoints.describe import gflop_per_second
from trt_svc.checkpoints.presets import presets
from trt_svc.vocoders.base import families

MODELS = ("hifigan_v1", "nsf_hifigan_44k", "gptsovits_v4", "sovits_41_dec", "bigvgan_base_24khz_100band")
SECONDS = 1.0


@pytest.mark.parametrize("model", MODELS)
@torch.inference_mode()
def test_torch_eager(benchmark, model: str) -> None:
    preset = presets()[model]
    family = families.get(preset.family)
    net = family.from_config(preset.config, {}, preset.source).eval()
    frames = round(SECONDS * net.spec.frames_per_second)
    inputs = [
        torch.randn(1, spec.channels, 1 if spec.may_be_constant else int(frames * spec.per_frame))
        for spec in net.core_inputs()
    ]
    audio = benchmark.pedantic(net, inputs, rounds=5, warmup_rounds=1)
    seconds = audio.shape[1] / net.spec.sample_rate
    with torch.device("meta"):
        cost = gflop_per_second(family.from_config(preset.config, {}, preset.source))
    median_s = benchmark.stats.stats.median
    benchmark.extra_info.update(
        audio_s=seconds, rtf=median_s / seconds, gflop_per_s_of_audio=cost, gflops=cost * seconds / median_s,
        threads=torch.get_num_threads(),
    )  # fmt: skip
