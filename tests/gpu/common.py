"""What the checks share: the suite, voices, inputs, and ways to look inside a session."""

from __future__ import annotations

import gc
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

import trt_svc
from tests.gpu.suite import Figures, Skip, Suite
from tests.nets import utterance
from trt_svc.arrays import on_host
from trt_svc.backends.cuda_graphs import GraphCache

NEAR = 1e-4
"""Two devices, or two sizes of a run, sum in another order: so far apart may they be, full scale being 1."""
MIB = 2**20


def tidy() -> None:
    """Frees what a check left; raises where the GPU takes no more work."""
    gc.collect()
    if not torch.cuda.is_initialized():
        return
    for device in range(torch.cuda.device_count()):
        torch.cuda.synchronize(device)
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        torch.cuda.reset_peak_memory_stats(device)
    torch.cuda.empty_cache()


suite = Suite(tidy)
check, check_each = suite.check, suite.check_each


# Voices and inputs.


def demo(device: str, **options: Any) -> trt_svc.Vocoder:
    """The voice that ships with the package; a session that rather fails than falls back."""
    return trt_svc.load_vocoder("demo", device=device, on_failure="raise", **options)


@cache
def reference() -> trt_svc.Vocoder:
    """The same on the CPU."""
    return demo("cpu")


def speech(batch: int, frames: int, seed: int = 0) -> dict[str, Any]:
    """Inputs of the demo voice, on the host."""
    return utterance(reference(), batch, frames, seed)


def truth(given: Mapping[str, Any], seed: Any = 0) -> np.ndarray:
    """What the CPU makes of them."""
    return on_host(reference()(**{name: on_host(value) for name, value in given.items()}, seed=seed))


def moved(given: Mapping[str, Any], device: str) -> dict[str, torch.Tensor]:
    """The inputs as tensors of a device."""
    return {name: torch.from_numpy(value).to(device) for name, value in given.items()}


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        yield Path(name)


# Judgement.


def distance(made: Any, expected: Any) -> float:
    """Largest difference; shapes must agree."""
    mine, theirs = on_host(made), on_host(expected)
    assert mine.shape == theirs.shape, f"shape {mine.shape} instead of {theirs.shape}"
    return float(np.abs(mine.astype(np.float64) - theirs).max()) if mine.size else 0.0


def near(note: Figures, name: str, made: Any, expected: Any, bound: float = NEAR) -> None:
    """Notes the largest difference seen under this name, and refuses one above the bound."""
    gap = distance(made, expected)
    note[name] = max(gap, note.get(name, 0.0)) if gap == gap else gap
    assert gap <= bound, f"{name}: {gap:.3g} is above {bound:.3g}"


def healthy(vocoder: trt_svc.Vocoder) -> None:
    """Nothing had to be recovered."""
    health = vocoder.health
    assert health.ok and not health.fallbacks, f"{health.counts}, {[fault.found for fault in health.faults]}"


# The device.


def needs_gpu(device: str) -> None:
    if not device.startswith("cuda"):
        raise Skip("it can only be seen on a GPU")


def wait(device: str) -> None:
    """Until the device has done everything."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def number_of(device: str) -> int:
    """Its place among the GPUs."""
    return torch.device(device).index or 0


def stream_of(device: str) -> Any:
    """A stream beside the default one; on the CPU None, which torch.cuda.stream() takes too."""
    return torch.cuda.Stream(device) if device.startswith("cuda") else None


def allocated(device: str) -> int:
    """Bytes of tensors on the device."""
    return torch.cuda.memory_allocated(device) if device.startswith("cuda") else 0


def peak_of(device: str, run: Callable[[], Any]) -> tuple[Any, int]:
    """What a run gives, and the most bytes that it held on the device beyond those held before."""
    if not device.startswith("cuda"):
        return run(), 0
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    made = run()
    torch.cuda.synchronize(device)
    return made, torch.cuda.max_memory_allocated(device) - before


def keep_busy(seconds: float) -> None:
    """Gives the current stream a kernel of about this length."""
    torch.cuda._sleep(int(seconds * _cycles_per_s()))


@cache
def _cycles_per_s() -> float:
    cycles = 200_000_000
    for _ in range(2):  # the first brings the clock up
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        torch.cuda._sleep(cycles)
        end.record()
        end.synchronize()
    return cycles / (start.elapsed_time(end) / 1000)


def milliseconds(device: str, run: Callable[[], Any], runs: int = 20) -> float:
    """Mean time of a run, the device's work included."""
    wait(device)
    started = time.perf_counter()
    for _ in range(runs):
        run()
    wait(device)
    return 1000 * (time.perf_counter() - started) / runs


# Inside a session.


def runner_of(vocoder: trt_svc.Vocoder) -> Any:
    """The runner of the first context of the first device."""
    (lane, *_) = vocoder._ladder.rung.lanes.lanes
    return lane.submit(lambda parts: parts.whole).result(60)


def without_graphs(vocoder: trt_svc.Vocoder) -> trt_svc.Vocoder:
    """The session with recordings switched off (on torch, where contexts share a runner)."""
    runner_of(vocoder)._graphs = GraphCache(0)
    return vocoder


def captured(runner: Any) -> int:
    """Shapes that are recorded now."""
    return len(runner._graphs)


def refused(runner: Any) -> int:
    """Shapes that could not be recorded."""
    return sum(shape.refused for shape in runner._graphs._shapes.values())


@contextmanager
def graph_messages() -> Iterator[list[str]]:
    """Why shapes were not recorded, in the order in which it happened."""
    said: list[str] = []
    log = logging.getLogger("trt_svc.backends.cuda_graphs")
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage()[:300])  # type: ignore[method-assign]
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
