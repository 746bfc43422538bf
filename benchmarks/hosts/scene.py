"""What a driver shows of its host, and what drivers have in common.

A driver is a module of this folder with REPOSITORY (the host's folder under HOSTS), scenes(root, full_size), which
makes the unmodified host's own classes with seeded random weights, and where it needs any, PACKAGES: the names of
python packages that may be missing on a machine (its checks are skipped there; every other failed import is a failed
check). One host per process: their module names clash.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from inspect import unwrap
from pathlib import Path
from types import MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Audio = np.ndarray[Any, Any]
LAYER_RMS, AUDIO_RMS = 0.7, 0.15


class NotThere(Exception):
    """Something this host needs is not on this machine; the checks skip it and say so."""


@dataclass(frozen=True)
class Scene:
    """One way in which a host sings."""

    name: str
    """As its users know it: "enhancer.Enhancer.enhance"."""
    obj: Any
    """What is handed to `accelerate`."""
    sing: Callable[[], Audio | dict[str, Audio]]
    """Seeds torch, calls the host as its own scripts do, gives the audio."""
    after_reload: Callable[[], None] | None = None
    """Makes the host load or switch its model again."""
    vocoder: nn.Module | None = None
    """The module whose time is compared."""


def on_path(root: Path) -> None:
    """The host's folder as the first place to import from, as if its own script had been started there."""
    sys.path.insert(0, str(root))


def stub(name: str, **contents: Any) -> ModuleType:
    """An empty package in place of one that the host imports and these scenes do not need."""
    module = ModuleType(name)
    module.__path__ = []
    module.__dict__.update(contents)
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent:
        setattr(sys.modules.get(parent) or stub(parent), last, module)
    return module


@torch.no_grad()
def level(generator: nn.Module, sing: Callable[[], Any], last: str = "conv_post") -> None:
    """Scales a random generator's layers so that what `sing` makes of it is neither silent nor clipped.

    Layers under weight norm are scaled by their magnitudes: the host may fold them later.
    """

    def scale(layer: nn.Module, _: Any, out: Tensor) -> Tensor:
        if layer not in done:
            target = AUDIO_RMS if names[layer] == last else LAYER_RMS / 2 if "convs" in names[layer] else LAYER_RMS
            done[layer] = target / float(out.float().square().mean().sqrt().clamp_min(1e-6))
            for name, parameter in layer.named_parameters():
                if not name.endswith(("weight_v", "original1")):
                    parameter.mul_(done[layer])
            return out * done[layer]
        return out

    names = {m: name for name, m in generator.named_modules() if isinstance(m, (nn.Conv1d, nn.ConvTranspose1d))}
    done: dict[nn.Module, float] = {}
    hooks = [layer.register_forward_hook(scale) for layer in names]
    watched = [m for m in generator.modules() if hasattr(type(m).forward, "__wrapped__")]
    for module in watched:  # `trt-svc run` must not meet it before it is finished
        module.forward = MethodType(unwrap(type(module).forward), module)
    try:
        sing()
    finally:
        for hook in hooks:
            hook.remove()
        for module in watched:
            del module.__dict__["forward"]


def log_mel_like(bands: int, frames: int, rows: int = 1, seed: int = 0) -> Tensor:
    """Values in the range of a natural-log mel spectrogram, alike in neighbouring frames and bands."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.normal(-5, 3, (rows, 1, bands // 8 + 2, frames // 6 + 2)).astype(np.float32))
    return nn.functional.interpolate(coarse, (bands, frames), mode="bilinear")[:, 0]


def as_dict(heard: Audio | dict[str, Audio]) -> dict[str, Audio]:
    """The audio of a scene by name, each as float32."""
    named = heard if isinstance(heard, dict) else {"audio": heard}
    return {name: np.array(audio, np.float32) for name, audio in named.items()}
