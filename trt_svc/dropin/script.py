"""A Python script or module run as `python` would run it, inside this process."""

from __future__ import annotations

import builtins
import io
import re
import runpy
import shutil
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from trt_svc.errors import InputError, shown

PYTHON = re.compile(r"(.*[/\\])?python[\d.]*(\.exe)?")
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
        if rest and PYTHON.fullmatch(rest[0]):
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

    def run(self) -> object:
        """Runs it as this process's main program, for good: threads that it leaves behind find everything in place.

        Gives what keeps its globals alive. Whatever it raises, SystemExit too, comes out as it is.
        """
        try:
            return self._run()
        finally:
            for thread in threading.enumerate():  # as the interpreter does before it ends
                if thread is not threading.current_thread() and not thread.daemon:
                    thread.join()

    def _run(self) -> object:
        sys.argv = [self.name, *self.arguments]
        if self.is_module:
            sys.path.insert(0, str(Path.cwd()))
            return runpy.run_module(self.name, run_name="__main__", alter_sys=True)
        path = Path(self.name).expanduser().resolve()
        sys.path.insert(0, str(path.parent))
        main = ModuleType("__main__")
        main.__dict__.update(__file__=str(path), __builtins__=builtins)
        sys.modules["__main__"] = main
        with io.open_code(str(path)) as file:
            code = compile(file.read(), str(path), "exec")
        exec(code, main.__dict__)
        return main


def other_interpreter(words: Sequence[str]) -> str:
    """The interpreter that a command line names, if it is not this one."""
    named = words[0] if words and PYTHON.fullmatch(words[0]) else ""
    found = shutil.which(named) if named else None
    return "" if found is None or Path(found).resolve() == Path(sys.executable).resolve() else found


def exit_code(stop: SystemExit) -> int:
    """What `sys.exit` was given, as the interpreter reads it."""
    if isinstance(stop.code, int) or stop.code is None:
        return stop.code or 0
    sys.stderr.write(f"{stop.code}\n")
    return 1
