"""HiFi-GAN (jik876): `models.Generator` in its three published sizes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.hosts.scene import Audio, Scene, level, log_mel_like, on_path

REPOSITORY = "hifi-gan"
NARROW_CHANNELS = {"v1": 64, "v2": 32, "v3": 48}
BANDS = 80


def scenes(root: Path, full_size: bool) -> Iterator[Scene]:
    on_path(root)
    for version in NARROW_CHANNELS:
        yield _scene(root, version, full_size)


def _scene(root: Path, version: str, full_size: bool) -> Scene:
    from env import AttrDict
    from models import Generator

    config: Any = AttrDict(json.loads((root / f"config_{version}.json").read_text("utf-8")))
    if not full_size:
        config.upsample_initial_channel = NARROW_CHANNELS[version]
    torch.manual_seed(0)
    generator = Generator(config).to("cpu")
    calibration = log_mel_like(BANDS, 32)
    level(generator, lambda: generator(calibration))
    generator.eval()
    if version != "v2":  # one keeps its weight norm
        generator.remove_weight_norm()
    seconds = 2.0 if full_size else 1.0
    mel = log_mel_like(BANDS, round(seconds * config.sampling_rate / config.hop_size))

    @torch.no_grad()
    def sing() -> Audio:
        return generator(mel).squeeze().cpu().numpy()

    return Scene(f"Generator, config_{version}", generator, sing, vocoder=generator)
