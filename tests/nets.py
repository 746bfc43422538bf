"""Small networks with the published topology of every family, and inputs of any length for them."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from trt_svc.checkpoints.presets import presets
from trt_svc.loading import load_vocoder
from trt_svc.session import Vocoder
from trt_svc.vocoders.base import VocoderNet, families
from trt_svc.vocoders.healthy import example_inputs, healthy_net
from trt_svc.vocoders.trunk import UpsamplingTrunk

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
SMALL = [*PRESET_OF, "rvc_dec", "waveglow"]
RVC = {
    "upsample_rates": [10, 8, 2, 2],
    "upsample_kernel_sizes": [20, 16, 4, 4],
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5]] * 3,
    "sampling_rate": 32000,
}
"""Its voices carry their configs, so there are no presets."""
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
    if name == "rvc_dec":
        return name, {**RVC, "upsample_initial_channel": channels, "gin_channels": 6}, None
    preset = presets()[PRESET_OF[name]]
    speaker = 6 if preset.config.get("gin_channels") else 0
    small = {"upsample_initial_channel": channels, "gin_channels": speaker}
    return preset.family, {**preset.config, **small}, preset.source


@cache
def healthy_small(name: str, seed: int = 0) -> VocoderNet:
    """Calibrated random weights; shared between tests, so never changed in place."""
    family, config, source = small_config(name)
    return healthy_net(family, config, source, seed)


def short_config(name: str) -> tuple[str, dict[str, Any], str | None]:
    """The same with 16 samples per frame (WaveGlow: fewer flows), for tests with many frames."""
    family, config, source = small_config(name, 32)
    if name == "waveglow":
        flow = {**WAVEGLOW["waveglow_config"], "n_flows": 2, "n_early_every": 1}
        return family, {"waveglow_config": {**flow, "WN_config": {"n_layers": 2, "n_channels": 4}}}, source
    return (
        family,
        {**config, "upsample_rates": [4, 2, 2], "upsample_kernel_sizes": [8, 4, 4], "hop_size": 16},
        source,
    )


@cache
def healthy_short(name: str) -> VocoderNet:
    """Calibrated random weights for it."""
    return healthy_net(*short_config(name))


@cache
def speaking(name: str) -> VocoderNet:
    """`healthy_short` at the level of speech, an eighth as loud: rounding is judged against full scale."""
    net = copy.deepcopy(healthy_short(name))
    if isinstance(net, UpsamplingTrunk):
        for parameter in net.conv_post.parameters():
            parameter.mul_(0.125)
    return net


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


def checkpoint_of(net: VocoderNet, folder: Path) -> dict[str, Any]:
    """The network as files, and how `load_vocoder` is told about them."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, folder / "model.safetensors")
    return {"path": folder / "model.safetensors", "family": net.family}


def vocoder_of(name: str, folder: Path, net: VocoderNet | None = None, **options: Any) -> Vocoder:
    """A session on the short network of this name (or on a given one of its topology)."""
    family, config, source = short_config(name)
    given = checkpoint_of(net or speaking(name), folder)
    return load_vocoder(**{**given, "family": family, "config": config, "source": source, **options})


def utterance(vocoder: Vocoder, batch: int, frames: int, seed: int = 0) -> dict[str, Any]:
    """A moving mel (or latent) with pitch and speaker as far as the vocoder takes them."""
    rng = np.random.default_rng(seed)
    spec = vocoder.spec
    mel = rng.normal(0, 1, (batch, spec.n_mels, frames + 4))
    if spec.mel is not None:
        mel = -6 + 3 * (mel + np.roll(mel, 1, 2) + np.roll(mel, 2, 2) + np.roll(mel, 1, 1)) / 2
    given: dict[str, Any] = {"mel": mel[:, :, :frames].clip(-11.5, 1.5).astype(np.float32)}
    if spec.needs_f0:
        f0 = rng.uniform(80, min(700.0, 0.8 * spec.max_f0_hz), (batch, 1)) * 2 ** rng.normal(0, 0.05, (batch, frames))
        voiced = rng.random((batch, frames)) > 0.2
        given["f0"] = (voiced * f0.clip(60, 0.95 * spec.max_f0_hz)).astype(np.float32)
    if spec.needs_speaker:
        given["speaker"] = rng.normal(0, 0.5, (batch, spec.speaker_channels)).astype(np.float32)
    return given
