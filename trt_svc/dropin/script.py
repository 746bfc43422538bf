"""A Python script or module run as `python` would run it, inside this process."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_svc.errors import InputError, shown

ADVICE = "Write it as after `python`: trt-svc run -- inference.py --option value, or -m package.module."


@dataclass(frozen=True)
class Script:
    """What to run, and its own arguments."""

    name: str
    is_module: bool
    arguments: tuple[str, ...]

    @classmethod
    def from_words(cls, words: Sequence[str]) -> Script:
        """From a command line; a leading `python` may stand there."""
        rest = list(words)
        if rest and re.fullmatch(r"(.*[/\\])?python[\d.]*(\.exe)?", rest[0]):
            rest.pop(0)
        is_module = rest[:1] == ["-m"]
        if is_module:
            rest.pop(0)
        if not rest or rest[0].startswith("-"):
            found = f"{shown(rest[0])} is an option, not a script." if rest else "there is no script."
            raise InputError(f"running {shown(' '.join(words))}", found, ADVICE)
        if not is_module and not Path(rest[0]).expanduser().is_file():
            folder = shown(str(Path.cwd()))
            raise InputError(f"running {shown(rest[0])}", f"there is no such file seen from {folder}.", ADVICE)
        return cls(rest[0], is_module, tuple(rest[1:]))

    def run(self) -> dict[str, Any]:
        """Its globals when it has ended. Whatever it raises, SystemExit too, comes out as it is."""
        if self.is_module:
            with _as_main([self.name, *self.arguments], str(Path.cwd())):
                return runpy.run_module(self.name, run_name="__main__", alter_sys=True)
        path = Path(self.name).expanduser()
        with _as_main([self.name, *self.arguments], str(path.resolve().parent)):
            return runpy.run_path(str(path), run_name="__main__")


@contextmanager
def _as_main(argv: list[str], folder: str) -> Iterator[None]:
    """Arguments and first search path as the interpreter sets them."""
    before_argv, before_path = sys.argv, list(sys.path)
    sys.argv = argv
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.argv, sys.path[:] = before_argv, before_path


def exit_code(stop: SystemExit) -> int:
    """What `sys.exit` was given, as the interpreter reads it."""
    if isinstance(stop.code, int) or stop.code is None:
        return stop.code or 0
    sys.stderr.write(f"{stop.code}\n")
    return 1
