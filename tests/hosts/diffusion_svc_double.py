"""A stand-in for Diffusion-SVC: `DiffusionSVC` and the vocoder wrapper in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.hosts.openvpi import RATE, LazyNsfHifiGAN, RampDouble, StepSource, VocoderDouble, loaded


class Generator(RampDouble):
    __module__ = "nsf_hifigan.models"
    source = StepSource


def load_model(model_path: str, device: Any = "cpu") -> tuple[Any, Any]:
    return loaded(Generator, model_path)


class NsfHifiGAN(LazyNsfHifiGAN):
    __module__ = "diffusion.vocoder"
    scale = 1.0

    def forward(self, mel: Tensor, f0: Tensor) -> Tensor:
        if self.model is None:
            self.model, self.h = load_model(self.model_path, device=self.device)
        with torch.no_grad():
            return self.model(self.scale * mel.transpose(1, 2), f0)


class Vocoder(VocoderDouble):
    __module__ = "diffusion.vocoder"
    kinds = {"nsf-hifigan": NsfHifiGAN}

    def extract(self, audio: Tensor, sample_rate: int, keyshift: float = 0) -> Tensor:
        """The sample rate must be given, unlike in DDSP-SVC's class of the same name."""
        return self.vocoder.extract(audio, keyshift=keyshift)


def load_model_vocoder(model_path: Path, loaded_vocoder: Vocoder | None = None) -> Vocoder:
    """A naive model in front of a diffusion model shares its vocoder."""
    return loaded_vocoder or Vocoder("nsf-hifigan", str(model_path), device="cpu")


class DiffusionSVC:
    __module__ = "tools.infer_tools"

    def __init__(self, device: Any = None) -> None:
        self.device = device or "cpu"
        self.model_path: Path | None = None
        self.naive_model_path: Path | None = None
        self.vocoder: Any = None

    def load_model(self, model_path: Path) -> None:
        self.model_path = model_path
        self.vocoder = load_model_vocoder(model_path)

    def flush(self, model_path: Path | None = None, naive_model_path: Path | None = None) -> None:
        if model_path != self.model_path:
            self.load_model(model_path)
        if naive_model_path not in (None, self.naive_model_path):
            self.load_naive_model(naive_model_path)

    def load_naive_model(self, naive_model_path: Path) -> None:
        self.naive_model_path = naive_model_path
        load_model_vocoder(naive_model_path, loaded_vocoder=self.vocoder)

    @torch.no_grad()
    def mel2wav(self, mel: Tensor, f0: Tensor, start_frame: int = 0) -> Tensor:
        if start_frame == 0:
            return self.vocoder.infer(mel, f0)
        audio = self.vocoder.infer(mel[:, start_frame:], f0[:, start_frame:])
        return F.pad(audio, (start_frame * self.vocoder.vocoder_hop_size, 0))

    @torch.no_grad()
    def infer(self, audio: Tensor, f0: Tensor) -> Tensor:
        """The recording's own mel stands for what the diffusion makes."""
        return self.mel2wav(self.vocoder.extract(audio, RATE), f0)
