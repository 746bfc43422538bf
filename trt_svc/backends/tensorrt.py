"""Classic TensorRT: compiles for the GPU of this machine."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from trt_svc.backends.base import Backend, Built, Probe, Runner, backends
from trt_svc.backends.trt_api import PlanOptions, TrtApi
from trt_svc.build_config import BuildConfig
from trt_svc.errors import EngineError, ShapeRangeError, TrtSvcError
from trt_svc.files import engine_directory
from trt_svc.graph.model import Graph
from trt_svc.hardware import Gpu, first_gpu
from trt_svc.optional import install_line, is_installed
from trt_svc.progress import Progress
from trt_svc.types import Array

PLAN = "model.plan"
NEEDS = "An NVIDIA GPU, its driver and a CUDA build of torch are needed."
WEIGHTS = "weights.onnx"
"""Beside a plan without weights: the graph they are put back from."""


@backends.register("tensorrt")
class TensorRT(Backend):
    name = "tensorrt"
    needs_gpu = True
    module: ClassVar[str] = "tensorrt"
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "bf16")
    options = frozenset(
        {"workspace_bytes", "optimization_level", "hardware_compatible", "version_compatible", "strip_weights"}
    )
    default_targets: ClassVar[tuple[str, ...]] = ()

    def api(self) -> TrtApi:
        return TrtApi.load(self.module)

    def probe(self) -> Probe:
        if not is_installed(self.module):
            return Probe(False, False, f"{self.module} is not installed", install_line(self.module))
        try:
            api = self.api()
        except TrtSvcError as err:
            return Probe(False, False, err.found, err.advice)
        gpu = first_gpu()
        found = f"{self.module} {api.version}"
        if gpu is None or not cuda_in_torch():
            return Probe(
                api.has_targets,
                False,
                f"{found}, {'no NVIDIA GPU' if gpu is None else 'but this torch has no CUDA'}",
                NEEDS,
            )
        return Probe(True, True, f"{found} on {gpu.name}")

    def identity(self, config: BuildConfig) -> dict[str, str]:
        api = self.api()
        versions = {self.module: api.version}
        if api.has_targets:
            return {**versions, "targets": ",".join(self.targets(config))}
        gpu = first_gpu()
        return {**versions, **(gpu.identity() if gpu else Gpu.absent())}

    def targets(self, config: BuildConfig) -> tuple[str, ...]:
        return config.targets or self.default_targets

    def build(self, graph: Graph, config: BuildConfig, progress: Progress) -> Built:
        options = PlanOptions(
            targets=self.targets(config),
            workspace_bytes=config.workspace_bytes,
            optimization_level=config.optimization_level,
            hardware_compatible=config.hardware_compatible,
            version_compatible=config.version_compatible,
            strip_weights=config.strip_weights,
            timing_cache=self.timings(config),
        )
        plan = self.api().build(graph, config.profiles, options, progress)
        notes = {"parse_s": round(plan.parse_s, 3), "layers": plan.layers, "fused_kernels": plan.fused_kernels()}
        weights = {WEIGHTS: graph.to_bytes()} if config.strip_weights else {}
        return Built({PLAN: plan.data, **weights}, {**notes, "warnings": plan.log[:20]})

    def timings(self, config: BuildConfig) -> Path:
        """Where kernel timings of this library and GPU are kept between builds."""
        words = "-".join(f"{name}-{value}" for name, value in sorted(self.identity(config).items()))
        return engine_directory() / "timings" / (re.sub(r"[^A-Za-z0-9.-]+", "_", words)[:120] + ".cache")

    def open(self, files: Mapping[str, bytes], device: str) -> Runner:
        return TrtRunner(self.api(), files[PLAN], device, files.get(WEIGHTS))


def cuda_in_torch() -> bool:
    """Device memory is torch's."""
    import torch

    return torch.cuda.is_available()


class TrtRunner:
    """Runs a plan on device memory held by torch."""

    def __init__(self, api: TrtApi, plan: bytes, device: str, weights: bytes | None = None) -> None:
        import torch

        if not torch.cuda.is_available():
            raise EngineError(
                "opening an engine", "torch sees no CUDA GPU here.", "Use backend='onnxruntime' or 'openvino' here."
            )
        self._torch = torch
        self._device = torch.device(device if device != "auto" else "cuda")
        if self._device.type != "cuda":
            raise EngineError(
                f"opening an engine on {device}", "TensorRT runs on GPUs only.", "Use backend='onnxruntime' there."
            )
        self._lock = threading.Lock()  # one context, so one run at a time
        self._api = api
        with torch.cuda.device(self._device):
            self._engine = api.engine(plan)
            if weights is not None:
                api.refit(self._engine, weights)
            self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        mode = api.trt.TensorIOMode
        self._inputs = [name for name in names if self._engine.get_tensor_mode(name) == mode.INPUT]
        (self._output,) = [name for name in names if self._engine.get_tensor_mode(name) == mode.OUTPUT]

    def run(self, inputs: Mapping[str, Array]) -> Array:
        with self._lock, self._torch.cuda.device(self._device):
            return self._run(inputs)

    def _run(self, inputs: Mapping[str, Array]) -> Array:
        torch, stream = self._torch, self._torch.cuda.current_stream(self._device)
        held: list[Any] = []
        self._choose_profile(inputs)
        for name in self._inputs:
            tensor = torch.from_numpy(np.ascontiguousarray(inputs[name])).to(self._device)
            if not self._context.set_input_shape(name, tuple(tensor.shape)):
                raise ShapeRangeError(
                    f"input {name}",
                    f"the engine refuses shape {tuple(tensor.shape)}.",
                    "Rebuild it with a larger range.",
                )
            self._context.set_tensor_address(name, tensor.data_ptr())
            held.append(tensor)
        out = torch.empty(tuple(self._context.get_tensor_shape(self._output)), dtype=torch.float32, device=self._device)
        self._context.set_tensor_address(self._output, out.data_ptr())
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise EngineError(
                "running an engine", "the runtime reports a failure.", "Run `trt-svc doctor`; build it again (--force)."
            )
        made: Array = out.cpu().numpy()  # waits for the stream, so the inputs may go now
        return made

    def _choose_profile(self, inputs: Mapping[str, Array]) -> None:
        for index in range(self._engine.num_optimization_profiles):
            if all(self._fits(name, index, inputs[name].shape) for name in self._inputs):
                stream = self._torch.cuda.current_stream(self._device)
                self._context.set_optimization_profile_async(index, stream.cuda_stream)
                return
        shapes = {name: inputs[name].shape for name in self._inputs}
        raise ShapeRangeError(
            "running an engine", f"no profile covers {shapes}.", "Rebuild it with a larger --frames or --batch range."
        )

    def _fits(self, name: str, profile: int, shape: tuple[int, ...]) -> bool:
        low, _, high = self._engine.get_tensor_profile_shape(name, profile)
        return all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))
