"""What runners do with torch tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from trt_svc.types import Array

if TYPE_CHECKING:
    import torch


def as_float32(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor itself where it is contiguous float32 on the device, else a copy made there; without gradients."""
    import torch

    return tensor.detach().to(device).to(torch.float32).contiguous()


def uploaded(array: Array, device: torch.device) -> torch.Tensor:
    """An array on the device; to a GPU through page-locked memory, on the current stream, without waiting."""
    import torch

    tensor = torch.from_numpy(np.require(array, np.float32, ["C", "W"]))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def downloaded(tensor: torch.Tensor) -> Array:
    """A tensor as an array; waits for the current stream."""
    import torch

    if tensor.device.type != "cuda":
        return np.asarray(tensor.numpy())
    staging = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    staging.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return np.array(staging.numpy())
