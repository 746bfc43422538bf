"""Energy of a GPU, where NVML counts it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from trt_svc.optional import is_installed, require

BURST_S = 1.0
"""The counter moves every 20 to 100 ms: a burst must be long against that."""


def joules_per_call(run: Callable[[], object], device: str) -> float | None:
    """Joules of the whole board per call, or None where nothing counts them. `run` waits for its own end."""
    counter = _counter(device)
    if counter is None:
        return None
    try:
        before, started, calls = counter(), time.perf_counter(), 0
        while time.perf_counter() - started < BURST_S or calls < 2:
            run()
            calls += 1
        return (counter() - before) / 1000 / calls
    except Exception:  # it ran in the race: a figure more is not worth the race's others
        return None


def _counter(device: str) -> Callable[[], int] | None:
    """Reads the millijoules used since the driver was loaded."""
    if device == "cpu" or not is_installed("pynvml"):
        return None
    import torch

    nvml = require("pynvml", "energy")
    try:
        nvml.nvmlInit()
        # By its identity: NVML numbers GPUs in another order than CUDA.
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        handle: Any = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # not supported before Volta, or no rights: then there is no figure
        return None
    return lambda: int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
