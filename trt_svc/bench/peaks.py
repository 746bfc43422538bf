"""What this machine can do at most, measured between the cells of the same run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch.nn import functional

from trt_svc.bench.report import Peaks

GEMM_SIZES = {"cpu": (1024, 1536, 2048), "cuda": (4096, 8192)}
CONV_SHAPE = {"cpu": (1, 256, 8192), "cuda": (8, 256, 65536)}
CONV_KERNEL = 7
COPY_BYTES = {"cpu": 256 << 20, "cuda": 2 << 30}
PROBES, PROBE_S = 3, 0.25
"""Runs of each probe: at least so many, and at least for so long."""
ROOM, HALVINGS = 0.5, 10
"""Share of a GPU's free memory that a probe may take, and how often its size is halved to fit."""
GEMM_TENSORS, CONV_TENSORS = 4, 4
"""Tensors of the size in memory at once: operands, result, and what a conversion or an algorithm works in."""
TYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass
class Probes:
    """The best that was seen so far on a device."""

    device: str
    precisions: tuple[str, ...] = ("fp32",)
    gflops: dict[str, float] = field(default_factory=dict)
    conv_gflops: float = 0.0
    copy_gb_per_s: float = 0.0
    seen: list[float] = field(default_factory=list)
    """fp32 products, probe by probe."""

    @torch.no_grad()
    def look(self) -> None:
        """One more round of probes."""
        kind = torch.device(self.device).type
        for precision in self.precisions:
            product = partial(self._gemm, precision)
            found = max(self._fitting(product, size, GEMM_TENSORS * size**2 * 4) for size in GEMM_SIZES[kind])
            if not found:
                continue
            self.gflops[precision] = max(found, self.gflops.get(precision, 0.0))
            if precision == "fp32":
                self.seen.append(found)
        batch, channels, length = CONV_SHAPE[kind]
        conv = self._fitting(self._conv, length, CONV_TENSORS * batch * channels * length * 4)
        self.conv_gflops = max(self.conv_gflops, conv)
        size = COPY_BYTES[kind]
        self.copy_gb_per_s = max(self.copy_gb_per_s, self._fitting(self._copy, size, 2 * size))
        if kind == "cuda":
            torch.cuda.empty_cache()  # the contenders need it, and not all of them are torch

    def highest(self, precision: str) -> float:
        """The peak that nothing of this precision can exceed, 10^9 operations per second."""
        return max(self.gflops.get(precision, 0.0), self.gflops.get("fp32", 0.0), self.conv_gflops)

    def as_peaks(self) -> Peaks:
        return Peaks(
            device=_name(self.device),
            gflops=dict(self.gflops),
            conv_gflops=self.conv_gflops,
            copy_gb_per_s=self.copy_gb_per_s,
            gflops_seen=tuple(self.seen),
        )

    def _fitting(self, probe: Callable[[int], float], size: int, needs: int) -> float:
        """A probe of this size, which `needs` so many bytes; where a GPU is nearly full, halved until it fits, or 0."""
        if self.device == "cpu":
            return probe(size)
        torch.cuda.empty_cache()
        room = ROOM * torch.cuda.mem_get_info(self.device)[0]
        for step in range(HALVINGS):
            if needs >> step <= room:
                with contextlib.suppress(torch.OutOfMemoryError):
                    return probe(size >> step)
        return 0.0

    def _gemm(self, precision: str, size: int) -> float:
        left, right = (torch.randn(size, size, device=self.device).to(TYPES[precision]) for _ in range(2))
        into = torch.empty_like(left)
        with tf32(precision == "tf32"):
            return float(2 * size**3 / self._best_s(lambda: torch.mm(left, right, out=into)) / 1e9)

    def _conv(self, length: int) -> float:
        batch, channels, _ = CONV_SHAPE[torch.device(self.device).type]
        x = torch.randn(batch, channels, length, device=self.device)
        weight = torch.randn(channels, channels, CONV_KERNEL, device=self.device)
        flop = 2 * batch * length * channels**2 * CONV_KERNEL
        with tf32(False):
            best_s = self._best_s(lambda: functional.conv1d(x, weight, padding=CONV_KERNEL // 2))
        return flop / best_s / 1e9

    def _copy(self, size: int) -> float:
        source = torch.ones(size // 4, device=self.device)
        target = torch.empty_like(source)
        return 2 * size / self._best_s(lambda: target.copy_(source)) / 1e9

    def _best_s(self, run: Callable[[], object]) -> float:
        run()
        best, started, runs = float("inf"), time.perf_counter(), 0
        while runs < PROBES or time.perf_counter() - started < PROBE_S:
            finish(self.device)
            begin = time.perf_counter()
            run()
            finish(self.device)
            best, runs = min(best, time.perf_counter() - begin), runs + 1
        return best


class tf32:  # noqa: N801 - reads as a state: `with tf32(False)`
    """Lets torch's products and convolutions on a GPU use 10-bit TF32, or not; puts the settings back."""

    def __init__(self, allowed: bool) -> None:
        self._allowed = allowed

    def __enter__(self) -> None:
        self._before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self._allowed

    def __exit__(self, *error: object) -> None:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = self._before


def finish(device: str) -> None:
    """Waits for everything that was given to a device, on every stream."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def _name(device: str) -> str:
    return device if device == "cpu" else torch.cuda.get_device_name(device)
