"""The network as it is, run by torch: the reference for every other backend. There is nothing to build."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from trt_svc.backends.base import Backend, Built, Probe, Runner, backends
from trt_svc.backends.cuda_graphs import MAX_GRAPHS, GraphCache, Recorder, StreamOrder, Tensors, TorchGraph
from trt_svc.backends.on_torch import as_float32, downloaded, uploaded
from trt_svc.build_config import BuildConfig
from trt_svc.errors import BuildError
from trt_svc.graph.model import Graph
from trt_svc.progress import Progress
from trt_svc.types import Array

if TYPE_CHECKING:
    import torch

    from trt_svc.vocoders.base import Stage, VocoderNet


class TorchRunner:
    """Runs the module. Calls may overlap, but for those of recorded shapes on a GPU."""

    def __init__(self, net: VocoderNet | Stage, device: str, max_graphs: int = MAX_GRAPHS) -> None:
        import torch

        where = torch.device(device)
        if where.type == "cuda" and where.index is None:
            where = torch.device("cuda", torch.cuda.current_device())
        self.device = str(where)
        self._device = where
        self._net = net.to(where)
        self._names = [spec.name for spec in net.core_inputs()]
        self._recorder = Recorder(StreamOrder())
        self._graphs: GraphCache[Tensors, torch.Tensor] = GraphCache(max_graphs if where.type == "cuda" else 0)

    def run(self, inputs: Mapping[str, Array]) -> Array:
        """Audio (B, samples) for the network's inputs; freshly allocated at each call."""
        import torch

        with self._here(), torch.no_grad():
            return downloaded(self._run([uploaded(inputs[name], self._device) for name in self._names]))

    def run_tensors(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The same for tensors, in the order of torch's current stream, without waiting for it."""
        import torch

        with self._here(), torch.no_grad():
            return self._run([as_float32(inputs[name], self._device) for name in self._names])

    def sibling(self) -> Runner:
        """This one: a module keeps nothing between calls."""
        return self

    def _here(self) -> AbstractContextManager[object]:
        import torch

        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()

    def _run(self, tensors: Tensors) -> torch.Tensor:
        import torch

        if self._device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return self._plainly(tensors)
        key = tuple(tuple(tensor.shape) for tensor in tensors)
        return self._graphs.run(key, tensors, self._plainly, self._recorded)

    def _plainly(self, tensors: Tensors) -> torch.Tensor:
        import torch

        try:
            return _in_float32(self._net, tensors)
        except torch.OutOfMemoryError:
            if not len(self._graphs):
                raise
        self._graphs.close()  # their scratch memory is of no use to anything else
        torch.cuda.empty_cache()
        return _in_float32(self._net, tensors)

    def _recorded(self, tensors: Tensors) -> TorchGraph:
        net = self._net
        return self._recorder.record(tensors, lambda fixed: lambda: _in_float32(net, fixed))


def _in_float32(net: Any, tensors: Tensors) -> torch.Tensor:
    with FULL_FLOAT32:
        made: torch.Tensor = net(*tensors)
    return made


class _FullFloat32:
    """cuDNN's convolutions use 10-bit TF32 unless told not to: fp32 means fp32 here.

    The setting is the process's: the first thread to come in changes it, the last to go puts it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = True

    def __enter__(self) -> None:
        import torch

        with self._lock:
            if self._inside == 0:
                self._before = torch.backends.cudnn.allow_tf32
                torch.backends.cudnn.allow_tf32 = False
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        import torch

        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                torch.backends.cudnn.allow_tf32 = self._before


FULL_FLOAT32 = _FullFloat32()


@backends.register("torch")
class TorchBackend(Backend):
    name = "torch"

    def probe(self) -> Probe:
        import torch

        where = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU"
        return Probe(False, True, f"torch {torch.__version__} on {where}")

    def identity(self, config: BuildConfig) -> dict[str, str]:
        import torch

        return {"torch": torch.__version__}

    def build(self, graph: Graph, config: BuildConfig, progress: Progress) -> Built:
        raise BuildError(
            "building for torch", "torch runs the network itself.", "Load it with backend='torch'; there is no engine."
        )

    def open(self, files: Mapping[str, bytes], device: str) -> Runner:
        raise BuildError(
            "opening a torch engine", "there is no such thing.", "Load the checkpoint with backend='torch'."
        )
