"""TensorRT-RTX: compiles ahead of time for GeForce RTX GPUs, also on machines without one."""

from __future__ import annotations

from typing import ClassVar

from trt_svc.backends.base import Probe, backends
from trt_svc.backends.tensorrt import TensorRT

PORTABLE_TARGETS = ("sm86", "sm89", "sm120")
"""What an engine is built for when nothing is asked: Ampere, Ada and Blackwell cards. Turing has to be asked for."""


@backends.register("tensorrt-rtx")
class TensorRTRtx(TensorRT):
    name = "tensorrt-rtx"
    module: ClassVar[str] = "tensorrt_rtx"
    default_targets: ClassVar[tuple[str, ...]] = PORTABLE_TARGETS

    def probe(self) -> Probe:
        found = super().probe()
        if not found.builds or found.runs:
            return found
        advice = "Take its engines to a machine with an RTX GPU (`trt-svc engines export`)."
        return Probe(True, False, f"{found.found}: compiles here, runs there", advice)
