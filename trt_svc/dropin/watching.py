"""`trt-svc run`: a host's script as it is, its generators given engines when they are first called."""

from __future__ import annotations

import functools
import importlib.abc
import itertools
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trt_svc.dropin.host import Host, hosts
from trt_svc.dropin.report import Report, described, refused
from trt_svc.dropin.settings import Settings
from trt_svc.progress import Progress

if TYPE_CHECKING:
    from torch import nn

    from trt_svc.dropin.swap import Swap

log = logging.getLogger(__name__)


class Watch(importlib.abc.MetaPathFinder):
    """Sees every import; the generator classes of known hosts get a forward that calls for an engine."""

    def __init__(self, settings: Settings, progress: Progress | None = None) -> None:
        self.swaps: list[Swap] = []
        self.refused: dict[str, str] = {}
        """Generators that were left alone, with the reason."""
        self.kept: Any = None
        """What the script left behind, so that its last generators are there when the report is made."""
        self._settings = settings
        self._progress = progress
        self._hosts = {name: kind() for name, kind in hosts}
        self._numbers = itertools.count(1)
        self._prepared: list[tuple[Any, Any]] = []
        self._busy = threading.local()
        self._meeting = threading.RLock()
        self._met: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def __enter__(self) -> Watch:
        sys.meta_path.insert(0, self)
        for name, module in list(sys.modules.items()):
            self._look_into(name, module)
        return self

    def __exit__(self, *error: object) -> None:
        sys.meta_path.remove(self)
        for kind, own in self._prepared:
            if own is None:
                del kind.__call__
            else:
                kind.__call__ = own

    def report(self, race: bool) -> Report:
        """What was accelerated. race: with host and engine timed in turns once more, on each first call."""
        raced = {id(swap): swap.race() for swap in self.swaps} if race else {}
        places = [described(swap, raced.get(id(swap))) for swap in self.swaps]
        return Report("trt-svc run", (*places, *refused(self.refused)))

    # Imports.

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not self._watched(name) or getattr(self._busy, "name", None) == name:
            return None
        self._busy.name = name
        try:
            spec = next(filter(None, (_asked(finder, name, path, target) for finder in sys.meta_path)), None)
        finally:
            self._busy.name = None
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader, functools.partial(self._look_into, name))
        return spec

    def _watched(self, name: str) -> list[tuple[Host, tuple[str, ...]]]:
        """Hosts that define generators in a module of this name, or want to see it; the longest names win."""
        found = [
            (len(key), host, classes)
            for host in self._hosts.values()
            for key, classes in {**dict.fromkeys(host.modules, ()), **host.classes}.items()
            if name == key or ("." in key and name.endswith(f".{key}"))
        ]
        longest = max((length for length, *_ in found), default=0)
        return [(host, classes) for length, host, classes in found if length == longest]

    def _look_into(self, name: str, module: Any) -> None:
        for host, classes in self._watched(name):
            try:
                host.imported(module)
            except Exception as err:  # the host's script must not stop for it
                log.warning("%s has changed: %s: %s", host.title, type(err).__name__, err)
            for called in classes:
                kind = vars(module).get(called)
                if isinstance(kind, type) and hasattr(kind, "forward"):
                    self._prepare(host, kind)

    def _prepare(self, host: Host, kind: Any) -> None:
        """Its `__call__`, not its forward: subclasses and forwards of single objects then come in where they are."""
        own = kind.__call__
        if hasattr(own, "calls_for_an_engine"):
            return

        @functools.wraps(own)
        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self._meet(host, module, args, kwargs)
            return own(module, *args, **kwargs)

        call.calls_for_an_engine = True  # type: ignore[attr-defined]
        self._prepared.append((kind, vars(kind).get("__call__")))
        kind.__call__ = call

    # Generators.

    def _meet(self, host: Host, module: nn.Module, args: Any, kwargs: Any) -> None:
        """An engine for a generator that is called for the first time."""
        if module in self._met:
            return
        from trt_svc.dropin.swap import not_for_engines

        if not_for_engines(module, args, kwargs):
            return
        with self._meeting:
            if module not in self._met:
                self._met.add(module)
                self._give(host, module)

    def _give(self, host: Host, module: nn.Module) -> None:
        from trt_svc.dropin.accelerate import swapped
        from trt_svc.dropin.trial import said

        label = f"{host.title} {type(module).__name__} {next(self._numbers)}"
        try:
            wishes = host.settings(module)
            if wishes.get("off"):
                self.refused[label] = str(wishes["off"])
                return
            swap = swapped(module, label, self._settings.with_wishes(wishes), host, self._progress)
        except Exception as err:  # whatever does not fit runs as before
            self.refused[label] = said(err)
            log.warning("%s is left to the host: %s", label, self.refused[label])
            return
        self.swaps.append(swap)


def _asked(finder: Any, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
    found: ModuleSpec | None = finder.find_spec(name, path, target) if hasattr(finder, "find_spec") else None
    return found


class _Loader(importlib.abc.Loader):
    """A module's own loader, and a look at what it made. One of its own: archives share theirs between modules."""

    def __init__(self, loader: Any, look: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._look = look

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._look(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
