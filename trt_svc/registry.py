"""Named, registered parts (vocoder families, backends, f0 estimators): adding one is adding one file."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from trt_svc.errors import InputError

Part = TypeVar("Part")
Registered = TypeVar("Registered")


def did_you_mean(name: str, known: list[str]) -> str:
    """A hint that names the closest known word, or lists all of them."""
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    start = f"Did you mean {close[0]!r}? " if close else ""
    return f"{start}Known: {', '.join(sorted(known))}."


class Registry(Generic[Part]):
    """Parts of one kind by name; the modules of `package` are imported when they are looked for."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._parts: dict[str, Part] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[Registered], Registered]:
        """Class or function decorator that files the part under `name`."""

        def file_it(part: Registered) -> Registered:
            if name in self._parts:
                raise RuntimeError(f"two parts are called {self.kind} {name!r}")
            self._parts[name] = part  # type: ignore[assignment]
            return part

        return file_it

    def _modules(self) -> list[str]:
        package = importlib.import_module(self._package)
        return [f"{self._package}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]

    def _discover(self) -> None:
        if self._discovered:
            return
        for module in self._modules():
            importlib.import_module(module)
        self._discovered = True

    def _find(self, name: str) -> None:
        """Imports the module that files a part under this name: its neighbours may be heavy."""
        if name in self._parts or self._discovered:
            return
        for module in self._modules():
            if f'register("{name}")' in _source(module):
                importlib.import_module(module)
                return

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._discover()
        return sorted(self._parts)

    def __iter__(self) -> Iterator[tuple[str, Part]]:
        return iter([(name, self._parts[name]) for name in self.names()])

    def get(self, name: str) -> Part:
        """The part called `name`, or an InputError that suggests the closest one."""
        self._find(name)
        if name not in self._parts:
            names = self.names()
            if name not in names:
                raise InputError(
                    f"{self.kind} {name!r} was asked for", "there is none of that name.", did_you_mean(name, names)
                )
        return self._parts[name]


def _source(module: str) -> str:
    """Text of a module that is not imported for it; empty where there is none to read."""
    spec = importlib.util.find_spec(module)
    read = getattr(spec and spec.loader, "get_source", None)
    return (read(module) if read else None) or ""
