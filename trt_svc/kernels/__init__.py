"""Fused kernels for NVIDIA GPUs: what sits between the convolutions, in one pass over memory.

Written in Triton (`programs`), compiled ahead for every kind of GPU (`ahead`) and shipped, so that users need no
compiler (`launch`). Each module has `run` or its like, for CUDA tensors of float32, float16 or bfloat16 (arithmetic is
float32 throughout), and `reference`, the same in plain torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def available(device: torch.device | str) -> bool:
    """Do the kernels run there? On the CPU only in Triton's interpreter (TRITON_INTERPRET=1), which is for tests."""
    from trt_svc.kernels.launch import available as runs_on

    return runs_on(device)
