"""The fused kernels in the form that TensorRT compiles into an engine: PTX, shipped, so users need no compiler.

PTX of an old GPU runs on every newer one, so there is one text per type of the samples; the driver makes it fit the
GPU when the engine is built. `building` writes them.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).parents[2] / "assets" / "plugin_kernels.json.xz"
THREADS_PER_WARP = 32


@dataclass(frozen=True)
class PluginKernel:
    """A compiled form of `trt_svc.kernels.programs.plugin_snake`."""

    name: str
    """As the PTX calls it."""
    ptx: str
    target: int
    """The oldest GPU generation that runs it."""
    warps: int
    shared_bytes: int
    samples: int
    """Of a row, that one thread makes."""
    lanes: int
    """Threads of a block that make samples."""

    @property
    def threads(self) -> int:
        return self.warps * THREADS_PER_WARP


@cache
def manifest() -> Mapping[str, Any]:
    """What is shipped: `sources` (hash of what it was compiled from), `triton` (version) and `kernels` by type."""
    with lzma.open(SHIPPED) as file:
        found: dict[str, Any] = json.load(file)
    return found


def kernel_for(dtype: str) -> PluginKernel:
    """The kernel for samples of a type, in Triton's words: fp32, fp16 or bf16."""
    return PluginKernel(**manifest()["kernels"][dtype])
