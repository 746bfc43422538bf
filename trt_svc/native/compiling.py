"""The shared library of the kernels: shipped with the package, compiled before, or compiled now.

A library is used only beside a manifest that names its own hash and that of the present sources and flags.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock
from platformdirs import user_cache_path

from trt_svc.errors import BackendUnavailable, shown
from trt_svc.native.compilers import FLAGS, ISA_FLAGS, compile_library
from trt_svc.native.processor import Target, this_target, usable_isas

log = logging.getLogger(__name__)

DIRECTORY_VARIABLE = "TRT_SVC_NATIVE_DIR"
SOURCE = Path(__file__).with_name("source")
SHIPPED = Path(__file__).parents[1] / "assets" / "native"
MANIFEST = "manifest.json"


def library_path() -> Path:
    """A library for this CPU; BackendUnavailable where there is none and none can be made."""
    target = this_target()
    troubles = []
    for isa in usable_isas(target):
        found = _usable(SHIPPED / target.name, target.library(isa))
        try:
            return found or compiled_library(target, isa)
        except BackendUnavailable as err:
            troubles.append(err)
    raise troubles[0]


def compiled_library(target: Target, isa: str) -> Path:
    """A library out of the user's cache, compiled if it is not there. One process compiles, the others wait."""
    folder = native_directory() / f"{source_hash(SOURCE)[:16]}-{isa}"
    name = target.library(isa)
    found = _usable(folder, name)
    if found:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):
            found = _usable(folder, name)
            if found:
                return found
            compiler = compile_library(target, isa, SOURCE, folder / name)
            write_manifest(folder, [name], compiler.name)
    except OSError as err:
        raise BackendUnavailable(
            f"compiling the native kernels in {folder}", f"it cannot be done ({err.strerror or err}).",
            f"Choose another folder with {DIRECTORY_VARIABLE}.",
        ) from err  # fmt: skip
    found = _usable(folder, name)
    if not found:
        raise BackendUnavailable(
            "compiling the native kernels", f"what {compiler.name} made cannot be loaded.",
            'Use another compiler: set CXX, or pip install "trt-svc[native]".',
        )  # fmt: skip
    return found


def native_directory() -> Path:
    """TRT_SVC_NATIVE_DIR, else a folder in the user's cache directory."""
    asked = os.environ.get(DIRECTORY_VARIABLE)
    if not asked:
        return user_cache_path("trt_svc") / "native"
    try:
        return Path(asked).expanduser().absolute()
    except RuntimeError as err:  # an unknown ~user
        raise BackendUnavailable(
            f"{DIRECTORY_VARIABLE}={shown(asked)}", f"it is no folder ({err}).", "Set it to a path."
        ) from err


@cache
def source_hash(source: Path) -> str:
    """A hash of all that a library is compiled from, the flags included."""
    made = hashlib.sha256(json.dumps([FLAGS, ISA_FLAGS]).encode())
    for path in sorted([*source.glob("*.cpp"), *source.glob("*.h")]):
        # A checkout may have come with other ends of lines.
        made.update(f"{path.name}\n".encode() + path.read_bytes().replace(b"\r\n", b"\n"))
    return made.hexdigest()


def write_manifest(folder: Path, names: list[str], compiler: str) -> None:
    """Vouches for the libraries in a folder."""
    manifest = {
        "source": source_hash(SOURCE),
        "compiler": compiler,
        "libraries": {name: sha256_of(folder / name) for name in names},
    }
    part = folder / f"{MANIFEST}.part"
    part.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8", newline="\n")
    part.replace(folder / MANIFEST)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a folder says about its libraries; empty where it says nothing that can be read."""
    try:
        found = json.loads((folder / MANIFEST).read_bytes())
        return found if isinstance(found, dict) and isinstance(found["libraries"], dict) else {}
    except (OSError, ValueError, KeyError, RecursionError):
        return {}


def _usable(folder: Path, name: str) -> Path | None:
    """The library if it is of the present sources, undamaged, and the system can load it."""
    manifest, path = read_manifest(folder), folder / name
    if manifest.get("source") != source_hash(SOURCE) or name not in manifest["libraries"]:
        return None
    try:
        if sha256_of(path) != manifest["libraries"][name]:
            log.warning("%s is damaged and not used", path)
            return None
        ctypes.CDLL(str(path))
    except OSError as err:
        log.warning("%s cannot be loaded (%s)", path, err)
        return None
    return path


def sha256_of(path: Path) -> str:
    """The hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.stdout.write(f"{library_path()}\n")
