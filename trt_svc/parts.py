"""What a thread of a lane owns, the opened network and its stages, and how a window is run on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trt_svc.arrays import is_tensor, on_host
from trt_svc.backends.base import Runner


@dataclass(frozen=True)
class Parts:
    """The runners of one context."""

    whole: Runner
    stages: tuple[Runner, ...] = ()

    def sibling(self) -> Parts:
        """Another context of the same engine."""
        return Parts(self.whole.sibling(), tuple(stage.sibling() for stage in self.stages))


def job_of(inputs: Mapping[str, Any], stage: int | None) -> Callable[[Parts], Any]:
    """A window as a job: NumPy through the host; tensors in place, on the stream that is current for the caller."""
    if not any(is_tensor(value) for value in inputs.values()):
        return lambda parts: _runner(parts, stage).run(inputs)
    import torch

    device = next(value.device for value in inputs.values() if is_tensor(value))
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None

    def job(parts: Parts) -> Any:
        runner = _runner(parts, stage)
        if not hasattr(runner, "run_tensors"):
            made = runner.run({name: on_host(value) for name, value in inputs.items()})
            return torch.from_numpy(made).to(device)
        with torch.cuda.stream(stream):
            tensors = {name: torch.as_tensor(value).to(device, non_blocking=True) for name, value in inputs.items()}
            return runner.run_tensors(tensors)

    return job


def _runner(parts: Parts, stage: int | None) -> Any:
    return parts.whole if stage is None else parts.stages[stage]
