"""The GPUs of this machine: as torch numbers them where it is in use and has CUDA, else by NVML."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from trt_svc.optional import is_installed, require


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU."""

    name: str
    capability: str
    """Such as sm89."""
    total_bytes: int
    free_bytes: int
    driver: str

    def identity(self) -> dict[str, str]:
        """What an engine compiled for it depends on."""
        return {"gpu": self.name, "capability": self.capability, "driver_major": self.driver.partition(".")[0]}

    @staticmethod
    def absent() -> dict[str, str]:
        return {"gpu": "none", "capability": "none", "driver_major": "none"}

    def __str__(self) -> str:
        gib = 2**30
        memory = f"{self.free_bytes / gib:.1f} of {self.total_bytes / gib:.1f} GiB free"
        return f"{self.name}, {self.capability}, {memory}, driver {self.driver}"


def all_gpus() -> tuple[list[Gpu], str]:
    """The GPUs in CUDA's order where torch can tell it, or an empty list and the reason.

    torch is imported for it only where NVML is not enough.
    """
    if "torch" not in sys.modules and is_installed("pynvml"):
        found, reason = _alone_by_nvml()
        if found is not None:
            return found, reason
    import torch

    if torch.cuda.is_available():
        return _by_torch(torch), ""
    if is_installed("pynvml"):
        try:
            return _by_nvml(), ""
        except Exception as err:  # a missing driver has many faces
            return [], f"no NVIDIA driver answers ({err})"
    return [], "this torch has no CUDA" if torch.version.cuda is None else "torch finds no CUDA GPU"


def _alone_by_nvml() -> tuple[list[Gpu] | None, str]:
    """The same from NVML alone; None where its order need not be CUDA's."""
    try:
        found = _by_nvml()
    except Exception as err:  # a missing driver has many faces
        return [], f"no NVIDIA driver answers ({err})"
    hidden = "CUDA_VISIBLE_DEVICES" in os.environ
    different = len({(gpu.name, gpu.capability) for gpu in found}) > 1
    return (None, "") if found and (hidden or different) else (found, "" if found else "NVML finds no GPU")


def free_memory() -> str:
    """Free memory of the GPU, or of the machine where there is none, for a message."""
    gpus, _ = all_gpus()
    if gpus:
        return f"{gpus[0].free_bytes / 2**20:.0f} MiB free on {gpus[0].name}"
    try:
        pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on this system
        return "free memory unknown"
    return f"{pages / 2**20:.0f} MiB of main memory free"


@lru_cache(maxsize=1)
def first_gpu() -> Gpu | None:
    """The GPU that engines are built for, or None."""
    found, _ = all_gpus()
    return found[0] if found else None


def _by_torch(torch: Any) -> list[Gpu]:
    """Honours CUDA_VISIBLE_DEVICES and CUDA's own order, which NVML does not."""
    driver = f"CUDA {torch.version.cuda}"
    if is_installed("pynvml"):
        try:
            driver = _by_nvml()[0].driver
        except Exception as err:  # a missing driver has many faces
            driver = f"{driver} ({type(err).__name__})"
    found = []
    for i in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(i)
        free, total = torch.cuda.mem_get_info(i)
        found.append(Gpu(card.name, f"sm{card.major}{card.minor}", total, free, driver))
    return found


def _by_nvml() -> list[Gpu]:
    nvml = require("pynvml", "GPU details")
    nvml.nvmlInit()
    try:
        driver = str(nvml.nvmlSystemGetDriverVersion())
        found = []
        for i in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(i)
            major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            name = str(nvml.nvmlDeviceGetName(handle))
            found.append(Gpu(name, f"sm{major}{minor}", int(memory.total), int(memory.free), driver))
        return found
    finally:
        nvml.nvmlShutdown()


def cpu_threads() -> int:
    """Threads that compute at once to some use here: one per core that this process may use, or OMP_NUM_THREADS."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = {_core_of(cpu) for cpu in usable}
    return max(1, min(len(cores), _allotted_cpus() or len(cores)))


def _core_of(cpu: int) -> str:
    """What tells the core of a logical CPU from others: two threads of one core share its arithmetic."""
    try:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        return topology.read_text(encoding="ascii").strip()
    except OSError:
        return str(cpu)


def _allotted_cpus() -> int:
    """Whole CPUs that a container's limit leaves; 0: no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, int(quota) // int(period)) if quota != "max" else 0
    except (OSError, ValueError):
        return 0
