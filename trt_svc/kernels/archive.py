"""The kernels as they are shipped: machine code per kind of GPU, and a manifest that says how each one is called.

    code = shipped().code(variant.name, target)

gives for one target ("sm86", or "ptx" for GPUs made later) the function's name, its image, threads and shared memory.
Arguments are `Kernel.types` in order; there are no hidden ones.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from io import BytesIO
from typing import Any, TypedDict

from trt_svc.errors import EngineError

TARGETS = (75, 80, 86, 89, 90, 120)
PTX = "ptx"
PTX_FROM = 80
"""Every GPU from this capability on can compile the text; the driver does it."""
TEGRA = {(7, 2), (8, 7)}
"""Do not run the code of other GPUs of their generation."""
MANIFEST = "manifest.json"
IMAGES = "images.tar.xz"


class Image(TypedDict):
    """What the manifest says of a kernel on one target."""

    registers: int
    spilled_bytes: int
    shared_bytes: int
    instructions: int
    sha256: str


class Kernel(TypedDict):
    """What the manifest says of a kernel: a `Variant`, and its images by target."""

    program: str
    dtype: str
    types: list[list[str]]
    constants: dict[str, int]
    aligned: bool
    threads: int
    images: dict[str, Image]


@dataclass(frozen=True)
class Code:
    """Machine code, or text for the driver to compile, of one kernel."""

    function: str
    image: bytes
    is_text: bool
    types: tuple[tuple[str, str], ...]
    threads: int
    shared_bytes: int


class Archive:
    """The shipped kernels."""

    def __init__(self, manifest: dict[str, Any], images: dict[str, bytes]) -> None:
        self.manifest = manifest
        self.kernels: dict[str, Kernel] = manifest["kernels"]
        self._images = images

    def code(self, name: str, target: str) -> Code | None:
        """Of a variant by its name; None where it was not built for the target."""
        kernel = self.kernels.get(name)
        if kernel is None or target not in kernel["images"]:
            return None
        said = kernel["images"][target]
        image = self._images[f"{name}.{target}"]
        if hashlib.sha256(image).hexdigest() != said["sha256"]:
            raise EngineError(f"kernel {name} for {target}", "the shipped file is damaged.", "Install trt-svc again.")
        types = tuple((argument, kind) for argument, kind in kernel["types"])
        return Code(kernel["program"], image, target == PTX, types, kernel["threads"], said["shared_bytes"])


def target_for(capability: tuple[int, int]) -> str | None:
    """The target whose code runs on a GPU: its own, else one of its generation, else the text; None if too old."""
    major, minor = capability
    same = [sm for sm in TARGETS if sm // 10 == major and (sm % 10 <= minor)]
    if same and capability not in TEGRA:
        return f"sm{max(same)}"
    return PTX if 10 * major + minor >= PTX_FROM else None


@lru_cache(maxsize=1)
def shipped() -> Archive:
    """The archive that came with the package."""
    folder = resources.files("trt_svc") / "assets" / "kernels"
    return Archive(json.loads((folder / MANIFEST).read_text("utf-8")), unpacked((folder / IMAGES).read_bytes()))


def packed(images: dict[str, bytes]) -> bytes:
    """Images by name in one archive; equal input, equal bytes."""
    raw = BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(images):
            entry = tarfile.TarInfo(name)
            entry.size = len(images[name])
            tar.addfile(entry, BytesIO(images[name]))
    return lzma.compress(raw.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def unpacked(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=BytesIO(lzma.decompress(data))) as tar:
        members = [(entry.name, tar.extractfile(entry)) for entry in tar]
        return {name: file.read() for name, file in members if file is not None}
