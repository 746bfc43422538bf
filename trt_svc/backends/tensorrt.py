"""Classic TensorRT: compiles for the GPU of this machine."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from trt_svc.backends import trt_plugins
from trt_svc.backends.base import Backend, Built, Probe, Runner, backends
from trt_svc.backends.device_memory import available_drivers
from trt_svc.backends.trt_api import PlanOptions, TrtApi
from trt_svc.backends.trt_runner import TrtRunner
from trt_svc.build_config import BuildConfig
from trt_svc.errors import TrtSvcError
from trt_svc.files import engine_directory
from trt_svc.graph.custom import custom_operations, without_functions
from trt_svc.graph.model import Graph
from trt_svc.hardware import Gpu, first_gpu
from trt_svc.optional import install_line, is_installed
from trt_svc.progress import Progress

log = logging.getLogger(__name__)

PLAN = "model.plan"
NEEDS = "An NVIDIA GPU, its driver and one of a CUDA build of torch, cuda-core or pycuda are needed."
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
    plugin_rewrites: ClassVar[tuple[str, ...]] = ("plugin-snake",)

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
        if gpu is None or not available_drivers():
            missing = "no NVIDIA GPU" if gpu is None else "but no package that reaches the GPU's memory"
            return Probe(api.has_targets, False, f"{found}, {missing}", NEEDS)
        return Probe(True, True, f"{found} on {gpu.name}")

    def identity(self, config: BuildConfig) -> dict[str, str]:
        api = self.api()
        versions = {self.module: api.version}
        if set(self.plugin_rewrites) & set(config.rewrites or ()):
            versions |= trt_plugins.identity()
        if api.has_targets:
            return {**versions, "targets": ",".join(self.targets(config))}
        gpu = first_gpu()
        return {**versions, **(gpu.identity() if gpu else Gpu.absent())}

    def targets(self, config: BuildConfig) -> tuple[str, ...]:
        return config.targets or self.default_targets

    def competing(self) -> tuple[tuple[str, ...], ...]:
        if self.plugin_rewrites and (why_not := trt_plugins.why_not(self.module)):
            log.warning("%s goes without plugins: %s", self.name, why_not)
            return super().competing()
        return (*super().competing(), *((name,) for name in self.plugin_rewrites))

    def build(self, graph: Graph, config: BuildConfig, progress: Progress) -> Built:
        graph, plugins = self.with_plugins(graph)
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
        parse_s = round(plan.parse_s, 3)
        notes = {"parse_s": parse_s, "layers": plan.layers, "fused_kernels": plan.fused_kernels(), **plugins}
        weights = {WEIGHTS: graph.to_bytes()} if config.strip_weights else {}
        return Built({PLAN: plan.data, **weights}, {**notes, "warnings": plan.log[:20]})

    def with_plugins(self, graph: Graph) -> tuple[Graph, dict[str, str]]:
        """The graph with its own operations left to plugins, or to their plain forms, and a note which it is."""
        operations = custom_operations(graph.model.graph.node)
        if not operations:
            return graph, {}
        why_not = trt_plugins.why_not(self.module)
        if why_not:
            return graph, {"plugins": f"none: {why_not}; plain forms instead"}
        return replace(graph, model=without_functions(graph.model)), {"plugins": ", ".join(operations)}

    def timings(self, config: BuildConfig) -> Path:
        """Where kernel timings of this library and GPU are kept between builds."""
        words = "-".join(f"{name}-{value}" for name, value in sorted(self.identity(config).items()))
        return engine_directory() / "timings" / (re.sub(r"[^A-Za-z0-9.-]+", "_", words)[:120] + ".cache")

    def open(self, files: Mapping[str, bytes], device: str) -> Runner:
        return TrtRunner.open(self.api(), files[PLAN], device, files.get(WEIGHTS))
