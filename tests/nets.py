"""Small networks with the published topology of every family, and inputs of any length for them."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from trt_svc.checkpoints.presets import presets
from trt_svc.vocoders.base import VocoderNet, families
from trt_svc.vocoders.healthy import example_inputs, healthy_net

PRESET_OF = {
    "hifigan": "hifigan_v1",
    "hifigan2": "hifigan_v3",
    "nsf_hifigan": "nsf_hifigan_44k",
    "mini": "pc_nsf_hifigan_44k",
    "bigvgan": "bigvgan_base_24khz_100band",
    "bigvgan2": "bigvgan_v2_24khz_100band_256x",
    "sovits_dec": "sovits_41_dec",
    "sovits_snake": "sovits_41_snake_dec",
    "gptsovits_generator": "gptsovits_v4",
    "gptsovits_dec": "gptsovits_v2_dec",
}
SMALL = [*PRESET_OF, "waveglow"]
WAVEGLOW = {
    "waveglow_config": {
        "n_mel_channels": 80,
        "n_flows": 4,
        "n_early_every": 2,
        "WN_config": {"n_layers": 3, "n_channels": 16},
    }
}


def small_config(name: str, channels: int = 64) -> tuple[str, dict[str, Any], str | None]:
    """Family, config and source maths of a narrow network."""
    if name == "waveglow":
        return "waveglow", WAVEGLOW, None
    preset = presets()[PRESET_OF[name]]
    speaker = 6 if preset.config.get("gin_channels") else 0
    small = {"upsample_initial_channel": channels, "gin_channels": speaker}
    return preset.family, {**preset.config, **small}, preset.source


@cache
def healthy_small(name: str, seed: int = 0) -> VocoderNet:
    """Calibrated random weights; shared between tests, so never changed in place."""
    family, config, source = small_config(name)
    return healthy_net(family, config, source, seed)


@cache
def healthy_short(name: str) -> VocoderNet:
    """The same with 16 samples per frame, for tests with many frames."""
    family, config, source = small_config(name, 32)
    if name == "waveglow":
        config = {
            "waveglow_config": {
                **WAVEGLOW["waveglow_config"],
                "n_flows": 2,
                "n_early_every": 1,
                "WN_config": {"n_layers": 2, "n_channels": 4},
            }
        }
    else:
        config = {**config, "upsample_rates": [4, 2, 2], "upsample_kernel_sizes": [8, 4, 4], "hop_size": 16}
    return healthy_net(family, config, source)


def random_small(name: str, **changes: Any) -> VocoderNet:
    """Fresh uncalibrated weights."""
    torch.manual_seed(0)
    family, config, source = small_config(name)
    net = families.get(family).from_config({**config, **changes}, {}, source)
    return net.eval().requires_grad_(False)


def inputs_of_any_length(net: VocoderNet, batch: int, frames: int) -> dict[str, torch.Tensor]:
    """Example inputs; long and wide ones repeat a short one, rolled, because synthesis of the mel takes time."""
    if frames * batch <= 128:
        return example_inputs(net, batch, frames)
    short = example_inputs(net, 1, 96)
    repeats = -(-frames // 96)
    out = {}
    for spec in net.core_inputs():
        value = short[spec.name].repeat(1, 1, repeats)[:, :, : int(frames * spec.per_frame)]
        out[spec.name] = torch.cat([value.roll(17 * i, dims=2) for i in range(batch)])
    return out
