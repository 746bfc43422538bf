"""A stand-in for DDSP-SVC: the enhancer, the vocoder wrappers and the objects that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.hosts.openvpi import RATE, LazyNsfHifiGAN, RampDouble, VocoderDouble, known_as, loaded, mel_of
from trt_svc.svc.sinc import sinc_resample


class Generator(RampDouble):
    """It reads neither mini_nsf nor noise_sigma of its config."""

    __module__ = "nsf_hifigan.models"


def load_model(model_path: str, device: Any = "cpu") -> tuple[Any, Any]:
    return loaded(Generator, model_path)


@known_as("enhancer", "NsfHifiGAN")
class EnhancerNsfHifiGAN(nn.Module):
    """Loads at once, unlike the ones behind `Vocoder`."""

    def __init__(self, model_path: str, device: Any = None) -> None:
        super().__init__()
        self.device = device or "cpu"
        self.model, self.h = load_model(model_path, device=self.device)

    def sample_rate(self) -> int:
        return self.h.sampling_rate

    def hop_size(self) -> int:
        return self.h.hop_size

    def forward(self, audio: Tensor, f0: Tensor) -> tuple[Tensor, int]:
        with torch.no_grad():
            mel = mel_of(audio)
            return self.model(mel, f0[:, : mel.size(-1)]), self.h.sampling_rate


class Enhancer:
    __module__ = "enhancer"

    def __init__(self, enhancer_type: str, enhancer_ckpt: str, device: Any = None) -> None:
        self.device = device or "cpu"
        self.enhancer = EnhancerNsfHifiGAN(enhancer_ckpt, device=self.device)
        self.enhancer_sample_rate = self.enhancer.sample_rate()
        self.enhancer_hop_size = self.enhancer.hop_size()

    def enhance(
        self,
        audio: Tensor,
        sample_rate: int,
        f0: Tensor,
        hop_size: int,
        adaptive_key: float | str = 0,
        silence_front: float = 0,
    ) -> tuple[Tensor, int]:
        first = int(silence_front * sample_rate / hop_size)
        audio, f0 = audio[:, first * hop_size :], f0[:, first:]
        if adaptive_key == "auto":
            adaptive_key = max(0, np.ceil(12 * np.log2(float(f0.max()) / 760)))
        between_hz = 100 * round(self.enhancer_sample_rate * 2 ** (float(adaptive_key) / 12) / 100)
        audio = torch.from_numpy(sinc_resample(audio.numpy(), sample_rate, between_hz, 128))
        frames = audio.size(-1) // self.enhancer_hop_size + 1
        pitch = f0[0, :, 0].numpy()  # a view: the caller's own f0 is shifted too
        shift = self.enhancer_sample_rate / between_hz
        pitch *= shift
        times = np.arange(len(pitch)) * hop_size / sample_rate / shift
        at = np.arange(frames) * self.enhancer_hop_size / self.enhancer_sample_rate
        new_f0 = torch.from_numpy(np.interp(at, times, pitch)).float()[None]
        made, rate = self.enhancer(audio, new_f0)
        made = torch.from_numpy(sinc_resample(made.numpy(), between_hz, rate, 128))
        return F.pad(made, (round(first * hop_size / sample_rate * rate), 0)), rate


class NsfHifiGAN(LazyNsfHifiGAN):
    __module__ = "reflow.vocoder"
    scale = 1.0

    def forward(self, mel: Tensor, f0: Tensor) -> Tensor:
        if self.model is None:
            self.model, self.h = load_model(self.model_path, device=self.device)
        with torch.no_grad():
            return self.model(self.scale * mel.transpose(1, 2), f0)


class NsfHifiGANLog10(NsfHifiGAN):
    __module__ = "reflow.vocoder"
    scale = 0.434294


class Vocoder(VocoderDouble):
    __module__ = "reflow.vocoder"
    kinds = {"nsf-hifigan": NsfHifiGAN, "nsf-hifigan-log10": NsfHifiGANLog10}

    def extract(self, audio: Tensor, sample_rate: int = 0, keyshift: float = 0) -> Tensor:
        return self.vocoder.extract(audio, keyshift=keyshift)


@known_as("diffusion.vocoder", "Vocoder")
class DiffusionVocoder(Vocoder):
    """The same text again in the package of the older kind of models."""


class Unit2Wav(nn.Module):
    """Audio that stands for what the content gives; the vocoder is handed over by every call."""

    def forward(self, audio: Tensor, f0: Tensor, vocoder: Vocoder, silence_front: float = 0) -> Tensor:
        mel = vocoder.extract(audio[:, int(silence_front * RATE) :])
        return vocoder.infer(mel, f0[:, -mel.shape[1] :])


class SvcDDSP:
    """gui_reflow.py's; gui.py's has an enhancer in place of a vocoder."""

    __module__ = "__main__"

    def __init__(self) -> None:
        self.reflow_model = None

    def update_model(self, path: Path) -> None:
        self.reflow_model = Unit2Wav()
        self.vocoder = Vocoder("nsf-hifigan", str(path), device="cpu")

    def infer(self, audio: Tensor, f0: Tensor) -> Tensor:
        with torch.no_grad():
            return self.reflow_model(audio, f0, vocoder=self.vocoder).squeeze()


@known_as("gui", "SvcDDSP")
class EnhancingSvcDDSP:
    """gui.py's."""

    def __init__(self) -> None:
        self.enhancer = None

    def update_model(self, path: Path) -> None:
        self.enhancer = Enhancer("nsf-hifigan", str(path), device="cpu")


class DiffGtMel:
    """The older models' own holder."""

    __module__ = "diffusion.infer_gt_mel"

    def __init__(self) -> None:
        self.model = self.vocoder = None

    def flush_model(self, path: Path) -> None:
        self.model, self.vocoder = Unit2Wav(), DiffusionVocoder("nsf-hifigan", str(path), device="cpu")

    def infer(self, audio: Tensor, f0: Tensor) -> Tensor:
        return self.vocoder.infer(self.vocoder.extract(audio, RATE), f0)
