"""What the drivers of DDSP-SVC, Diffusion-SVC and DiffSinger share: NSF-HiFiGAN files as those hosts read them.

The three projects grew from one vocoder: they keep it as a weights file with a config.json beside it, and sing
44.1 kHz in frames of 512 samples.
"""

from __future__ import annotations

import atexit
import importlib.abc
import importlib.machinery
import json
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.hosts.scene import Audio
from trt_svc.checkpoints.presets import presets
from trt_svc.config import MelSpec
from trt_svc.features.mel import mel_filters
from trt_svc.svc.sinc import sinc_resample
from trt_svc.vocoders.healthy import healthy_net

RATE_HZ, HOP, BINS = 44100, 512, 128
QUIETER = 0.25
"""Hosts feed louder mels than the ones that the random weights are calibrated with."""
NORMED = ("conv_pre.", "conv_post.", "ups.", "resblocks.")
"""Layers that upstream stores under weight norm."""

UNUSED = {
    "einops", "fairseq", "FreeSimpleGUI", "gin", "h5py", "librosa", "lightning", "local_attention", "parselmouth",
    "pyworld", "resampy", "sklearn", "sounddevice", "soundfile", "torchaudio", "torchcrepe", "torchmetrics", "tqdm",
    "transformers",
}  # fmt: skip
"""What the hosts import for work that these scenes leave out."""


def work_folder() -> Path:
    """A folder for the small files that a host wants to read; gone when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="host-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def frames_of(full_size: bool) -> int:
    """About one second, or two."""
    return 172 if full_size else 86


def vocoder_file(
    folder: Path, full_size: bool, preset: str = "nsf_hifigan_44k", seed: int = 0, name: str = "model", **changes: Any
) -> Path:
    """Weights as upstream stores them with the config.json beside them: the published size, or a narrow one."""
    config = {**presets()[preset].config, **({} if full_size else {"upsample_initial_channel": 32}), **changes}
    net = healthy_net("nsf_hifigan", config, "mini" if config["mini_nsf"] else None, seed)
    for parameter in net.conv_post.parameters():
        parameter.mul_(QUIETER)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save({"generator": with_weight_norm(net.state_dict())}, folder / name)
    return folder / name


def with_weight_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the trunk as magnitude and direction."""
    stored: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.startswith(NORMED) and name.endswith(".weight"):
            stored[f"{name}_g"] = value.flatten(1).norm(dim=1).reshape(-1, 1, 1)
            stored[f"{name}_v"] = value
        else:
            stored[name] = value
    return stored


def glide_hz(frames: int) -> Audio:
    """A sung glide with a gap without voice."""
    f0 = 220 * 2 ** (0.4 * np.sin(np.arange(frames) / 20))
    f0[frames // 2 : frames // 2 + frames // 10] = 0
    return f0.astype(np.float32)


def sung(f0_hz: Audio, rate_hz: int = RATE_HZ) -> Audio:
    """Harmonics of a pitch, over a little hiss."""
    pitch = np.repeat(f0_hz, HOP)
    phase = 2 * np.pi * np.cumsum(pitch) / rate_hz
    audio = np.random.default_rng(0).normal(0, 0.01, len(pitch))
    for harmonic in range(1, 20):
        audio += 0.2 / harmonic * np.sin(harmonic * phase) * (pitch > 0)
    return audio.astype(np.float32)


class Resample(nn.Module):
    """In place of torchaudio's."""

    def __init__(self, orig_freq: int, new_freq: int, lowpass_filter_width: int = 6) -> None:
        super().__init__()
        self.rates = (int(orig_freq), int(new_freq))
        self.width = lowpass_filter_width

    def forward(self, audio: Tensor) -> Tensor:
        return torch.from_numpy(sinc_resample(audio.cpu().numpy(), *self.rates, self.width)).to(audio)


def _mel_basis(sr: int, n_fft: int, n_mels: int, fmin: float, fmax: float) -> Audio:
    return mel_filters(MelSpec(sr, n_fft, n_fft, HOP, n_mels, fmin, fmax))


class _Unused:
    """Stands for whatever is imported from a package that is not there; as a decorator or tqdm it does nothing."""

    def __new__(cls, *args: Any, **settings: Any) -> Any:
        return args[0] if args else super().__new__(cls)


class _Empty(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (_Unused,), {})


class _Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds packages where nobody else does, empty."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in UNUSED:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def do_without_packages() -> None:
    """Lets a host import what is not installed: empty packages, but for the two things that these scenes call."""
    sys.meta_path.append(_Absent())
    for name, content in (("librosa.filters", {"mel": _mel_basis}), ("torchaudio.transforms", {"Resample": Resample})):
        package = import_module(name)
        if isinstance(package, _Empty):
            package.__dict__.update(content)
