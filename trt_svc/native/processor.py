"""What this machine's CPU can run: the operating system and architecture, and the vectors it has."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from trt_svc.errors import BackendUnavailable, shown

ISA_VARIABLE = "TRT_SVC_NATIVE_ISA"
CPUINFO = Path("/proc/cpuinfo")

# The names of /proc/cpuinfo for the levels v3 and v4 of x86-64, without what every CPU has that has the rest.
_AVX2 = frozenset(("avx", "avx2", "fma", "bmi1", "bmi2", "f16c", "movbe"))
_AVX512 = frozenset(("avx512f", "avx512vl", "avx512bw", "avx512dq", "avx512cd"))
# Windows says "AVX-512 F" only; the one family with F alone (Xeon Phi) has not run Windows for years.
_WINDOWS_FEATURES = {40: _AVX2, 41: _AVX512}
_MAC_NAMES = {"bmi1": "bmi1", "bmi2": "bmi2", "avx": "avx1_0", "avx2": "avx2_0"}


@dataclass(frozen=True)
class Target:
    """Machines that run the same shared libraries, but for the vectors."""

    system: str
    """linux, windows or macos."""
    machine: str
    """x86_64 or aarch64."""

    @property
    def name(self) -> str:
        return f"{self.system}-{self.machine}"

    @property
    def suffix(self) -> str:
        return {"windows": ".dll", "macos": ".dylib"}.get(self.system, ".so")

    def library(self, isa: str) -> str:
        """The name of the library's file."""
        return f"trt_svc_native-{isa}{self.suffix}"


def this_target() -> Target:
    """Where this process runs; BackendUnavailable where no kernels are written for it."""
    system = {"linux": "linux", "win32": "windows", "darwin": "macos"}.get(sys.platform, sys.platform)
    # On Windows the machine need not be what the process is compiled for.
    machine = sysconfig.get_platform() if system == "windows" else platform.machine()
    machine = {"win-amd64": "x86_64", "amd64": "x86_64", "win-arm64": "aarch64", "arm64": "aarch64"}.get(
        machine.lower(), machine
    )
    if system not in ("linux", "windows", "macos") or machine not in ("x86_64", "aarch64"):
        raise BackendUnavailable(
            "the native kernels", f"there are none for {shown(system)} on {shown(machine)}.", "Choose another backend."
        )
    return Target(system, machine)


def usable_isas(target: Target) -> tuple[str, ...]:
    """The kinds of vectors that this CPU has, the widest first; TRT_SVC_NATIVE_ISA chooses one of them."""
    found = _isas(target)
    asked = os.environ.get(ISA_VARIABLE)
    if asked:
        if asked not in found:
            raise BackendUnavailable(
                f"{ISA_VARIABLE}={shown(asked)}", f"this CPU has {' and '.join(found) or 'none of them'}.", "Unset it."
            )
        return (asked,)
    if not found:
        raise BackendUnavailable(
            "the native kernels", "this CPU has neither AVX2 with FMA nor NEON.", "Choose another backend."
        )
    return found


def _isas(target: Target) -> tuple[str, ...]:
    if target.machine == "aarch64":
        return ("neon",)
    features = {"linux": _linux_features, "windows": _windows_features, "macos": _mac_features}[target.system]()
    if not features >= _AVX2:
        return ()
    return ("avx512", "avx2") if features >= _AVX512 else ("avx2",)


def _linux_features() -> frozenset[str]:
    try:
        lines = CPUINFO.read_text(errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())


def _windows_features() -> frozenset[str]:
    if sys.platform != "win32":
        return frozenset()
    present = ctypes.windll.kernel32.IsProcessorFeaturePresent
    return frozenset().union(*(names for number, names in _WINDOWS_FEATURES.items() if present(number)))


def _mac_features() -> frozenset[str]:
    asked = ctypes.CDLL(None).sysctlbyname

    def has(name: str) -> bool:
        value, size = ctypes.c_int64(0), ctypes.c_size_t(8)
        missing = asked(b"hw.optional." + name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
        return not missing and value.value != 0

    # macOS has no name for movbe; every CPU with AVX2 has it.
    return frozenset(name for name in _AVX2 | _AVX512 if name == "movbe" or has(_MAC_NAMES.get(name, name)))
