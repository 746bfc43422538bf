"""Torch on an NVIDIA GPU with fused kernels and CUDA graphs: no compiler, no TensorRT, and what TensorRT has to beat.

An engine is the graph itself. When it is opened, everything between the convolutions is given to the fused kernels
where these run (`trt_svc.kernels`), and shapes that come again are recorded.

A length is never rounded up to a bucket: zeros behind a signal are not its end (a bias makes them sound, an
anti-aliased snake continues the last value), and the last frames would differ. Recordings are kept for exact lengths,
the least recently used are dropped, and what a session cuts a long input into has one length anyway.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

from trt_svc.backends.base import Backend, Built, Probe, Runner, backends
from trt_svc.backends.cuda_graphs import Tensors, TorchGraph
from trt_svc.backends.torch_eager import FULL_FLOAT32, TorchRunner
from trt_svc.build_config import BuildConfig
from trt_svc.errors import BackendUnavailable
from trt_svc.graph.model import Graph
from trt_svc.hardware import Gpu, first_gpu
from trt_svc.progress import Progress

if TYPE_CHECKING:
    import torch

    from trt_svc.backends.torch_program import Program

log = logging.getLogger(__name__)

MODEL, SETTINGS = "model.onnx", "torch.json"
REPLAYS = 5
"""Of each form, before one is chosen."""
MAX_GRAPHS = 32
"""Recordings share their scratch memory, so that each costs little more than its inputs and output."""
USUAL_LEVEL, TUNING_LEVEL = 3, 3
"""From this optimization level on a shape is recorded in both forms, with convolutions that cuDNN has timed."""
NEEDS = "Use a machine with an NVIDIA GPU and a CUDA build of torch; `trt-svc doctor` says what runs here."


@backends.register("torch-cuda")
class TorchCuda(Backend):
    name = "torch-cuda"
    needs_gpu = True
    options = frozenset({"optimization_level"})
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "bf16")
    # The kernels want the activations whole, not in two phases.
    default_rewrites: ClassVar[tuple[str, ...]] = ("fold-mean", "fold-snake")
    competing_rewrites: ClassVar[tuple[tuple[str, ...], ...]] = ((), ("upsample-as-conv",))

    def probe(self) -> Probe:
        import torch

        gpu = first_gpu()
        if gpu is None or not torch.cuda.is_available():
            return Probe(False, False, "it needs an NVIDIA GPU and a CUDA build of torch", NEEDS)
        return Probe(True, True, f"torch {torch.__version__} on {gpu.name}, {kernels_words()}")

    def identity(self, config: BuildConfig) -> dict[str, str]:
        import torch

        gpu = first_gpu()
        return {"torch": torch.__version__, **(gpu.identity() if gpu else Gpu.absent())}

    def build(self, graph: Graph, config: BuildConfig, progress: Progress) -> Built:
        from trt_svc.backends.torch_program import refuse_unknown

        refuse_unknown(graph.model.graph.node)
        level = USUAL_LEVEL if config.optimization_level is None else config.optimization_level
        settings = {"tunes": level >= TUNING_LEVEL}
        return Built({MODEL: graph.to_bytes(), SETTINGS: json.dumps(settings).encode()})

    def open(self, files: Mapping[str, bytes], device: str) -> Runner:
        import torch

        if not torch.cuda.is_available():
            raise BackendUnavailable("opening a torch-cuda engine", f"{self.probe().found}.", NEEDS)
        where = "cuda" if device == "auto" else device
        return CudaRunner(programs_of(files[MODEL], where), where, tunes=json.loads(files[SETTINGS])["tunes"])


def kernels_words() -> str:
    """Do the fused kernels run on this machine's GPU?"""
    from trt_svc.kernels import available

    return "fused kernels" if available("cuda") else "no fused kernels for it: plain torch"


def program_of(model: bytes, device: str) -> Program:
    """The calls of a stored graph, with the fused kernels if they run on the device."""
    (first, *_) = programs_of(model, device)
    return first


def programs_of(model: bytes, device: str) -> Iterator[Program]:
    """The forms of it that compete: time in a row, as it comes, and the channels of a moment side by side."""
    import onnx

    from trt_svc.backends.torch_fused import CHANNELS_LAST, KERNELS, channels_last
    from trt_svc.backends.torch_fusion import fused, has_snakes, without_twins
    from trt_svc.backends.torch_program import Program
    from trt_svc.kernels import available

    parsed = onnx.load_from_string(model)
    kernels = available(device)
    yield Program(parsed, fused(parsed) if kernels else without_twins(parsed.graph.node), KERNELS)
    nodes = fused(parsed, biases=False) if kernels else without_twins(parsed.graph.node)
    if not has_snakes(nodes):
        yield Program(parsed, nodes, CHANNELS_LAST, channels_last)


class CudaRunner(TorchRunner):
    """Runs a program; shapes that come again are recorded, in the form and with the convolutions that are quickest."""

    def __init__(self, programs: Iterable[Program], device: str, tunes: bool, max_graphs: int = MAX_GRAPHS) -> None:
        first, *others = programs
        super().__init__(cast(Any, first), device, max_graphs)
        self._tunes = tunes
        self._forms: list[Any] = [self._net, *(other.to(self._device) for other in others if tunes)]

    def _recorded(self, tensors: Tensors) -> TorchGraph:
        made: list[TorchGraph] = []
        for form in self._forms:
            try:
                made.append(self._recorder.record(tensors, self._prepared(form)))
            except Exception as err:
                log.debug("one form cannot be recorded: %s", err)
                if form is self._forms[-1] and not made:
                    raise
        if len(made) == 1:
            return made[0]
        seconds = [self._seconds(replay, tensors) for replay in made]
        best = made[seconds.index(min(seconds))]
        for replay in made:
            if replay is not best:
                replay.close()
        return best

    def _prepared(self, form: Any) -> Callable[[Tensors], Callable[[], torch.Tensor]]:
        def prepared(fixed: Tensors) -> Callable[[], torch.Tensor]:
            def launch() -> torch.Tensor:
                with FULL_FLOAT32, tuning() if self._tunes else contextlib.nullcontext():
                    made: torch.Tensor = form(*fixed)
                return made

            return launch

        return prepared

    def _seconds(self, replay: TorchGraph, tensors: Tensors) -> float:
        """Of one replay; the device has nothing else to do meanwhile."""
        import torch

        replay(tensors)
        torch.cuda.synchronize(self._device)
        began = time.perf_counter()
        for _ in range(REPLAYS):
            replay(tensors)
        torch.cuda.synchronize(self._device)
        return time.perf_counter() - began


@contextlib.contextmanager
def tuning() -> Iterator[None]:
    """cuDNN times its convolutions, once per shape. Only while recording: a new length would cost seconds otherwise."""
    import torch

    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
