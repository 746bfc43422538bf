"""Without torch: the GPU's memory by other packages, and engines that run in a process that never imports it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.gpu.checks_engines import settings, sung
from tests.gpu.common import check_each, folder, needs_gpu, truth
from tests.gpu.machine import ROOT
from tests.gpu.suite import Figures, Skip
from trt_svc.optional import is_installed

DRIVERS = ("torch", "cuda-core", "pycuda")
MODULES = {"cuda-core": ("cuda.core", "cuda.bindings"), "pycuda": ("pycuda",), "torch": ("torch",)}
LONGEST_S = 120.0


def alone(note: Figures, *words: str) -> None:
    """Runs `tests.gpu.torch_free` and takes its figures over."""
    command = [sys.executable, "-m", "tests.gpu.torch_free", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST_S, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr.strip()[-500:]}"
    note.update(json.loads(done.stdout.strip().splitlines()[-1]))


def here(driver: str) -> None:
    missing = [module for module in MODULES[driver] if not is_installed(module)]
    if missing:
        raise Skip(f"{', '.join(missing)} is not installed")


@check_each(*DRIVERS)
def memory_through_a_driver(note: Figures, device: str, driver: str) -> None:
    """Bytes to the GPU and back by one package, in a process of its own."""
    here(driver)
    needs_gpu(device)
    alone(note, "memory", driver)


@check_each(
    ("tensorrt", "cuda-core"), ("tensorrt", "pycuda"), ("tensorrt-rtx", "cuda-core"), ("tensorrt-rtx", "pycuda")
)
def an_engine_without_torch(note: Figures, device: str, backend: str, driver: str) -> None:
    """An engine from the cache by another process, which must not import torch."""
    build = settings(backend, "fp32", device)
    here(driver)
    from trt_svc.build import build_engine

    build_engine("demo", build)
    with folder() as there:
        np.savez(there / "given.npz", **sung(), expected=truth(sung()))
        words = {
            "precision": "fp32",
            "frames": str(build.frames[0]),
            "batch": str(build.batch),
            "targets": build.targets,
        }
        (Path(there) / "settings.json").write_text(json.dumps(words))
        alone(note, "engine", driver, backend, str(there))
