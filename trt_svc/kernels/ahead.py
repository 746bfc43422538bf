"""Compiles every kernel for every kind of GPU, without one, and writes what is shipped: `make kernels`.

Needs triton, whose wheel has NVIDIA's assembler. How to get a kernel for one target afterwards: `archive.shipped()`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_svc.errors import BuildError
from trt_svc.kernels import antialiased_snake, nsf_source, residual_tail, snake
from trt_svc.kernels.archive import IMAGES, MANIFEST, PTX, PTX_FROM, TARGETS, Image, Kernel, packed
from trt_svc.kernels.variants import ALIGNMENT, WARPS, Variant
from trt_svc.optional import require
from trt_svc.vocoders.antialias import kaiser_lowpass

ASSETS = Path(__file__).parents[1] / "assets" / "kernels"
PTX_VERSION = {75: 78, 80: 78, 90: 80, 120: 87}
"""By target of the text: the language, as old as it can be, since a driver compiles text no newer than itself."""
TEXT_FOR = {75: 75, 80: 80, 86: 80, 89: 80, 90: 90, 120: 120}
"""Targets of one generation are assembled from one text."""


@dataclass(frozen=True)
class Compiled:
    """A kernel as PTX, and the memory that it shares among its threads."""

    text: str
    shared_bytes: int


@dataclass(frozen=True)
class Assembled:
    """A kernel as machine code, and what its assembler said."""

    image: bytes
    registers: int
    spilled_bytes: int
    instructions: int


def all_variants() -> list[Variant]:
    """Everything that is shipped."""
    return [
        variant for module in (antialiased_snake, snake, residual_tail, nsf_source) for variant in module.variants()
    ]


def sources() -> str:
    """Hash of all that the shipped images are made from."""
    digest = hashlib.sha256()
    variants = all_variants()
    for module in sorted({"arithmetic", *(variant.module for variant in variants)}):
        digest.update((Path(__file__).parent / "programs" / f"{module}.py").read_bytes())
    digest.update(repr(variants).encode())
    digest.update(repr(([float(tap) for tap in kaiser_lowpass()], TEXT_FOR, PTX_VERSION, WARPS)).encode())
    return digest.hexdigest()


def compiled(variant: Variant, sm: int) -> Compiled:
    """A variant as PTX for a target and those that can run its code."""
    triton = require("triton", "compiling kernels")
    backends = importlib.import_module("triton.backends.compiler")
    options = {"num_warps": WARPS, "enable_fp_fusion": variant.fuses, "ptx_version": PTX_VERSION[sm]}
    with _afresh(triton.knobs):
        made = triton.compile(_source(variant), target=backends.GPUTarget("cuda", sm, 32), options=options)
    return Compiled(_plain(made.asm["ptx"], sm, len(variant.types)), int(made.metadata.shared))


def _source(variant: Variant) -> Any:
    """The program with everything that the compiler may know."""
    program = getattr(importlib.import_module(f"trt_svc.kernels.programs.{variant.module}"), variant.program)
    if not isinstance(program, importlib.import_module("triton.runtime.jit").JITFunction):
        raise BuildError("compiling kernels", "triton is set to interpret.", "Unset TRITON_INTERPRET.")
    constants = dict(variant.constants)
    signature = {**dict(variant.types), **dict.fromkeys(constants, "constexpr")}
    pointers = [i for i, (_, kind) in enumerate(variant.types) if kind.startswith("*")] if variant.aligned else []
    known = {(i,): [["tt.divisibility", ALIGNMENT]] for i in pointers}
    compiler = importlib.import_module("triton.compiler")
    return compiler.ASTSource(program, signature=signature, constexprs=constants, attrs=known)


@contextlib.contextmanager
def _afresh(knobs: Any) -> Iterator[None]:
    """Nothing from a cache, no paths in the images, and for all targets the older assembler, for older drivers."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for group in (knobs.compilation, knobs.cache, knobs.nvidia):
            stack.enter_context(group.scope())
        knobs.compilation.always_compile = knobs.compilation.disable_line_info = True
        knobs.cache.dir = folder
        knobs.nvidia.ptxas_blackwell = knobs.nvidia.ptxas.path
        yield


