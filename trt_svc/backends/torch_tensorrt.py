"""Torch-TensorRT: the network compiled through torch.export into a TensorRT module (dynamo path)."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trt_svc.backends.base import Backend, Built, Probe, Runner, backends
from trt_svc.backends.cuda_graphs import StreamOrder
from trt_svc.backends.on_torch import as_float32, downloaded, uploaded
from trt_svc.build_config import BuildConfig, Profile
from trt_svc.errors import BuildError
from trt_svc.graph.model import Graph, GraphInput
from trt_svc.hardware import Gpu, first_gpu
from trt_svc.optional import install_line, is_installed, require
from trt_svc.progress import Progress
from trt_svc.types import Array

if TYPE_CHECKING:
    import torch

PROGRAM = "model.ep"
PURPOSE = "the torch-tensorrt backend"


@backends.register("torch-tensorrt")
class TorchTensorRT(Backend):
    name = "torch-tensorrt"
    needs_gpu = True
    options = frozenset({"workspace_bytes"})
    one_profile = True

    def probe(self) -> Probe:
        if not is_installed("torch_tensorrt"):
            return Probe(False, False, "torch_tensorrt is not installed", install_line("torch_tensorrt"))
        import torch

        gpu = first_gpu()
        if gpu is None or not torch.cuda.is_available():
            return Probe(
                False, False, "it needs a CUDA build of torch and a GPU", "Use another backend on this machine."
            )
        try:
            return Probe(True, True, f"torch_tensorrt {self._package().__version__} on {gpu.name}")
        except Exception as err:  # importing it loads TensorRT's libraries
            return Probe(
                False, False, f"importing it fails ({err})", f"{install_line('torch_tensorrt')} --force-reinstall"
            )

    def _package(self) -> Any:
        return require("torch_tensorrt", PURPOSE)

    def identity(self, config: BuildConfig) -> dict[str, str]:
        import torch

        gpu = first_gpu()
        versions = {"torch_tensorrt": self._package().__version__, "torch": torch.__version__}
        return {**versions, **(gpu.identity() if gpu else Gpu.absent())}

    def build(self, graph: Graph, config: BuildConfig, progress: Progress) -> Built:
        import torch

        if graph.module is None:
            raise BuildError(
                "building with torch-tensorrt", "this graph came without its module.", "Build from a checkpoint."
            )
        if len(config.profiles) != 1:
            raise BuildError("building with torch-tensorrt", "it takes one profile.", "Give one --frames range.")
        package, (profile,) = self._package(), config.profiles
        settings: dict[str, Any] = {
            "ir": "dynamo",
            "require_full_compilation": True,
            "use_python_runtime": False,
            "disable_tf32": True,  # fp32 means fp32 here
        }
        if config.workspace_bytes is not None:
            settings["workspace_size"] = config.workspace_bytes
        # The types are in the module; enabled_precisions would be accepted and silently ignored.
        inputs = [package.Input(dtype=torch.float32, name=spec.name, **_shapes(spec, profile)) for spec in graph.inputs]
        module = graph.module.to("cuda")
        compiled = package.compile(module, inputs=inputs, **settings)
        example = [torch.zeros(_shapes(spec, profile)["opt_shape"], device="cuda") for spec in graph.inputs]
        blob = io.BytesIO()
        package.save(compiled, blob, output_format="exported_program", arg_inputs=example)
        return Built({PROGRAM: blob.getvalue()})

    def open(self, files: Mapping[str, bytes], device: str) -> Runner:
        import torch

        self._package()  # registers the operators of the stored program
        program = torch.export.load(io.BytesIO(files[PROGRAM]))
        return _ProgramRunner(program.module(), device)


def _shapes(spec: GraphInput, profile: Profile) -> dict[str, tuple[int, ...]]:
    return {
        f"{end}_shape": spec.shape(getattr(profile.batch, end), getattr(profile.frames, end))
        for end in ("min", "opt", "max")
    }


class _ProgramRunner:
    def __init__(self, module: Any, device: str) -> None:
        import torch

        where = torch.device("cuda" if device == "auto" else device)
        if where.type == "cuda" and where.index is None:
            where = torch.device("cuda", torch.cuda.current_device())
        self.device = str(where)
        self._device = where
        self._module = module
        # Its engines keep one execution context each.
        self._lock = threading.Lock()
        self._order = StreamOrder()

    def run(self, inputs: Mapping[str, Array]) -> Array:
        with self._turn():
            made: torch.Tensor = self._module(*[uploaded(value, self._device) for value in inputs.values()])
            return downloaded(made.float())

    def run_tensors(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The same for tensors, in the order of torch's current stream, without waiting for it."""
        with self._turn():
            made: torch.Tensor = self._module(*[as_float32(value, self._device) for value in inputs.values()])
            return made.float()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One call at a time, on the host and, where they come on different streams, on the device."""
        import torch

        with self._lock, torch.no_grad():
            if self._device.type != "cuda":
                yield
                return
            with torch.cuda.device(self._device), self._order.turn():
                yield

    def sibling(self) -> Runner:
        """This one: its calls come one after another."""
        return self
