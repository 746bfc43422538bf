"""A neural stage of the conversion by itself: what runs it, torch or an engine, is decided elsewhere.

Between stages everything is a NumPy array (batch, channels, positions) in float32; what a stage takes and gives is
named, so that the same call serves a torch module, a compiled engine and a stand-in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import nn

from trt_svc.build_config import ShapeRange
from trt_svc.types import Array
from trt_svc.vocoders.base import CoreInput

Run: TypeAlias = Callable[[Mapping[str, Array]], Array]
"""Runs a stage: its inputs by name -> its output; may be called from any thread."""
Examples: TypeAlias = Callable[[int, int, int], dict[str, Array]]
"""Inputs like real ones for (batch, length, seed): a gate is measured on them."""


FEW = ShapeRange(1, 1, 4)


@dataclass(frozen=True)
class StageNet:
    """What an engine is built of: a module, its inputs in order, the lengths it is built for."""

    name: str
    """As reports name it: "content encoder", "f0", "voice encoder", "flow" ..."""
    module: nn.Module
    inputs: tuple[CoreInput, ...]
    """`per_frame` 0: one position, however long the others are."""
    examples: Examples
    lengths: ShapeRange
    """Lengths (of inputs with `per_frame` 1) that an engine takes; longer ones run in torch, in bounded memory."""
    float32: tuple[str, ...] = ()
    """Layers (shell patterns of module names) that stay float32 in half precision."""
    whole_float32: bool = False
    """Is half precision out of the question for all of it, as for distances between long vectors?"""
    in_torch: Run | None = None
    """How torch runs it in bounded memory, where the module as a whole would not be."""
    on_cpu: Callable[[], nn.Module] | None = None
    """Makes the same module with fewer multiplications, for engines on a CPU."""
    batch: ShapeRange = FEW


class StageOpener(Protocol):
    """Decides what runs a stage."""

    def __call__(self, stage: StageNet) -> Run: ...


def in_torch(stage: StageNet) -> Run:
    """The stage in torch float32, on the device of its weights."""
    if stage.in_torch is not None:
        return stage.in_torch
    names = [spec.name for spec in stage.inputs]

    @torch.inference_mode()
    def run(inputs: Mapping[str, Array]) -> Array:
        device = next((p.device for p in [*stage.module.parameters(), *stage.module.buffers()]), torch.device("cpu"))
        made = stage.module(*[torch.as_tensor(inputs[name], device=device) for name in names])
        array: Array = made.cpu().numpy()
        return array

    return run
