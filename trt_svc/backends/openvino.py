"""OpenVINO on Intel and AMD CPUs."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from trt_svc.backends.base import Backend, Built, Probe, Runner, backends
from trt_svc.build_config import BuildConfig
from trt_svc.graph.model import Graph
from trt_svc.optional import install_line, is_installed, require
from trt_svc.progress import Progress
from trt_svc.types import Array

BLOB = "model.blob"
PURPOSE = "the openvino backend"
# Left to itself the CPU plugin computes in bfloat16 where the CPU can.
FULL_PRECISION = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}


class OpenVinoRunner:
    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        # A cast behind an input adds its own name to the input's.
        self._names = [value.get_names() for value in compiled.inputs]

    def run(self, inputs: Mapping[str, Array]) -> Array:
        # A request of its own per call: requests are not safe to share between threads, models are.
        request = self._compiled.create_infer_request()
        made = request.infer([inputs[next(name for name in names if name in inputs)] for names in self._names])
        return np.array(made[self._compiled.outputs[0]])


@backends.register("openvino")
class OpenVino(Backend):
    name = "openvino"

    def probe(self) -> Probe:
        if not is_installed("openvino"):
            return Probe(False, False, "openvino is not installed", install_line("openvino"))
        try:
            return Probe(True, True, f"openvino {self._package().__version__}")
        except Exception as err:  # broken installations fail in many ways
            return Probe(
                False, False, f"openvino cannot be used ({err})", f"{install_line('openvino')} --force-reinstall"
            )

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
