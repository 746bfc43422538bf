"""Voices of RVC and Applio around decoders whose output their own classes recorded (`record_rvc_dec`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.record_rvc_dec import BLOCKS, CHANNELS, FOLDER, GIN, INTER, RATE_HZ
from trt_svc.loading import load_vocoder
from trt_svc.session import Vocoder

SOURCES = {"rvc": "sovits-interp", "applio": "openvpi", "applio-odd": "openvpi"}
WITHOUT_PITCH = "rvc-no-pitch"
BOUND = 5e-5


def recorded(name: str) -> dict[str, Any]:
    with np.load(FOLDER / f"{name}.npz") as data:
        arrays = dict(data)
    weights = {key.removeprefix("weight/"): value for key, value in arrays.items() if key.startswith("weight/")}
    return {**arrays, "weights": {key: torch.from_numpy(value) for key, value in weights.items()}}


def voice_file(name: str, folder: Path, **changes: Any) -> Path:
    """The recorded decoder inside a voice as the hosts keep them."""
    data = recorded(name)
    rates, kernels = data["rates"].tolist(), data["kernels"].tolist()
    trunk = [*BLOCKS, rates, CHANNELS, kernels, 3, GIN, RATE_HZ]
    weight = {f"dec.{key}": value for key, value in data["weights"].items()} | {"emb_g.weight": torch.zeros(3, GIN)}
    config = [1025, 32, INTER, 16, 32, 2, 2, 3, 0, "1", *trunk]
    path = folder / f"{name}.pth"
    torch.save({"weight": weight, "config": config, "info": "1epoch", "sr": "16k", "f0": 1, **changes}, path)
    return path


def opened(name: str, folder: Path, **options: Any) -> Vocoder:
    return load_vocoder(voice_file(name, folder), source=SOURCES.get(name), **options)


def error_of(name: str, folder: Path) -> float:
    """Through a file and the public call, with the recorded draws; full scale is 1."""
    data, vocoder = recorded(name), opened(name, folder)
    if name == WITHOUT_PITCH:
        made = vocoder(data["z"], speaker=data["g"])
    else:
        noise = {field: data[field] for field in ("initial_phase", "sine_noise")}
        assert {field: value.shape for field, value in noise.items()} == vocoder.noise_spec(1, data["z"].shape[2])
        made = vocoder(data["z"], data["f0"], data["g"], noise=noise)
    return float(np.abs(made - data["audio"]).max())
