"""Have a live module's weights changed? Asked before every call, so the cheap answer comes first."""

from __future__ import annotations

import hashlib
import weakref

import torch
from torch import nn


class Seen:
    """A module's parameters as they were when it was looked at. Holds none of them: the host may let go at any time."""

    def __init__(self, module: nn.Module) -> None:
        self._places = [
            (weakref.ref(part), name, weakref.ref(value))
            for part in module.modules()
            for name, value in [*part._parameters.items(), *part._modules.items()]
            if value is not None
        ]
        self._marks = [_mark(value()) for *_, value in self._places]

    def changed(self) -> bool:
        """Is any of them another one, written to, or somewhere else?"""
        for (part, name, value), mark in zip(self._places, self._marks, strict=True):
            owner, kept = part(), value()
            if owner is None or kept is None or _mark(kept) != mark:
                return True
            if owner._parameters.get(name) is not kept and owner._modules.get(name) is not kept:
                return True
        return False


def _mark(value: nn.Module | nn.Parameter | None) -> tuple[int, float] | None:
    """Writing in place raises a tensor's version, moving it changes its address."""
    if not isinstance(value, torch.Tensor):
        return None
    if not value.is_inference():
        return value.data_ptr(), value._version
    return value.data_ptr(), float(value.reshape(-1)[0]) if value.numel() else 0  # these have no versions


def voice_of(module: nn.Module) -> str:
    """Hash of the weights as half precision sees them: a module that was halved and made float again is the same."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        half = value.detach().to("cpu", torch.float16).contiguous()
        digest.update(f"{name}{tuple(half.shape)}".encode())
        digest.update(half.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters are."""
    first = next(module.parameters(), None)
    return torch.device("cpu") if first is None else first.device
