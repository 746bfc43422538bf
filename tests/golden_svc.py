"""Golden data of the SVC pipeline: arrays made by the unmodified upstream code on CPU, and its formula numbers."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from torch import nn

SUBSET = Path(__file__).parent / "data" / "golden-svc"
COMPLETE = Path(__file__).parents[2] / "shared" / "golden-svc"
FOLDER = COMPLETE if COMPLETE.is_dir() else SUBSET
"""The whole set where it lies beside the checkout, else the subset that ships with the tests."""

Module = TypeVar("Module", bound=nn.Module)
Entry = torch.Tensor | np.ndarray | Sequence[int]
"""One weight of a state dict: itself, or just its shape (then it is float)."""

_TO_64_BITS = (1 << 64) - 1


def arrays(name: str) -> dict[str, np.ndarray]:
    """Every array of `<name>.npz` (`name` may hold a folder: "e2e/outputs")."""
    with np.load(FOLDER / f"{name}.npz") as data:
        return {key: data[key] for key in data.files}


def meta(name: str) -> dict[str, Any]:
    """What `<name>.json` says."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def u(name: str, shape: Sequence[int], seed: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float64, that follow from their name, shape and seed alone."""
    base = ((zlib.crc32(name.encode()) << 20) ^ (seed * 0x9E3779B1)) & _TO_64_BITS
    z = np.arange(1, math.prod(shape) + 1, dtype=np.uint64) + np.array([base], dtype=np.uint64)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return ((z >> np.uint64(11)).astype(np.float64) / 2.0**53).reshape(tuple(shape))


def normal(index: int, shape: Sequence[int], seed: int) -> np.ndarray:
    """The `index`-th Gaussian draw of one infer call of the end-to-end cases, float64."""
    radius = np.sqrt(-2 * np.log(1 - u(f"draw{index}.u1", shape, seed)))
    return radius * np.cos(2 * np.pi * u(f"draw{index}.u2", shape, seed))


def uniform(index: int, shape: Sequence[int], seed: int) -> np.ndarray:
    """The `index`-th uniform draw of one infer call of the end-to-end cases, float64."""
    return u(f"draw{index}.u1", shape, seed)


@overload
def fill(module_or_state: Module, seed: int, gain: float = 1.0) -> Module: ...
@overload
def fill(module_or_state: Mapping[str, Entry], seed: int, gain: float = 1.0) -> dict[str, torch.Tensor]: ...
def fill(module_or_state: Any, seed: int, gain: float = 1.0) -> Any:
    """The module itself with formula weights (buffers included), or a new state dict; integer entries stay."""
    if isinstance(module_or_state, nn.Module):
        module_or_state.load_state_dict(_filled(module_or_state.state_dict(), seed, gain))
        return module_or_state
    return _filled(module_or_state, seed, gain)


def _filled(state: Mapping[str, Entry], seed: int, gain: float) -> dict[str, torch.Tensor]:
    shapes = {name: _shape(entry) for name, entry in state.items() if _is_float(entry)}
    made = {name: _weight(name, shape, seed, gain) for name, shape in shapes.items()}
    for name in shapes:
        if name.endswith("weight_g"):
            made[name] = _norm(made[name[:-1] + "v"], shapes[name]) * (1 + 0.2 * (u(name, shapes[name], seed) - 0.5))
    kept = {name: torch.as_tensor(entry) for name, entry in state.items() if name not in shapes}
    return {
        name: kept[name] if name in kept else torch.from_numpy(np.asarray(made[name], dtype=np.float32))
        for name in state
    }


def _is_float(entry: Entry) -> bool:
    if isinstance(entry, torch.Tensor):
        return entry.is_floating_point()
    return not isinstance(entry, np.ndarray) or np.issubdtype(entry.dtype, np.floating)


def _shape(entry: Entry) -> tuple[int, ...]:
    return tuple(entry.shape) if isinstance(entry, (torch.Tensor, np.ndarray)) else tuple(entry)


def _weight(name: str, shape: tuple[int, ...], seed: int, gain: float) -> np.ndarray:
    centred = u(name, shape, seed) - 0.5
    if name.endswith(("running_var", "gamma")) or (len(shape) == 1 and name.endswith("weight")):
        return 1 + 0.2 * centred
    if len(shape) <= 1:
        return 0.2 * centred
    return 2 * centred * gain * math.sqrt(3 / math.prod(shape[1:]))


def _norm(direction: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The length of `weight_v` over every axis in which `weight_g` has size 1."""
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return np.sqrt((direction**2).sum(axis=axes, keepdims=True))
