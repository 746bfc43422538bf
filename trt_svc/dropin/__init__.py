"""Faster vocoders inside other people's programs, which stay as they are.

`trt_svc.accelerate(obj)` for a live object, `trt-svc run -- script.py` for a script, `DropIn.load(path)` for those
who write their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trt_svc.dropin.module import DropIn

__all__ = ["DropIn"]


def __getattr__(name: str) -> object:
    if name == "DropIn":  # late: it needs torch
        from trt_svc.dropin.module import DropIn

        return DropIn
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
