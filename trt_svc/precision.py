"""Which parts of a network run in half precision, applied by casting in torch before the graph is written.

No ONNX converter gets this right (see docs/precision.md), so types are explicit in the module: every layer is
wrapped to cast its input to its own type. The harmonic source is not here at all: it is rendered outside the
network and never meets half precision.
"""

from __future__ import annotations

import copy
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from trt_svc.build_config import Precision
from trt_svc.vocoders.base import VocoderNet

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TypedLayer(nn.Module):
    """A layer with a type of its own: casts its inputs, and its output to the type that follows."""

    def __init__(self, layer: nn.Module, compute: torch.dtype, out: torch.dtype) -> None:
        super().__init__()
        self.layer = layer.to(compute)
        self.compute = compute
        self.out = out

    def forward(self, *inputs: Tensor) -> Tensor:
        made: Tensor = self.layer(*[x.to(self.compute) for x in inputs])
        return made.to(self.out)


def typed(net: VocoderNet, precision: Precision) -> VocoderNet:
    """A copy of the network whose layers run in the precision's types; inputs and audio stay float32."""
    out = copy.deepcopy(net)
    if precision.name in ("fp32", "mixed"):  # mixed types are put into the finished graph
        return out
    for name, layer in layers_of(out):
        compute, result = rule_for(net, name, precision)
        if getattr(layer, "float32_inside", False):
            compute = result  # it widens by itself: a cast in front would be a pass over memory
        _replace(out, name, TypedLayer(layer, compute, result))
    return out


def layers_of(net: VocoderNet) -> list[tuple[str, nn.Module]]:
    """The layers that get a type each, outermost first: whole regions of the family, activations, convolutions."""
    found: list[tuple[str, nn.Module]] = []
    taken: set[str] = set()
    for name, module in net.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in taken)
        is_region = any(fnmatchcase(name, pattern) for pattern in net.half_regions)
        is_layer = hasattr(module, "samples_each_side") or isinstance(module, (nn.Conv1d, nn.ConvTranspose1d))
        is_layer = is_layer or type(module).__name__ == "InterleavedConv"
        if name and not inside and (is_region or is_layer):
            found.append((name, module))
            taken.add(name)
    return found


def rule_for(net: VocoderNet, name: str, precision: Precision) -> tuple[torch.dtype, torch.dtype]:
    """(type it computes in, type of its output) of a layer."""
    body = TYPES[precision.name]
    for pattern in net.float32_tails:
        if fnmatchcase(name, pattern):
            return torch.float32, torch.float32
    if any(fnmatchcase(name, pattern) for pattern in net.half_regions):
        protected = any(fnmatchcase(name, pattern) for pattern in precision.protected)
        return (torch.float32 if protected else body), torch.float32
    if any(fnmatchcase(name, pattern) for pattern in precision.protected):
        # Its result must not be rounded either: sums with it are float32 up to the next half layer.
        return torch.float32, torch.float32
    if any(fnmatchcase(name, pattern) for pattern in net.float32_layers):
        return torch.float32, body
    return body, body


def _replace(root: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(root.get_submodule(parent), leaf, new)
