"""The forms in which the programs are compiled: what is fixed when they are, and what they are called with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trt_svc.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

BITS = {"fp32": 32, "fp16": 16, "bf16": 16}
"""Of what a kernel reads and writes, by Triton's words."""
ALIGNMENT = 16
"""Bytes that one load brings; pointers of forms that load several samples at once are multiples of it."""
LANES = 128
WARPS = LANES // 32
MOST_LANES = 2**31 - LANES


@dataclass(frozen=True)
class Variant:
    """One compiled form of a program."""

    module: str
    """In `programs`."""
    program: str
    """The function in it."""
    types: tuple[tuple[str, str], ...]
    """Name and type of every argument, in order: "*fp16" is a pointer."""
    constants: tuple[tuple[str, int], ...]
    """The program's compile-time constants, by name."""
    dtype: str
    """Of the samples."""
    aligned: bool = False
    """Its pointers are known to be multiples of ALIGNMENT."""
    fuses: bool = True
    """May the compiler fuse a product and a sum?"""

    @property
    def name(self) -> str:
        """Such as antialiased_snake-fp16-WHOLE1-GROUP8."""
        told = [f"{key}{value}" for key, value in self.constants if key not in ("LANES", "SAMPLES", "QUICK")]
        return "-".join([self.program, self.dtype, *told])


def widest_group(dtype: str) -> int:
    """Samples in one load."""
    return 8 * ALIGNMENT // BITS[dtype]


def dtype_of(x: Tensor) -> str:
    """Triton's word for the type of a tensor."""
    import torch

    names = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
    if x.dtype not in names:
        raise InputError(f"a fused kernel on {x.dtype}", "there is none.", "Give float32, float16 or bfloat16.")
    return names[x.dtype]


def group_for(samples: int, *tensors: Tensor) -> int:
    """Samples that a lane loads at once from rows of so many, or 1 where rows or tensors are not aligned."""
    group = widest_group(dtype_of(tensors[0]))
    return group if samples % group == 0 and are_aligned(*tensors) else 1


def are_aligned(*tensors: Tensor) -> bool:
    return all(tensor.data_ptr() % ALIGNMENT == 0 for tensor in tensors)
