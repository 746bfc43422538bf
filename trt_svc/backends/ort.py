"""ONNX Runtime: the CPU default, and on machines with onnxruntime-gpu its CUDA and TensorRT providers."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from trt_svc.backends.base import Backend, Built, Probe, Runner, backends
from trt_svc.backends.on_torch import as_float32
from trt_svc.build_config import BuildConfig
from trt_svc.errors import BackendUnavailable
from trt_svc.graph.model import Graph
from trt_svc.optional import require
from trt_svc.progress import Progress
from trt_svc.types import Array

if TYPE_CHECKING:
    import torch

MODEL = "model.onnx"
REMEMBERED = 256
"""Shapes of inputs whose audio's shape is known."""
Shapes = tuple[tuple[int, ...], ...]


class OrtRunner:
    def __init__(self, model: bytes, providers: list[Any], wanted: str) -> None:
        ort = require("onnxruntime", "the onnxruntime backend")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self._session = ort.InferenceSession(model, options, providers=providers)
        if wanted not in self._session.get_providers():
            raise BackendUnavailable(
                wanted,
                "onnxruntime could not load it and would compute on the CPU instead.",
                "Check that CUDA, cuDNN and TensorRT match this onnxruntime-gpu; see `trt-svc doctor`.",
            )
        self._names = [value.name for value in self._session.get_inputs()]

    def run(self, inputs: Mapping[str, Array]) -> Array:
        return np.asarray(self._session.run(None, {name: inputs[name] for name in self._names})[0])

    def sibling(self) -> Runner:
        """This one: sessions run in several threads at once."""
        return self


class OrtTensorRunner(OrtRunner):
    """Also reads tensors where they are, and writes its audio there; the first run of a shape goes over the host."""

    def __init__(self, model: bytes, providers: list[Any], wanted: str, device: str) -> None:
        super().__init__(model, providers, wanted)
        self.device = device
        self._output = self._session.get_outputs()[0].name
        self._waves: dict[Shapes, tuple[int, ...]] = {}

    def run_tensors(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The same for tensors; the host waits, because the session runs on a stream of its own."""
        import torch

        device = torch.device(self.device)
        tensors = {name: as_float32(inputs[name], device) for name in self._names}
        shapes = tuple(tuple(tensor.shape) for tensor in tensors.values())
        known = self._waves.get(shapes)
        if known is None:
            made = self.run({name: tensor.cpu().numpy() for name, tensor in tensors.items()})
            self._remember(shapes, made.shape)
            return torch.from_numpy(made).to(device)
        # Its own memory would be handed out again while torch still reads it.
        wave = torch.empty(known, dtype=torch.float32, device=device)
        place, binding = (device.type, device.index or 0), self._session.io_binding()
        for name, tensor in tensors.items():
            binding.bind_input(name, *place, np.float32, list(tensor.shape), tensor.data_ptr())
        binding.bind_output(self._output, *place, np.float32, list(wave.shape), wave.data_ptr())
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()
        self._session.run_with_iobinding(binding)
        return wave

    def _remember(self, shapes: Shapes, wave: tuple[int, ...]) -> None:
        if len(self._waves) >= REMEMBERED:
            self._waves = {}
        self._waves = {**self._waves, shapes: wave}


@backends.register("onnxruntime")
class OnnxRuntime(Backend):
    name = "onnxruntime"
    # It has no convolutions in half precision: weights are widened, or casts are put around the kernels of float32.
    computes: ClassVar[tuple[str, ...]] = ("fp32",)
    provider: ClassVar[str] = "CPUExecutionProvider"
    folds: ClassVar[tuple[str, ...]] = ()  # its own optimiser does better on the plain graph
    default_rewrites: ClassVar[tuple[str, ...]] = ("two-phase-conv",)
    fallbacks: ClassVar[tuple[str, ...]] = ()

    def probe(self) -> Probe:
        try:
            ort = require("onnxruntime", "the onnxruntime backend")
        except ImportError as err:
            return Probe(False, False, str(err), "pip install onnxruntime")
        here = self.provider in ort.get_available_providers()
        found = f"onnxruntime {ort.__version__}" + ("" if here else f" without {self.provider}")
        return Probe(here, here and self.device_is_here(), found, "" if here else self.advice())

    def device_is_here(self) -> bool:
        return True

    def advice(self) -> str:
        return "pip uninstall onnxruntime; pip install onnxruntime-gpu"

    def identity(self, config: BuildConfig) -> dict[str, str]:
        return {"onnxruntime": require("onnxruntime", "the onnxruntime backend").__version__}

    def build(self, graph: Graph, config: BuildConfig, progress: Progress) -> Built:
        return Built({MODEL: graph.to_bytes()})

    def provider_options(self, device: int) -> list[Any]:
        return [self.provider, *self.fallbacks]

    def open(self, files: Mapping[str, bytes], device: str) -> Runner:
        number = device.partition(":")[2]
        return OrtRunner(files[MODEL], self.provider_options(int(number or 0)), self.provider)


class _OrtOnGpu(OnnxRuntime):
    computes = Backend.computes
    folds = Backend.folds
    default_rewrites = Backend.default_rewrites
    needs_gpu = True

    def device_is_here(self) -> bool:
        return Path("/dev/nvidiactl").exists() or platform.system() == "Windows" or "CUDA_PATH" in os.environ

    def open(self, files: Mapping[str, bytes], device: str) -> Runner:
        torch = sys.modules.get("torch")
        if torch is not None and not torch.cuda.is_available():
            return super().open(files, device)  # this torch has no tensors there
        number = int(device.partition(":")[2] or 0)
        return OrtTensorRunner(files[MODEL], self.provider_options(number), self.provider, f"cuda:{number}")


@backends.register("onnxruntime-cuda")
class OnnxRuntimeCuda(_OrtOnGpu):
    name = "onnxruntime-cuda"
    provider = "CUDAExecutionProvider"
    fallbacks = ("CPUExecutionProvider",)

    def provider_options(self, device: int) -> list[Any]:
        # An exhaustive search would run again for each new length.
        options = {"device_id": str(device), "cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}
        return [(self.provider, options), *self.fallbacks]


@backends.register("onnxruntime-tensorrt")
class OnnxRuntimeTensorRT(_OrtOnGpu):
    """The provider compiles at first use; its own cache is not used, because it keys engines by file name.

    It has no option against TF32 (microsoft/onnxruntime issue 26029), and NVIDIA_TF32_OVERRIDE is the whole process's:
    from Ampere on its fp32 is TF32, which the quality gate refuses. fp16 is what it says.
    """

    name = "onnxruntime-tensorrt"
    provider = "TensorrtExecutionProvider"
    fallbacks = ("CUDAExecutionProvider", "CPUExecutionProvider")

    def provider_options(self, device: int) -> list[Any]:
        return [(self.provider, {"device_id": str(device)}), *self.fallbacks]

    def advice(self) -> str:
        return "pip uninstall onnxruntime; pip install onnxruntime-gpu tensorrt"
