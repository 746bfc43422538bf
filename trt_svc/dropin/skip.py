"""Layers whose work is not needed while only the network's inputs are looked for."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, NoReturn, cast

from torch import Tensor, nn

from trt_svc.dropin.live import first_of
from trt_svc.errors import InputError


class Skipped:
    """Stands in a layer's `forward`: while `asleep()`, zeros of the right shape in place of the layer's work."""

    def __init__(self, layer: nn.Module, asleep: Callable[[], bool]) -> None:
        self._layer = weakref.ref(layer)  # no cycle: what the host lets go of is freed at once
        self._asleep = asleep
        self._before = layer.__dict__.get("forward")
        layer.forward = self

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        layer = self._layer()
        if layer is None:
            raise InputError("a call of a layer", "it is gone.", "Call the host's new one.")
        if not self._asleep():
            own = self._before or functools.partial(type(layer).forward, layer)
            return own(x, *args, **kwargs)
        if not isinstance(layer, nn.ConvTranspose1d):
            return x.new_zeros(x.shape)
        (kernel,), (stride,), padding = layer.kernel_size, layer.stride, cast(int, layer.padding[0])
        return x.new_zeros(len(x), layer.out_channels, (x.shape[-1] - 1) * stride - 2 * padding + kernel)

    def remove(self) -> None:
        """The layer as it was."""
        layer = self._layer()
        if layer is not None and layer.__dict__.get("forward") is self:
            del layer.__dict__["forward"]
            if self._before is not None:
                layer.forward = self._before

    def __deepcopy__(self, memo: object) -> NoReturn:
        self._refuse("copying")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        self._refuse("pickling")

    def _refuse(self, what: str) -> NoReturn:
        found = "its forward belongs to an engine of this process."
        raise InputError(f"{what} layers of an accelerated module", found, "restore() its handle first.")


def before_stage_two(module: nn.Module, asleep: Callable[[], bool]) -> list[Skipped]:
    """Between conv_pre and mini-NSF's source, which joins behind the second upsampler, lies a fifth of all work."""
    parts: Any = module
    blocks = list(parts.resblocks)[: len(parts.resblocks) // len(parts.ups)]
    return [Skipped(layer, asleep) for layer in (first_of(parts.ups[0]), *blocks, first_of(parts.ups[1]))]
