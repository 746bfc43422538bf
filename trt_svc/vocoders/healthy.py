"""Random weights that behave like trained ones: every layer keeps a moderate variance, the audio is loud but unclipped.

Published checkpoints cannot be downloaded everywhere; numerics, compilers and speed can be judged on these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trt_svc.config import MelSpec
from trt_svc.features.mel import log_mel
from trt_svc.noise import Noise
from trt_svc.vocoders.antialias import Snake
from trt_svc.vocoders.base import VocoderNet, families
from trt_svc.vocoders.waveglow import WaveGlow

LAYER_RMS = 0.7
AUDIO_RMS = 0.25
CALIBRATION_FRAMES = 24


def healthy_net(family: str, config: Mapping[str, Any], source: str | None = None, seed: int = 0) -> VocoderNet:
    """A network of this config with seeded, calibrated weights."""
    net = families.get(family).from_config(config, {}, source).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in net.named_parameters():
        if name.startswith("inverse."):
            square = torch.randn(parameter.shape[:2], generator=generator)
            parameter.copy_(torch.linalg.qr(square)[0].unsqueeze(-1))
        elif name.endswith(("alpha", "beta")):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + (0.0 if _logscale(net) else 1.0))
        elif parameter.ndim == 1:
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
        else:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
    _calibrate(net, seed)
    return net


def _logscale(net: VocoderNet) -> bool:
    return all(m.logscale for m in net.modules() if isinstance(m, Snake))


def example_inputs(net: VocoderNet, batch: int, frames: int, seed: int = 0) -> dict[str, Tensor]:
    """Inputs like real ones: the mel of a sung glide, its pitch, seeded noise; a normal latent where no mel goes in."""
    rng = np.random.default_rng(seed)
    f0 = 220 * 2 ** (np.cumsum(rng.normal(0, 0.02, (batch, frames)), axis=1) + rng.uniform(-1, 1, (batch, 1)))
    f0 = np.clip(f0, 60, min(1000.0, 0.9 * net.spec.max_f0_hz))
    f0[:, frames // 2 : frames // 2 + frames // 8] = 0
    if net.spec.mel is None:
        mel = rng.normal(0, 1, (batch, net.spec.n_mels, frames))
    else:
        mel = np.concatenate([log_mel(_sung(row, net.spec.mel, rng), net.spec.mel)[:, :, :frames] for row in f0])
    excitation = net.excitation()
    noise = Noise(excitation.fields, tuple(range(seed, seed + batch)))
    rendered = excitation.begin(noise).push(f0.astype(np.float32), frames)
    given = {"mel": mel.astype(np.float32), **rendered}
    for spec in net.core_inputs():
        if spec.name == "speaker":
            voice = rng.normal(0, 0.5, (batch, spec.channels, 1)).astype(np.float32)
            given["speaker"] = np.repeat(voice, frames, axis=2)
    return {name: torch.from_numpy(value) for name, value in given.items()}


def _sung(f0: np.ndarray[Any, Any], mel: MelSpec, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Harmonics with two broad formants over a faint hiss, one value of f0 per frame."""
    samples = (len(f0) + 4) * mel.hop
    pitch = np.interp(np.arange(samples), (np.arange(len(f0)) + 0.5) * mel.hop, f0)
    phase = 2 * np.pi * np.cumsum(pitch) / mel.sample_rate
    audio = rng.normal(0, 0.01, samples)
    for h in range(1, 25):
        freq = h * pitch
        level = np.exp(-(((freq - 600) / 500) ** 2)) + 0.4 * np.exp(-(((freq - 1800) / 900) ** 2)) + 0.1 / h
        audio += 0.15 * level * np.sin(h * phase) * (pitch > 50) * (freq < 0.45 * mel.sample_rate)
    return audio.astype(np.float32)


@torch.inference_mode()
def _calibrate(net: VocoderNet, seed: int) -> None:
    """One pass in which every convolution is scaled to a moderate output."""

    def scale(module: nn.Module, _: Any, out: Tensor) -> Tensor:
        rms = out.float().pow(2).mean().sqrt().clamp_min(1e-6)
        target = _target(names[id(module)])
        for parameter in module.parameters(recurse=False):
            parameter.mul_(target / rms)
        return out * (target / rms)

    def _target(name: str) -> float:
        if name == "conv_post":
            return 2 * AUDIO_RMS
        if name.endswith(".end"):
            return 0.15  # WaveGlow's shifts and log scales
        return LAYER_RMS / 2 if "convs" in name else LAYER_RMS

    kinds = (nn.Conv1d, nn.ConvTranspose1d)
    scaled = [(name, m) for name, m in net.named_modules() if isinstance(m, kinds) and not name.startswith("inverse")]
    names = {id(m): name for name, m in scaled}
    hooks = [m.register_forward_hook(scale) for _, m in scaled]
    inputs = example_inputs(net, 1, CALIBRATION_FRAMES, seed)
    net(*[inputs[spec.name] for spec in net.core_inputs()])
    for hook in hooks:
        hook.remove()
    if isinstance(net, WaveGlow):
        audio = net(*[inputs[spec.name] for spec in net.core_inputs()])
        last = net.inverse[0]
        assert isinstance(last, nn.Conv1d)
        last.weight.mul_(AUDIO_RMS / audio.pow(2).mean().sqrt())
