"""What a thread of a lane owns, the opened network and its stages, and how a window is run on it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from trt_svc.arrays import is_tensor, joined, on_host
from trt_svc.backends.base import Runner
from trt_svc.stages import Chain
from trt_svc.types import Array
from trt_svc.windows import Span


@dataclass(frozen=True)
class Parts:
    """The runners of one context."""

    whole: Runner
    stages: tuple[Runner, ...] = ()

    def sibling(self) -> Parts:
        """Another context of the same engine."""
        return Parts(self.whole.sibling(), tuple(stage.sibling() for stage in self.stages))


@dataclass(frozen=True)
class InStages:
    """The stages of a context as one runner, for questions."""

    parts: Parts
    spans: tuple[Span, ...]

    def run(self, inputs: Mapping[str, Array]) -> Array:
        """Audio of a whole utterance."""
        chain = Chain(self.spans, lambda given, number: self.parts.stages[number].run(given), lambda: None)
        made: Array = joined(chain.push(inputs, last=True))
        return made

    def sibling(self) -> InStages:
        return InStages(self.parts.sibling(), self.spans)


def job_of(inputs: Mapping[str, Any], stage: int | None) -> Callable[[Parts], Any]:
    """A window as a job: NumPy through the host; tensors in place, on the stream that is current for the caller."""
    if not any(is_tensor(value) for value in inputs.values()):
        return lambda parts: _runner(parts, stage).run(inputs)
    import torch

    device = next(value.device for value in inputs.values() if is_tensor(value))
    stream = _current_stream(device) if device.type == "cuda" else None

    def job(parts: Parts) -> Any:
        runner = _runner(parts, stage)
        if not hasattr(runner, "run_tensors"):
            made = runner.run({name: on_host(value) for name, value in inputs.items()})
            return torch.from_numpy(made).to(device)
        with _on(stream):
            tensors = {name: torch.as_tensor(value).to(device, non_blocking=True) for name, value in inputs.items()}
            return runner.run_tensors(tensors)

    return job


def in_thread(work: Callable[[], Any], inputs: Mapping[str, Any]) -> Callable[[], Any]:
    """Work in a thread of its own, on the stream that is current for the caller; gives its result when called."""
    result: list[Any] = []
    failure: list[BaseException] = []
    device = next((value.device for value in inputs.values() if is_tensor(value)), None)
    on_gpu = device is not None and device.type == "cuda"
    stream = _current_stream(device) if on_gpu else None

    def run() -> None:
        try:
            with _on(stream):
                result.append(work())
        except BaseException as err:  # it belongs to the caller
            failure.append(err)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def wait() -> Any:
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    return wait


def _current_stream(device: Any) -> Any:
    import torch

    return torch.cuda.current_stream(device)


def _on(stream: Any) -> AbstractContextManager[Any]:
    if stream is None:
        return nullcontext()
    import torch

    context: AbstractContextManager[Any] = torch.cuda.stream(stream)
    return context


def _runner(parts: Parts, stage: int | None) -> Any:
    return parts.whole if stage is None else parts.stages[stage]
