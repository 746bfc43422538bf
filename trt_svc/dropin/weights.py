"""Has a live module changed? Asked before every call, so the cheap answer comes first."""

from __future__ import annotations

import hashlib
import weakref
from typing import Any

import torch
from torch import nn

PLAIN = (type(None), bool, int, float, str)


class Seen:
    """A module as it was when it was looked at: its parameters, and what its layers do beside their own work.

    Holds none of them: the host may let go at any time.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = weakref.ref(module)
        self.layers = _layers(module)
        """Forwards and hooks of its layers, and its own plain attributes (a gain, a switch)."""
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
        module = self._module()
        return module is None or _layers(module) != self.layers


def _layers(module: nn.Module) -> list[Any]:
    parts = [vars(part) for part in module.modules() if part is not module]
    return [
        *((id(of.get("forward")), len(of["_forward_hooks"]), len(of["_forward_pre_hooks"])) for of in parts),
        *((name, value) for name, value in vars(module).items() if isinstance(value, PLAIN) and _is_its_own(name)),
    ]


def _is_its_own(name: str) -> bool:
    """An attribute of the host's, not of torch's."""
    return name != "training" and not name.startswith("_")


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
