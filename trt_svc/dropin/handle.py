"""What `accelerate` gives back: what was done, how it went, and the way back."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Self

from torch import nn

from trt_svc.dropin.report import Report, described, refused
from trt_svc.dropin.swap import Swap
from trt_svc.dropin.trial import Heard


class Handle:
    """The vocoders of one object. Also a context manager: at its end everything is as it was."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.swaps: list[Swap] = []
        self.refused: dict[str, str] = {}
        """Places that were left alone, with the reason."""
        self.unfit: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
        """Modules that no engine could be made for: a host that loads for every slice is not kept waiting again."""
        self._undo: list[Callable[[], None]] = []

    def report(self) -> Report:
        """What runs where, how it sounded and how fast it was on the host's own first call."""
        return Report(self.host, (*(described(swap) for swap in self.swaps), *refused(self.refused)))

    def race(self, rounds: int = 3) -> dict[str, Heard]:
        """The first call of every place again, host and engine in turns."""
        found = {swap.label: swap.race(rounds) for swap in self.swaps}
        return {label: heard for label, heard in found.items() if heard is not None}

    def restore(self) -> None:
        """Every module and method as it was."""
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()
        for swap in self.swaps:
            swap.restore()

    def on_restore(self, undo: Callable[[], None]) -> None:
        """To be called by `restore`."""
        self._undo.append(undo)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()
