"""The inputs of the network proper, taken from the host's own forward.

What lies in front of the network (the pitch source in its variants, the host's random numbers and their order, the
speaker, resized inputs) differs from host to host and stays the host's: its forward is run up to the first layer
that needs the last of the inputs, and stopped there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from trt_svc.dropin.live import first_of
from trt_svc.dropin.skip import before_stage_two
from trt_svc.errors import InputError
from trt_svc.vocoders.layers import LEAKY_SLOPE

_active = threading.local()


def refuse(what: str, whose: str) -> NoReturn:
    """Engines belong to their process: what leads to one is neither copied nor pickled."""
    found = "its forward belongs to an engine of this process."
    raise InputError(f"{what} {whose}", found, "restore() its handle first, or save its state_dict().")


class _Reached(BaseException):  # no Exception: a host's own handlers must not swallow it
    """Everything is there."""


class _Hook:
    """A forward-pre-hook; a copy of a watched layer must not carry it along."""

    def __init__(self, take: Callable[[Any], None]) -> None:
        self._take = take

    def __call__(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        self._take(args[0] if args else None)

    def __deepcopy__(self, memo: object) -> NoReturn:
        refuse("copying", "layers of an accelerated module")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        refuse("pickling", "layers of an accelerated module")


class Tap:
    """Watches a generator's layers for the named inputs: mel, speaker, source, pre_noise."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        self.names = tuple(names)
        parts: Any = module
        first_up = first_of(parts.ups[0])
        doors: list[tuple[nn.Module, Callable[[Any], None]]] = [(parts.conv_pre, self._at("mel"))]
        if "speaker" in names:
            doors.append((parts.cond, self._at("speaker")))
        if "pre_noise" in names:
            doors.append((first_up, self._noise(parts.conv_pre)))
        if "source" in names:
            convs = getattr(module, "noise_convs", None)
            doors.append((convs[0] if convs is not None else parts.source_conv, self._at("source")))
        elif "speaker" in names:
            doors.append((first_up, self._missed))
        self._handles = [layer.register_forward_pre_hook(_Hook(take)) for layer, take in doors]
        late = "source" in names and not hasattr(module, "noise_convs")  # mini-NSF's joins behind the second upsampler
        self._skipped = before_stage_two(module, lambda: self._taken() is not None) if late else []

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        for layer in self._skipped:
            layer.remove()

    def inputs(self, forward: Callable[[], Any]) -> dict[str, Tensor]:
        """Runs a forward as far as needed; on any other course of it an InputError."""
        outer = getattr(_active, "taken", None)
        _active.taken = taken = (self, dict[str, Tensor]())
        try:
            forward()
        except _Reached:
            pass
        finally:
            _active.taken = outer
        found = taken[1]
        missing = [name for name in self.names if name not in found]
        if missing:
            raise InputError("this call", f"the host's forward did not come by its {missing[0]}.", "The host runs it.")
        return {name: found[name] for name in self.names}

    def _at(self, name: str) -> Callable[[Any], None]:
        def take(given: Any) -> None:
            taken = self._taken()
            if taken is not None and name not in taken:
                taken[name] = given
                if all(wanted in taken for wanted in self.names):
                    raise _Reached

        return take

    def _missed(self, given: Any) -> None:
        """Behind everything that could be taken: what is not there by now does not come."""
        if self._taken() is not None:
            raise _Reached

    def _noise(self, conv_pre: nn.Module) -> Callable[[Any], None]:
        """What was added behind conv_pre shows as the difference to what arrives at the first upsampler."""

        def take(bent: Any) -> None:
            taken = self._taken()
            if taken is not None and "mel" in taken:
                straight = torch.where(bent < 0, bent / LEAKY_SLOPE, bent)
                taken["pre_noise"] = straight - conv_pre(taken["mel"])

        return take

    def _taken(self) -> dict[str, Tensor] | None:
        """The inputs so far, if this thread runs this tap (and not another one's inside it)."""
        active = getattr(_active, "taken", None)
        return active[1] if active is not None and active[0] is self else None
