"""ONNX Runtime: the CPU default, and on machines with onnxruntime-gpu its CUDA and TensorRT providers."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from trt_svc.backends.base import Backend, Built, Probe, Runner, backends
from trt_svc.build_config import BuildConfig
from trt_svc.errors import BackendUnavailable
from trt_svc.graph.model import Graph
from trt_svc.optional import require
from trt_svc.progress import Progress
from trt_svc.types import Array

MODEL = "model.onnx"


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


@backends.register("onnxruntime")
class OnnxRuntime(Backend):
    name = "onnxruntime"
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
    folds = Backend.folds
    default_rewrites = Backend.default_rewrites
    needs_gpu = True

    def device_is_here(self) -> bool:
        return Path("/dev/nvidiactl").exists() or platform.system() == "Windows" or "CUDA_PATH" in os.environ


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
    """The provider compiles at first use; its own cache is not used, because it keys engines by file name."""

    name = "onnxruntime-tensorrt"
    provider = "TensorrtExecutionProvider"
    fallbacks = ("CUDAExecutionProvider", "CPUExecutionProvider")

    def provider_options(self, device: int) -> list[Any]:
        return [(self.provider, {"device_id": str(device)}), *self.fallbacks]

    def advice(self) -> str:
        return "pip uninstall onnxruntime; pip install onnxruntime-gpu tensorrt"
