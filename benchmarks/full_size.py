"""The published configs at full size with calibrated random weights, which tables and benchmarks go over."""

from __future__ import annotations

from trt_svc.checkpoints.presets import presets
from trt_svc.vocoders.base import VocoderNet
from trt_svc.vocoders.healthy import healthy_net

CONFIGS = (
    "hifigan_v1",
    "hifigan_v2",
    "hifigan_v3",
    "nsf_hifigan_44k",
    "pc_nsf_hifigan_44k",
    "sovits_41_dec",
    "sovits_41_snake_dec",
    "sovits_41_tiny_dec",
    "gptsovits_v4",
    "gptsovits_v2_dec",
    "bigvgan_base_24khz_100band",
    "bigvgan_24khz_100band",
    "bigvgan_v2_24khz_100band_256x",
    "bigvgan_v2_44khz_128band_512x",
    "waveglow_256",
)


def full_size(name: str) -> VocoderNet:
    """A network of a published config."""
    preset = presets()[name]
    return healthy_net(preset.family, preset.config, preset.source)
