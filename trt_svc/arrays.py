"""The few things done to arrays that may be NumPy's or torch's; torch is imported only where a tensor is."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trt_svc.types import Array


def is_tensor(value: object) -> bool:
    """Is it a torch tensor? Answered without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def like(given: Any, made: Any) -> Any:
    """`made` as the same kind of thing as `given`, on the same device."""
    if not is_tensor(given):
        return on_host(made)
    import torch

    return torch.as_tensor(made).to(given.device)


def on_host(array: Any) -> Array:
    """As a NumPy array."""
    return array if isinstance(array, np.ndarray) else np.asarray(array.detach().float().cpu().numpy())


def rows_of(inputs: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
    """Some rows of a batch."""
    return {name: value[start:stop] for name, value in inputs.items()}


def stacked(parts: Sequence[Any]) -> Any:
    """Batches one under the other."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    import torch

    return torch.cat(list(parts))


def joined(parts: Sequence[Any]) -> Any:
    """Pieces one behind the other in time (the last axis)."""
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts, axis=-1)
    import torch

    device = next(part.device for part in parts if is_tensor(part))
    return torch.cat([torch.as_tensor(part, device=device) for part in parts], dim=-1)


def repeated(array: Any, times: int) -> Any:
    """A last axis of length 1, so many times."""
    return array.expand(-1, -1, times).contiguous() if is_tensor(array) else np.repeat(array, times, axis=-1)


def copied(array: Any) -> Any:
    """With memory of its own."""
    return array.copy() if isinstance(array, np.ndarray) else array.clone()
