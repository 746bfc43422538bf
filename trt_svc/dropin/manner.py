"""In which way a generator is called. What was heard of one way says nothing about another."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trt_svc.errors import InputError

Manner = tuple[tuple[str, str], ...]
Axes = frozenset[tuple[str, int]]
PLAIN = (type(None), bool, int, float, str)


def named(args: tuple[Any, ...], kwargs: Mapping[str, Any], signature: inspect.Signature | None) -> dict[str, Any]:
    """The arguments by name, as the forward with this signature takes them: by place or by name is the same."""
    if signature is not None:
        with contextlib.suppress(TypeError):  # the host's own forward will say what does not fit
            return dict(signature.bind(*args, **kwargs).arguments)
    return {**{str(place): value for place, value in enumerate(args)}, **kwargs}


def manner_of(given: Mapping[str, Any]) -> Manner:
    """Names and kinds of the arguments; of plain ones the values too, which may switch something."""
    return tuple((name, _kind(value)) for name, value in sorted(given.items()))


@dataclass(frozen=True)
class SharedAxes:
    """Axes of the arguments along which the network's input has as many rows, or frames, as they."""

    rows: Axes
    frames: Axes

    @classmethod
    def of(cls, given: Mapping[str, Any], mel: Tensor) -> SharedAxes:
        tensors = [(name, value) for name, value in given.items() if isinstance(value, Tensor)]
        rows = frozenset((name, 0) for name, value in tensors if value.ndim and len(value) == len(mel))
        frames = frozenset(
            (name, axis)
            for name, value in tensors
            for axis, length in enumerate(value.shape)
            if axis and length == mel.shape[-1]
        )
        return cls(rows, frames)

    def check(self, now: SharedAxes) -> None:
        """Refuses a call of which the network gets another part than in the call that was heard (a host in pieces)."""
        for heard, here in ((self.rows, now.rows), (self.frames, now.frames)):
            if heard and not heard & here:
                raise InputError("this call", "the host hands it to its network in pieces.", "The host runs it.")


def is_plain(value: Any) -> bool:
    """May a call with this argument be kept for later without keeping something of the host's alive?"""
    return isinstance(value, (Tensor, *PLAIN))


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor of {value.ndim} axes"
    return repr(value)[:80] if isinstance(value, PLAIN) else type(value).__name__
