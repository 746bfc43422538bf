"""What a run ran on: hardware, versions and the state of the checkout."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

import trt_svc
from trt_svc.backends.base import backends
from trt_svc.request import PACKAGES as BUILD_PACKAGES
from trt_svc.request import versions

ROOT = Path(__file__).parents[2]
PACKAGES = (
    *BUILD_PACKAGES,
    "triton",
    "cuda-core",
    "cuda-bindings",
    "pycuda",
    "nvidia-ml-py",
    "safetensors",
)
UNKNOWN = "unknown"


def has_gpu() -> bool:
    """Can torch use a CUDA GPU?"""
    return torch.cuda.is_available()


def hardware() -> dict[str, Any]:
    """GPUs and processor."""
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())] if has_gpu() else []
    gpus = [
        {
            "name": card.name,
            "memory_gib": round(card.total_memory / 2**30, 1),
            "capability": f"{card.major}.{card.minor}",
            "multiprocessors": card.multi_processor_count,
        }
        for card in cards
    ]
    return {"gpus": gpus, "cpu": _processor(), "cpu_threads": os.cpu_count() or 1, "system": platform.platform()}


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    return found[1] if found else platform.processor() or platform.machine()


def software() -> dict[str, str]:
    """Versions of everything that takes part."""
    here = {
        "trt_svc": trt_svc.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "this torch has none",
        "cudnn": str(torch.backends.cudnn.version()) if torch.backends.cudnn.is_available() else "not available",
        "driver": driver(),
    }
    return here | dict.fromkeys(PACKAGES, "not installed") | versions(PACKAGES)


def driver() -> str:
    """NVIDIA's driver: by NVML, as the kernel tells it, or the CUDA version that it brings."""
    if not has_gpu():
        return "no GPU"
    found = _driver_by_nvml() or _driver_by_kernel()
    return found or f"for CUDA {torch._C._cuda_getDriverVersion()}"


def _driver_by_nvml() -> str:
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            return str(pynvml.nvmlSystemGetDriverVersion())
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # a missing package, library or device
        return ""


def _driver_by_kernel() -> str:
    try:
        text = Path("/proc/driver/nvidia/version").read_text("utf-8", errors="replace")
    except OSError:
        return ""
    found = re.search(r"\b\d{3}\.\d+(?:\.\d+)?\b", text)
    return found[0] if found else ""


def backends_here() -> dict[str, str]:
    """What every backend says about this machine."""
    found = {}
    for name, kind in backends:
        try:
            probe = kind().probe()
            found[name] = probe.found
        except Exception as err:  # a report must not end here
            found[name] = f"{type(err).__name__}: {err}"
    return found


def project() -> dict[str, Any]:
    """The commit, and whether the files were changed since."""
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    return {"commit": commit or UNKNOWN, "dirty": UNKNOWN if changes is None else bool(changes)}


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def slug(gpus: list[dict[str, Any]]) -> str:
    """For the name of a report: such as nvidia-h200, 2x-nvidia-h200 or no-gpu."""
    if not gpus:
        return "no-gpu"
    name = re.sub(r"[^a-z0-9]+", "-", str(gpus[0]["name"]).lower()).strip("-") or "gpu"
    return name if len(gpus) == 1 else f"{len(gpus)}x-{name}"
