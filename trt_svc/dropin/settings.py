"""What a caller of `accelerate` asks for, and what that means where a module happens to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from trt_svc.backends.base import backends
from trt_svc.build_config import BuildConfig, Precision, ShapeRange
from trt_svc.errors import ConfigError, shown

USUAL_BACKEND, USUAL_PRECISION = "auto", "fp16"
HEARD_DB = {"fp32": 60.0, "mixed": 35.0, "fp16": 30.0, "bf16": 20.0}
"""Lowest SNR of an engine against the host's own sound on the host's own input. The engine's gate asks for more, but
a quiet input leaves less room, and a host in half precision is itself some 45 dB from its own float32."""
HALF_HOST_DB = 20.0


@dataclass(frozen=True)
class Settings:
    """How a host's vocoders are to be run."""

    backend: str = USUAL_BACKEND
    precision: str = USUAL_PRECISION
    build: BuildConfig | None = None
    min_snr_db: float | None = None
    chunk_frames: int | None = None
    workspace_bytes: int | None = None
    max_batch: int | None = None

    def __post_init__(self) -> None:
        if self.backend != USUAL_BACKEND:
            backends.get(self.backend)
        self.on("cpu")  # a wrong word is said before a host starts

    def with_wishes(self, wishes: Mapping[str, Any]) -> Settings:
        """The host's own wishes where the caller said nothing."""
        known = {"backend", "precision", "workspace_bytes", "max_batch"}
        odd = set(wishes) - known - {"off"}
        if odd:
            raise ConfigError("the host's settings", f"{shown(min(odd))} is unknown.", f"Known: {sorted(known)}.")
        usual = Settings()
        taken = {name: wishes[name] for name in known & set(wishes) if getattr(self, name) == getattr(usual, name)}
        settled = replace(self, **taken)
        # A limit for TensorRT is no option of the backend that the caller named instead.
        return settled if settled.backend.startswith("tensorrt") else replace(settled, workspace_bytes=None)

    def on(self, device_kind: str) -> BuildConfig:
        """The engine to build for modules on the CPU or on GPUs. CPUs are slower in half precision, and torch is
        the reference: they get fp32."""
        if self.build is not None:
            return self.build
        on_cpu = device_kind == "cpu"
        usual_half = self.precision == "fp16" and (on_cpu or self.backend == "torch")
        precision = "fp32" if usual_half else self.precision
        batch = ShapeRange(1, 1, self.max_batch) if self.max_batch else None
        device = "cpu" if on_cpu else "auto"
        return BuildConfig(
            self.backend, device, Precision(precision), batch=batch, workspace_bytes=self.workspace_bytes
        )

    def least_db(self, precision: str, host_is_half: bool) -> float:
        """What is asked of the first sounds."""
        if self.min_snr_db is not None:
            return self.min_snr_db
        return HALF_HOST_DB if host_is_half else HEARD_DB[precision]
