"""OpenVINO on Intel and AMD CPUs."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from trt_svc.backends.base import Backend, Built, Probe, Runner, backends
from trt_svc.build_config import BuildConfig
from trt_svc.errors import ConfigError
from trt_svc.graph.model import Graph
from trt_svc.optional import install_line, is_installed, require
from trt_svc.progress import Progress
from trt_svc.types import Array

BLOB = "model.blob"
PURPOSE = "the openvino backend"
MAX_IDLE = 4
"""Inference requests, each with the memory of a run, that wait for their next use."""
# Left to itself the CPU plugin computes in bfloat16 where the CPU can.
FULL_PRECISION = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}


class OpenVinoRunner:
    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        # A cast behind an input adds its own name to the input's.
        self._names = [value.get_names() for value in compiled.inputs]
        # Requests are not safe to share between threads, models are. The one used last is still in the caches.
        self._idle: list[Any] = []
        self._lock = threading.Lock()

    def run(self, inputs: Mapping[str, Array]) -> Array:
        given = [inputs[next(name for name in names if name in inputs)] for names in self._names]
        request = self._take()
        made = np.array(request.infer(given)[self._compiled.outputs[0]])  # the request will overwrite its own
        self._give(request)  # not after a failure
        return made

    def _take(self) -> Any:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return self._compiled.create_infer_request()

    def _give(self, request: Any) -> None:
        with self._lock:
            if len(self._idle) < MAX_IDLE:
                self._idle.append(request)

    def sibling(self) -> Runner:
        """This one: it has a request for each thread that runs."""
        return self


@backends.register("openvino")
class OpenVino(Backend):
    name = "openvino"
    precisions = ("fp32", "fp16", "mixed")
    # See FULL_PRECISION: half-precision weights are widened before they are used, but bfloat16 products stay such.
    computes = ("fp32", "mixed")

    def probe(self) -> Probe:
        if not is_installed("openvino"):
            return Probe(False, False, "openvino is not installed", install_line("openvino"))
        try:
            return Probe(True, True, f"openvino {self._package().__version__}")
        except Exception as err:  # broken installations fail in many ways
            return Probe(
                False, False, f"openvino cannot be used ({err})", f"{install_line('openvino')} --force-reinstall"
            )

    def settled(self, config: BuildConfig) -> BuildConfig:
        settled = super().settled(config)
        if settled.precision.name == "mixed" and "BF16" not in self._capabilities():
            raise ConfigError(
                "precision 'mixed' for the openvino backend",
                "this CPU does not multiply in bfloat16 (AVX512-BF16 or AMX).",
                "Use fp32: it is as quick here.",
            )
        return settled

    def _capabilities(self) -> list[str]:
        return [str(name) for name in self._package().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")]

    def _package(self) -> Any:
        return require("openvino", PURPOSE)

    def identity(self, config: BuildConfig) -> dict[str, str]:
        core = self._package().Core()
        return {
            "openvino": self._package().__version__,
            "cpu": str(core.get_property("CPU", "FULL_DEVICE_NAME")),
            "capabilities": " ".join(sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))),
        }

    def build(self, graph: Graph, config: BuildConfig, progress: Progress) -> Built:
        core = self._package().Core()
        model = core.read_model(graph.to_bytes(), b"")
        compiled = core.compile_model(model, "CPU", FULL_PRECISION)
        blob = io.BytesIO()
        compiled.export_model(blob)
        return Built({BLOB: blob.getvalue()})

    def open(self, files: Mapping[str, bytes], device: str) -> Runner:
        core = self._package().Core()
        return OpenVinoRunner(core.import_model(io.BytesIO(files[BLOB]), "CPU", FULL_PRECISION))
