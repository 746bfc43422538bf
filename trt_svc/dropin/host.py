"""What a host project says about itself: where it keeps its vocoders, and what their weights do not tell.

Neither this module nor the hosts' import torch: `trt-svc run` reads them before the host's script has run, which may
set variables that torch looks at when it is imported.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from trt_svc.registry import Registry

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Place:
    """Where a host keeps a vocoder."""

    label: str
    """As its users would write it: "net_g_ms.dec"."""
    module: nn.Module | None
    missing: str = ""
    """Why there is none."""


class Host(ABC):
    """One project. Nothing of it is imported: live objects are known by the names of their classes."""

    title: ClassVar[str]
    classes: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Generator classes by the module that defines them: what `trt-svc run` watches for."""
    modules: ClassVar[tuple[str, ...]] = ()
    """Further modules that `imported` wants to see under `trt-svc run`."""
    loaders: ClassVar[tuple[str, ...]] = ()
    """Methods of the object after which its places are looked at again."""

    @abstractmethod
    def claims(self, obj: Any) -> bool:
        """Is this live object one of this host's?"""

    @abstractmethod
    def places(self, obj: Any) -> list[Place]:
        """The vocoders of an object that `claims` accepted."""

    def facts(self, module: nn.Module) -> dict[str, Any]:
        """Keys of upstream's config that a generator's layers do not tell, such as its sample rate."""
        return {}

    def settings(self, obj: Any) -> dict[str, Any]:
        """What the host's own configuration asks for; the caller's words win. Under `trt-svc run`, of a generator.

        backend, precision, workspace_bytes, max_batch; off: why everything is left to the host.
        """
        return {}

    def imported(self, module: ModuleType) -> None:
        """A watched module has been imported by the host, under `trt-svc run`."""
        return


def class_path(obj: Any) -> str:
    """Module and name of an object's class: "vdecoder.nsf_hifigan.models.Generator"."""
    kind = type(obj)
    return f"{kind.__module__}.{kind.__qualname__}"


hosts: Registry[type[Host]] = Registry("host", "trt_svc.integrations")
