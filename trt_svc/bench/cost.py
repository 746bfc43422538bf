"""What a call of a network costs at least: operations and memory traffic, convolution by convolution.

Counted on the meta device, so it takes no time and no memory. Everything between the convolutions and matrix
products is taken to be fused into them, and every one of them to go through main memory once: caches that hold a
small network's layers can beat that.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from trt_svc.vocoders.base import VocoderNet


@dataclass(frozen=True)
class Step:
    """One convolution or matrix product."""

    flop: float
    traffic_bytes: float
    """Its inputs, weights and output, each once, in float32."""


@dataclass(frozen=True)
class Cost:
    """A call, step by step."""

    steps: tuple[Step, ...]

    @property
    def gflop(self) -> float:
        return sum(step.flop for step in self.steps) / 1e9

    @property
    def traffic_bytes(self) -> float:
        return sum(step.traffic_bytes for step in self.steps)

    def least_s(self, gflops: float, gb_per_s: float, bytes_per_value: int = 4) -> float:
        """Seconds that it takes at least on a machine of these peaks: each step waits for the slower of the two."""
        scale = bytes_per_value / 4
        return sum(
            max(step.flop / (gflops * 1e9), scale * step.traffic_bytes / (gb_per_s * 1e9)) for step in self.steps
        )


def cost_of(net: VocoderNet, batch: int, frames: int) -> Cost:
    """The cost of one call; the network itself is left alone."""
    with torch.device("meta"):
        inputs = [torch.empty(batch, spec.channels, int(frames * spec.per_frame)) for spec in net.core_inputs()]
    seen = _Steps()
    ghost = _on_meta(net)
    with seen, torch.no_grad():  # inference mode would keep convolutions in one piece with their padding
        ghost(*inputs)
    return Cost(tuple(seen.steps))


def _on_meta(net: VocoderNet) -> VocoderNet:
    """A copy without memory: deep copies share what is in `memo`."""
    memo: dict[int, Any] = {
        id(t): torch.nn.Parameter(t.to("meta"), False) if isinstance(t, torch.nn.Parameter) else t.to("meta")
        for t in (*net.parameters(), *net.buffers())
    }
    return copy.deepcopy(net, memo)


class _Steps(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation that has a formula for its operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            tensors = [t for t in (*tree_leaves((args, kwargs)), *tree_leaves(made)) if isinstance(t, Tensor)]
            traffic = sum(4 * t.numel() for t in tensors)
            self.steps.append(Step(float(formula(*args, **(kwargs or {}), out_val=made)), float(traffic)))
        return made
