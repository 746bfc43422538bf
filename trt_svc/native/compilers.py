"""C++ compilers and how they are asked for a shared library of the kernels."""

from __future__ import annotations

import importlib.util
import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trt_svc.errors import BackendUnavailable, shown
from trt_svc.native.processor import Target

log = logging.getLogger(__name__)

ADVICE = 'Install a compiler: pip install "trt-svc[native]".'
LIMIT_S = 900.0
"""The first time, zig for Windows compiles the C library too: minutes."""
FLAGS = (
    "-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-exceptions", "-fno-rtti",
    "-fvisibility=hidden", "-shared",
)  # fmt: skip
# Levels rather than this machine's CPU: a folder of compiled libraries may move to another one.
ISA_FLAGS = {
    "avx512": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    "avx2": ("-march=x86-64-v3",),
    "neon": (),
}
# The oldest systems that the libraries run on.
ZIG_SYSTEMS = {"linux": "linux-gnu.2.17", "windows": "windows-gnu", "macos": "macos.11.0"}


@dataclass(frozen=True)
class Compiler:
    """A command that compiles C++."""

    name: str
    command: tuple[str, ...]
    is_zig: bool = False

    def arguments(self, target: Target, isa: str) -> list[str]:
        """All but the files."""
        system = [] if target.system == "windows" else ["-fPIC", "-lpthread"]
        if target.system == "macos":  # else the library would name the folder in which it was compiled
            system.append(f"-Wl,-install_name,@rpath/{target.library(isa)}")
        if self.is_zig:
            levels = [f.replace("x86-64-v", "x86_64_v") for f in ISA_FLAGS[isa]]
            where = ["-target", f"{target.machine}-{ZIG_SYSTEMS[target.system]}"]
            return [*self.command, *FLAGS, *levels, *system, *where, "-nostdlib++", "-s"]
        if target.system == "macos":
            system += ["-arch", "arm64" if target.machine == "aarch64" else target.machine]
        return [*self.command, *FLAGS, *ISA_FLAGS[isa], *system]


def compilers(target: Target) -> Iterator[Compiler]:
    """Those of this machine, in the order in which they are asked."""
    asked = os.environ.get("CXX")
    if asked:
        yield Compiler(f"CXX={asked}", tuple(shlex.split(asked, posix=target.system != "windows")))
    zig = ziglang()
    if zig:
        yield zig
    # GCC for Windows does not align the stack for wide vectors: such a library would crash.
    for name in ("clang++",) if target.system == "windows" else ("c++", "g++", "clang++"):
        path = shutil.which(name)
        if path:
            yield Compiler(name, (path,))


def ziglang() -> Compiler | None:
    """The compiler in the package `ziglang`: the same one everywhere, and for every other machine."""
    spec = importlib.util.find_spec("ziglang")
    for folder in (spec and spec.submodule_search_locations) or ():
        path = shutil.which("zig", path=folder)
        if path:
            return Compiler("ziglang", (path, "c++"), is_zig=True)
    return None


class CompilerFailed(Exception):
    """The message says which compiler, and why."""


def compile_with(compiler: Compiler, target: Target, isa: str, source: Path, output: Path) -> None:
    """Puts a library into its place, whole or not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix="compiling-", ignore_cleanup_errors=True) as scratch:
        made = Path(scratch) / output.name
        command = [*compiler.arguments(target, isa), str(source / "network.cpp"), "-o", str(made)]
        try:
            done = subprocess.run(
                command,
                cwd=scratch,  # some write more than they are asked for
                env={**os.environ, "LC_ALL": "C"},
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LIMIT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as err:
            reason = err.strerror if isinstance(err, OSError) and err.strerror else type(err).__name__
            raise CompilerFailed(f"{compiler.name} does not run ({reason})") from err
        if done.returncode or not made.is_file():
            log.debug("%s\n%s", shlex.join(command), done.stderr)
            raise CompilerFailed(f"{compiler.name} says {_gist(done.stderr, done.returncode)}")
        made.replace(output)


def compile_library(target: Target, isa: str, source: Path, output: Path) -> Compiler:
    """By the first compiler that can; BackendUnavailable where none can."""
    troubles = []
    for compiler in compilers(target):
        log.info("compiling the native kernels for %s with %s: some seconds, once", isa, compiler.name)
        try:
            compile_with(compiler, target, isa, source, output)
        except CompilerFailed as err:
            log.warning("the native kernels: %s", err)
            troubles.append(str(err))
        else:
            return compiler
    found = f"no compiler made them: {'; '.join(troubles)}." if troubles else "there is no C++ compiler."
    raise BackendUnavailable("compiling the native kernels", found, ADVICE)


def _gist(said: str, status: int) -> str:
    """The line of a compiler's complaint that tells most."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return repr(shown((errors or lines)[0])) if lines else f"nothing, and stops with {status}"
