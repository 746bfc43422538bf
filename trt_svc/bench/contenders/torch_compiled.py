"""torch.compile with its own best settings: static shapes, frozen weights; on GPUs tuned kernels and CUDA graphs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from trt_svc.bench.contenders.base import Contender, Forms, Opened, Track, contenders
from trt_svc.bench.contenders.torch_eager import GPU_ONLY, TorchEntrant, module_for, names_of, on_torch
from trt_svc.bench.subjects import Subject

MAX_SHAPES = 256
"""Every shape is compiled by itself; torch would stop at eight."""
COMPILERS = ("g++", "clang++", "c++", "cl")


class _Compiled(TorchEntrant):
    """A compiled module; torch keeps the code of all it ever compiled, weights included, until told otherwise."""

    def close(self) -> None:
        super().close()
        torch._dynamo.reset()


class _WithGraphs(_Compiled):
    """The graph's output is overwritten by its next run: a caller must copy it, so the copy is timed."""

    def run(self, placed: list[Tensor]) -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return super().run(placed).clone()


class TorchCompile(Contender):
    name = "torch-compile"
    precisions = ("fp32", "tf32", "fp16")
    mode: ClassVar[str] = "max-autotune-no-cudagraphs"
    entrant: ClassVar[type[TorchEntrant]] = _Compiled

    def why_not(self, device: str, precision: str) -> str:
        if device == "cpu":
            if not any(shutil.which(name) for name in COMPILERS):
                return "it needs a C++ compiler, and none is on the path"
            return GPU_ONLY.get(precision, "")
        return ""

    def prepare(self, subject: Subject, track: Track, precision: str, forms: Forms) -> Callable[[], Opened]:
        def opened() -> Opened:
            torch._dynamo.config.recompile_limit = MAX_SHAPES
            # Autotuning on CPUs compares templates for matrix products only: there are hardly any here.
            how: dict[str, Any] = {"options": {"freezing": True}} if track.device == "cpu" else {"mode": self.mode}
            module = torch.compile(module_for(subject.net, precision, track.device), dynamic=False, **how)
            return on_torch(self.entrant(module, names_of(subject.net), track.device, precision))

        return opened


class TorchCompileGraphs(TorchCompile):
    name = "torch-compile-cuda-graphs"
    mode = "max-autotune"
    entrant = _WithGraphs

    def why_not(self, device: str, precision: str) -> str:
        return "CUDA graphs need a GPU" if device == "cpu" else super().why_not(device, precision)


class TorchCompileReduceOverhead(TorchCompileGraphs):
    """The graphs without the tuning: what people turn on first, and what starts sooner."""

    name = "torch-compile-reduce-overhead"
    mode = "reduce-overhead"


contenders.register("torch-compile")(TorchCompile())
contenders.register("torch-compile-cuda-graphs")(TorchCompileGraphs())
contenders.register("torch-compile-reduce-overhead")(TorchCompileReduceOverhead())