def _plain(text: str, sm: int, arguments: int) -> str:
    """PTX for a target and its successors, without the arguments that triton adds for its own use."""
    text = re.sub(rf"^\.target sm_{sm}a\b", f".target sm_{sm}", text, flags=re.MULTILINE)
    head = re.search(r"\.visible \.entry (\w+)\((.*?)\)", text, re.DOTALL)
    assert head is not None
    parameters = [line.strip().rstrip(",") for line in head[2].strip().splitlines()]
    for hidden in range(arguments, len(parameters)):
        if len(re.findall(rf"\b{head[1]}_param_{hidden}\b", text)) != 1:
            raise BuildError(f"kernel {head[1]}", "it uses memory that triton would provide.", "Write it otherwise.")
    kept = ",\n".join(f"\t{line}" for line in parameters[:arguments])
    return text[: head.start(2)] + f"\n{kept}\n" + text[head.end(2) :]


def assembled(text: str, sm: int) -> Assembled:
    """PTX as machine code of one target."""
    folder = Path(require("triton", "compiling kernels").knobs.nvidia.ptxas.path).parent
    with tempfile.TemporaryDirectory() as work:
        source, image = Path(work) / "kernel.ptx", Path(work) / "kernel.cubin"
        source.write_text(text)
        said = _tool(folder / "ptxas", "-v", f"-arch=sm_{sm}", source, "-o", image)
        listing = _tool(folder / "cuobjdump", "-sass", image)
        return Assembled(
            image.read_bytes(),
            registers=_number(r"Used (\d+) registers", said),
            spilled_bytes=_number(r"(\d+) bytes spill stores", said) + _number(r"(\d+) bytes spill loads", said),
            instructions=len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?!NOP|BRA `)\S", listing, re.MULTILINE)),
        )


def _tool(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"running {Path(command[0]).name}", done.stderr.strip(), "Look at the kernel's text.")
    return done.stdout + done.stderr


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found is not None, text
    return int(found[1])


def built(variants: Iterable[Variant]) -> tuple[dict[str, Kernel], dict[str, bytes]]:
    """The manifest's entries and the images of these variants, for all targets."""
    kernels: dict[str, Kernel] = {}
    images: dict[str, bytes] = {}
    for variant in variants:
        texts = {sm: compiled(variant, sm) for sm in sorted(set(TEXT_FOR.values()))}
        made: dict[str, Image] = {}
        for sm in TARGETS:
            code = assembled(texts[TEXT_FOR[sm]].text, sm)
            made[f"sm{sm}"] = _described(code.image, code, texts[TEXT_FOR[sm]].shared_bytes)
            images[f"{variant.name}.sm{sm}"] = code.image
            if sm == PTX_FROM:
                ptx = texts[sm].text.encode()
                made[PTX] = _described(ptx, code, texts[sm].shared_bytes)
                images[f"{variant.name}.{PTX}"] = ptx
        kernels[variant.name] = {
            "program": variant.program,
            "dtype": variant.dtype,
            "types": [list(pair) for pair in variant.types],
            "constants": dict(variant.constants),
            "aligned": variant.aligned,
            "threads": 32 * WARPS,
            "images": made,
        }
    return kernels, images


def _described(data: bytes, code: Assembled, shared_bytes: int) -> Image:
    return {
        "registers": code.registers,
        "spilled_bytes": code.spilled_bytes,
        "shared_bytes": shared_bytes,
        "instructions": code.instructions,
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def main() -> None:
    """Writes the archive and its manifest."""
    started = sources()
    kernels, images = built(all_variants())
    version = require("triton", "compiling kernels").__version__
    ASSETS.mkdir(parents=True, exist_ok=True)
    manifest = {"sources": started, "triton": version, "kernels": kernels}
    (ASSETS / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    (ASSETS / IMAGES).write_bytes(packed(images))


if __name__ == "__main__":
    main()
