"""What this machine has and what would help: versions, GPU, and every backend with the reason it cannot run."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass

import trt_svc
from trt_svc.backends.base import backends
from trt_svc.features.f0.base import F0Estimator, f0_estimators
from trt_svc.features.f0.weights import missing_weights
from trt_svc.hardware import all_gpus
from trt_svc.optional import install_line, is_installed, require
from trt_svc.request import PACKAGES as BUILD_PACKAGES
from trt_svc.request import versions

PACKAGES = (*BUILD_PACKAGES, "triton", "pycuda", "cuda-core", "soundfile", "soxr", "safetensors", "swift-f0", "pyworld")


@dataclass(frozen=True)
class Finding:
    """One backend or pitch method."""

    name: str
    usable: bool
    builds: bool
    """Can it compile engines here, even where it cannot run them?"""
    found: str
    advice: str


@dataclass(frozen=True)
class Report:
    trt_svc: str
    python: str
    system: str
    cpu_threads: int
    packages: dict[str, str]
    gpus: list[str]
    gpu_note: str
    backends: list[Finding]
    f0: list[Finding]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def examine_machine() -> Report:
    """Looks at everything and never fails."""
    gpus, note = all_gpus()
    if not is_installed("pynvml"):
        note += f"; for details of the driver: {install_line('pynvml')}"
    found = []
    for name, backend in backends:
        probe = backend().probe()
        found.append(Finding(name, probe.runs, probe.builds, probe.found, probe.advice))
    return Report(
        trt_svc=trt_svc.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        cpu_threads=os.cpu_count() or 1,
        packages=dict.fromkeys(PACKAGES, "not installed") | versions(PACKAGES),
        gpus=[str(gpu) for gpu in gpus],
        gpu_note=note,
        backends=found,
        f0=_pitch_methods(),
    )


def _pitch_methods() -> list[Finding]:
    return [_pitch_method(name, method) for name, method in f0_estimators]


def _pitch_method(name: str, method: type[F0Estimator]) -> Finding:
    missing = missing_weights(method)
    if missing is not None:
        return Finding(name, False, False, f"{missing.file_names[0]} is not here", missing.advice)
    try:
        require(method.module, f"f0 method {name}")
    except ImportError:
        state = "cannot be imported" if is_installed(method.module) else "is not installed"
        return Finding(name, False, False, f"{method.module} {state}", install_line(method.module))
    return Finding(name, True, False, f"{method.module} is here", "")
