"""What a rewrite is, and the register of them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from torch import nn

from trt_svc.errors import InputError
from trt_svc.registry import Registry
from trt_svc.vocoders.base import VocoderNet


class Rewrite(ABC):
    """Changes a network in place into an equal one."""

    name: ClassVar[str]
    excludes: ClassVar[tuple[str, ...]] = ()
    """Other forms of the same thing."""
    needs_plugin: ClassVar[bool] = False
    """Is it only for runtimes that take kernels of ours?"""

    @abstractmethod
    def applies(self, net: VocoderNet) -> bool:
        """Is there anything to rewrite?"""

    @abstractmethod
    def apply(self, net: VocoderNet) -> None:
        """Rewrites in place."""


rewrites: Registry[type[Rewrite]] = Registry("rewrite", "trt_svc.graph.rewrites")


def applicable(net: VocoderNet) -> list[str]:
    """Names of the rewrites that have something to do in this network."""
    return [name for name, kind in rewrites if kind().applies(net)]


def rewritten(net: VocoderNet, names: Iterable[str]) -> VocoderNet:
    """A copy of the network with these rewrites, in the register's order; the original stays as it is."""
    wanted = set(names)
    chosen = {name: rewrites.get(name)() for name in sorted(wanted)}
    for name, rewrite in chosen.items():
        clash = wanted & set(rewrite.excludes)
        if clash:
            raise InputError(
                f"rewrites {sorted(wanted)}",
                f"{name} and {clash.pop()} are two forms of one thing.",
                "Choose one of them.",
            )
    out = copy.deepcopy(net)
    for rewrite in chosen.values():
        if rewrite.applies(out):
            rewrite.apply(out)
    return out


def replace_modules(root: nn.Module, kind: type[nn.Module], make: object) -> int:
    """Puts make(module) in the place of every module of a kind; returns how many there were."""
    assert callable(make)
    count = 0
    for parent in list(root.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is kind:
                setattr(parent, name, make(child))
                count += 1
    return count
