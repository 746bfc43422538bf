"""Torch as hosts use it: the network called as it is. On GPUs also with TF32, in half, and as CUDA graphs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trt_svc.backends.torch_eager import TorchRunner
from trt_svc.bench.contenders.base import UPSTREAM, Contender, Forms, Opened, Track, contenders
from trt_svc.bench.peaks import tf32
from trt_svc.bench.race import Entrant
from trt_svc.bench.report import Opening
from trt_svc.bench.subjects import Subject
from trt_svc.build_config import Precision
from trt_svc.precision import typed
from trt_svc.types import Array
from trt_svc.vocoders.base import VocoderNet

GPU_ONLY = {
    "tf32": "TF32 is a mode of NVIDIA GPUs",
    "fp16": "torch has no quick half-precision convolutions for CPUs",
}


class TorchEntrant(Entrant):
    """A module that takes the network's inputs in order."""

    def __init__(self, module: Any, names: list[str], device: str, precision: str) -> None:
        self.device = device
        self._module, self._names, self._tf32 = module, names, precision == "tf32"

    def placed(self, inputs: Mapping[str, Array]) -> list[Tensor]:
        return [torch.from_numpy(inputs[name]).to(self.device) for name in self._names]

    @torch.no_grad()
    def run(self, placed: list[Tensor]) -> Any:
        with tf32(self._tf32):
            return self._module(*placed)

    def audio(self, made: Any) -> Array:
        return made.detach().float().cpu().numpy().copy()  # type: ignore[no-any-return]

    def close(self) -> None:
        self._module = None


def module_for(net: VocoderNet, precision: str, device: str) -> nn.Module:
    """The network in a precision, on a device; the original stays as it is."""
    if precision in ("fp32", "tf32"):
        return net if device == "cpu" else copy.deepcopy(net).to(device)
    return typed(net, Precision(precision)).to(device)


def on_torch(entrant: Entrant) -> Opened:
    """Without seconds of loading: the network is in memory already."""
    return Opened(entrant, Opening(), torch.get_num_threads())


def names_of(net: VocoderNet) -> list[str]:
    return [spec.name for spec in net.core_inputs()]


class TorchEager(Contender):
    name = UPSTREAM
    precisions = ("fp32", "tf32", "fp16")

    def why_not(self, device: str, precision: str) -> str:
        return GPU_ONLY.get(precision, "") if device == "cpu" else ""

    def prepare(self, subject: Subject, track: Track, precision: str, forms: Forms) -> Callable[[], Opened]:
        def opened() -> Opened:
            module = module_for(subject.net, precision, track.device)
            return on_torch(TorchEntrant(module, names_of(subject.net), track.device, precision))

        return opened


class _Graphs(Entrant):
    """This library's own runner, which records a CUDA graph for every shape that comes again."""

    def __init__(self, runner: TorchRunner, names: list[str]) -> None:
        self.device = runner.device
        self._runner, self._names = runner, names

    def placed(self, inputs: Mapping[str, Array]) -> dict[str, Tensor]:
        return {name: torch.from_numpy(inputs[name]).to(self.device) for name in self._names}

    def run(self, placed: dict[str, Tensor]) -> Any:
        return self._runner.run_tensors(placed)

    def audio(self, made: Any) -> Array:
        return made.float().cpu().numpy().copy()  # type: ignore[no-any-return]


class TorchCudaGraphs(Contender):
    name = "torch-cuda-graphs"

    def why_not(self, device: str, precision: str) -> str:
        return "CUDA graphs need a GPU" if device == "cpu" else ""

    def prepare(self, subject: Subject, track: Track, precision: str, forms: Forms) -> Callable[[], Opened]:
        def opened() -> Opened:
            runner = TorchRunner(copy.deepcopy(subject.net), track.device)
            return on_torch(_Graphs(runner, names_of(subject.net)))

        return opened


contenders.register(UPSTREAM)(TorchEager())
contenders.register("torch-cuda-graphs")(TorchCudaGraphs())
