"""TensorRT-RTX: compiles ahead of time for GeForce RTX GPUs, also on machines without one."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from trt_svc.backends.base import Probe, backends
from trt_svc.backends.tensorrt import TensorRT
from trt_svc.build_config import BuildConfig
from trt_svc.hardware import first_gpu

PORTABLE_TARGETS = ("sm86", "sm89", "sm120")
"""What an engine is built for when nothing is asked: Ampere, Ada and Blackwell cards. Turing has to be asked for."""


def _generation(target: str) -> int:
    return int(target.removeprefix("sm"))


@backends.register("tensorrt-rtx")
class TensorRTRtx(TensorRT):
    name = "tensorrt-rtx"
    module: ClassVar[str] = "tensorrt_rtx"
    precisions = ("fp32", "fp16")  # its transposed convolutions take no bfloat16
    options = frozenset({"workspace_bytes", "optimization_level", "strip_weights", "targets"})
    default_targets: ClassVar[tuple[str, ...]] = PORTABLE_TARGETS
    plugin_rewrites: ClassVar[tuple[str, ...]] = ()  # it has no plugins

    def settled(self, config: BuildConfig) -> BuildConfig:
        return replace(super().settled(config), targets=tuple(sorted(set(self.targets(config)), key=_generation)))

    def can_run(self, config: BuildConfig) -> bool:
        gpu = first_gpu()
        return super().can_run(config) and gpu is not None and gpu.capability in self.targets(config)

    def why_not_here(self, config: BuildConfig) -> str:
        gpu, targets = first_gpu(), self.targets(config)
        if gpu is None or gpu.capability in targets:
            return super().why_not_here(config)
        return f"its engines are built for {', '.join(targets)}; this GPU is {gpu.capability}"

    def probe(self) -> Probe:
        found = super().probe()
        if not found.builds or found.runs:
            return found
        advice = "Take its engines to a machine with an RTX GPU (`trt-svc engines export`)."
        return Probe(True, False, f"{found.found}: compiles here, runs there", advice)
