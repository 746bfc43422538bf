"""The operators that `trt_svc.backends.torch_fusion` puts into a graph, by the fused kernels.

And the same with the channels of a moment side by side in memory, which tensor cores read without a copy. Tensors keep
their shape (B, C, T); only their strides differ, and torch's other operators leave those as they find them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trt_svc.backends.torch_fusion import ALIAS_FREE, BIASED_TAIL, SNAKE, TAIL
from trt_svc.backends.torch_operators import OPERATORS, Attributes, Operator


def _alias_free(said: Attributes, x: Tensor, a: Tensor, inverse: Tensor) -> Tensor:
    from trt_svc.kernels import antialiased_snake

    return antialiased_snake.run(x, a.reshape(-1), inverse.reshape(-1))


def _snake(said: Attributes, x: Tensor, a: Tensor, inverse: Tensor) -> Tensor:
    from trt_svc.kernels import snake

    return snake.run(x, a.reshape(-1), inverse.reshape(-1))


def _tail(said: Attributes, *branches: Tensor) -> Any:
    from trt_svc.kernels import residual_tail

    if any(branch.shape != branches[0].shape for branch in branches):
        return _tail_in_torch(said, *branches)
    keeps, scale, slope = bool(said["keeps_sum"]), said["scale"], said["slope"]
    if keeps and scale == 1.0 and len(branches) == 2:
        return residual_tail.add_leaky(*branches, slope)
    run = partial(residual_tail.mean_leaky, branches, scale, slope)
    return run(keep_sum=True) if keeps else run(keep_sum=False)


def _biased_tail(said: Attributes, x: Tensor, y: Tensor, bias: Tensor) -> Any:
    from trt_svc.kernels import residual_tail

    if x.shape != y.shape:
        total = x + (y + bias[:, None])
        return total, F.leaky_relu(total, said["slope"])
    return residual_tail.add_leaky(x, y, said["slope"], bias)


def _tail_in_torch(said: Attributes, *branches: Tensor) -> Any:
    total = branches[0]
    for branch in branches[1:]:
        total = total + branch
    total = total if said["scale"] == 1.0 else total * said["scale"]
    bent = F.leaky_relu(total, said["slope"])
    return (total, bent) if said["keeps_sum"] else bent


KERNELS: dict[str, Operator] = {
    **OPERATORS,
    ALIAS_FREE: _alias_free,
    SNAKE: _snake,
    TAIL: _tail,
    BIASED_TAIL: _biased_tail,
}
"""Every operator, with the fused ones by kernels."""


# Channels last.


def channels_last(weight: Tensor) -> Tensor:
    """A convolution's weights as the operators below take them: two axes, the first of length one."""
    if weight.dim() != 3:
        return weight
    return weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)


def _flat(said: Attributes) -> dict[str, Any]:
    """A convolution over one axis as one over two."""
    wide = {name: [first, *said[name]] for name, first in (("strides", 1), ("dilations", 1)) if name in said}
    if "pads" in said:
        before, after = said["pads"]
        wide["pads"] = [0, before, 0, after]
    if "output_padding" in said:
        wide["output_padding"] = [0, *said["output_padding"]]
    return {**said, **wide}


def _by_channels(name: str) -> Operator:
    plain = OPERATORS[name]

    def run(said: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
        if x.dim() != 3:
            return plain(said, x, weight, bias)
        return plain(_flat(said), x.unsqueeze(2), weight, bias).squeeze(2)

    return run


def _tail_by_channels(said: Attributes, *branches: Tensor) -> Any:
    """The kernels go through memory in order and need not know what lies beside what."""
    across = [branch.transpose(1, 2) for branch in branches]
    if not all(branch.is_contiguous() and branch.shape == across[0].shape for branch in across):
        return _tail_in_torch(said, *branches)
    made = _tail(said, *across)
    return tuple(part.transpose(1, 2) for part in made) if isinstance(made, tuple) else made.transpose(1, 2)


CHANNELS_LAST: dict[str, Operator] = {
    **OPERATORS,
    "Conv": _by_channels("Conv"),
    "ConvTranspose": _by_channels("ConvTranspose"),
    TAIL: _tail_by_channels,
}
"""Every operator but those whose kernels want time to lie in a row."""
