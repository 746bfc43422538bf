"""The network as it is, run by torch: the reference for every other backend. There is nothing to build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

from trt_svc.backends.base import Backend, Built, Probe, Runner, backends
from trt_svc.build_config import BuildConfig
from trt_svc.errors import BuildError
from trt_svc.graph.model import Graph
from trt_svc.progress import Progress
from trt_svc.types import Array
from trt_svc.vocoders.base import VocoderNet


class TorchRunner:
    def __init__(self, net: VocoderNet, device: str) -> None:
        self._net = net.to(device)
        self._device = device

    def run(self, inputs: Mapping[str, Array]) -> Array:
        names = [spec.name for spec in self._net.core_inputs()]
        tensors = [torch.from_numpy(np.ascontiguousarray(inputs[name])).to(self._device) for name in names]
        with torch.inference_mode(), _full_float32():
            return np.asarray(self._net(*tensors).cpu().numpy())


@contextmanager
def _full_float32() -> Iterator[None]:
    """cuDNN's convolutions use 10-bit TF32 unless told not to: fp32 means fp32 here."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@backends.register("torch")
class TorchBackend(Backend):
    name = "torch"

    def probe(self) -> Probe:
        where = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
        return Probe(False, True, f"torch {torch.__version__} on {where}")

    def identity(self, config: BuildConfig) -> dict[str, str]:
        return {"torch": torch.__version__}

    def build(self, graph: Graph, config: BuildConfig, progress: Progress) -> Built:
        raise BuildError(
            "building for torch", "torch runs the network itself.", "Load it with backend='torch'; there is no engine."
        )

    def open(self, files: Mapping[str, bytes], device: str) -> Runner:
        raise BuildError(
            "opening a torch engine", "there is no such thing.", "Load the checkpoint with backend='torch'."
        )
