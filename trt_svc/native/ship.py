"""Compiles the kernels for every kind of machine, to be shipped inside the package.

python -m trt_svc.native.ship [FOLDER]
"""

from __future__ import annotations

import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from trt_svc.errors import MissingExtra
from trt_svc.native.compilers import compile_with, ziglang
from trt_svc.native.compiling import SHIPPED, SOURCE, write_manifest
from trt_svc.native.processor import Target

ISAS = {
    Target("linux", "x86_64"): ("avx512", "avx2"),
    Target("linux", "aarch64"): ("neon",),
    Target("windows", "x86_64"): ("avx512", "avx2"),
    Target("windows", "aarch64"): ("neon",),
    Target("macos", "aarch64"): ("neon",),
    Target("macos", "x86_64"): ("avx2",),
}
"""Macs with AVX-512 are few, and torch has gone from Intel's: they take AVX2, or compile."""


def ship(target: Target, folder: Path) -> list[Path]:
    """The libraries of a target, in a folder of its own under `folder`, with their manifest."""
    zig = ziglang()
    if zig is None:
        raise MissingExtra(
            "compiling for other machines", "the package 'ziglang' is not installed.",
            'Install it: pip install "trt-svc[native]".',
        )  # fmt: skip
    home = folder / target.name
    shutil.rmtree(home, ignore_errors=True)
    made = [home / target.library(isa) for isa in ISAS[target]]
    for isa, path in zip(ISAS[target], made, strict=True):
        compile_with(zig, target, isa, SOURCE, path)
    write_manifest(home, [path.name for path in made], f"ziglang {version('ziglang')}")
    return made


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else SHIPPED
    total = 0
    for target in ISAS:
        for path in ship(target, folder):
            total += path.stat().st_size
            sys.stdout.write(f"{path.stat().st_size / 1e3:8.0f} kB  {target.name}/{path.name}\n")
    sys.stdout.write(f"{total / 1e3:8.0f} kB  together\n")


if __name__ == "__main__":
    main()
