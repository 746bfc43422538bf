"""Content units brought from the encoder's frames to those of the network."""

from __future__ import annotations

import numpy as np

from trt_svc.errors import InputError, shown
from trt_svc.inputs import as_array
from trt_svc.types import Array

LEFT = "left"
MODES = (LEFT, "nearest", "nearest-exact", "linear", "area")
"""`left` is so-vits-svc's own; the others are those of torch's interpolation."""


def repeated_units(units: Array, frames: int, mode: str = LEFT) -> Array:
    """Units (..., n) stretched or squeezed to (..., frames)."""
    units = _checked(units, frames, mode)
    if mode == LEFT:
        return np.ascontiguousarray(units[..., left_places(units.shape[-1], frames)])
    import torch

    flat = torch.from_numpy(units.reshape(1, -1, units.shape[-1]))
    made = torch.nn.functional.interpolate(flat, size=frames, mode=mode)
    return np.asarray(made.numpy().reshape(*units.shape[:-1], frames), np.float32)


def left_places(units: int, frames: int) -> np.ndarray:
    """Which unit each of `frames` shows in mode `left`: the one that has begun, one step per frame at most.

    The second rule makes fewer frames than units show the first units one by one and leave out the rest.
    """
    frame = np.arange(frames, dtype=np.int64)
    return np.minimum(frame, frame * units // max(frames, 1))


def _checked(units: Array, frames: int, mode: str) -> Array:
    doing = f"stretching units to {frames} frames"
    if mode not in MODES:
        raise InputError(doing, f"there is no mode {shown(mode)}.", f"Known: {', '.join(MODES)}.")
    units = as_array(doing, units)
    if units.ndim == 0 or units.size == 0 or frames < 1:
        advice = "The piece is too short: give the encoder at least 25 ms."
        raise InputError(doing, f"the units have shape {units.shape}.", advice)
    return units
