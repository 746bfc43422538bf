"""Compiles the plugins' kernels to PTX and writes what is shipped; needs triton, but no GPU.

Run by `make kernels`: python -m trt_svc.backends.plugin_kernels.building
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trt_svc.backends.plugin_kernels import SHIPPED, PluginKernel
from trt_svc.kernels import ahead, antialiased_snake
from trt_svc.kernels.variants import ALIGNMENT, WARPS, Variant
from trt_svc.optional import require
from trt_svc.vocoders import antialias

TARGETS = {"fp32": 75, "fp16": 75, "bf16": 80}
"""The oldest generation for each type; Turing has no bfloat16."""
PROGRAMS = ("plugin_snake.py", "antialiased_snake.py", "arithmetic.py")


def variant(dtype: str) -> Variant:
    """The kernel for samples of a type; its arguments are in TensorRT's order: inputs, numbers, output."""
    whole = antialiased_snake.variant(dtype, True)
    constants = {name: value for name, value in whole.constants if name != "WHOLE"} | {"ALIGNMENT": ALIGNMENT}
    known = tuple(constants.items())
    return Variant("plugin_snake", "antialiased_snake_plugin", whole.types, known, dtype, aligned=True)


def sources() -> str:
    """Hash of everything that the PTX depends on, but the compiler."""
    digest = hashlib.sha256(repr([(variant(dtype), sm) for dtype, sm in TARGETS.items()]).encode())
    programs = Path(ahead.__file__).parent / "programs"
    for file in [*(programs / name for name in PROGRAMS), Path(antialias.__file__)]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def compiled(dtype: str) -> PluginKernel:
    """The kernel for samples of a type."""
    chosen = variant(dtype)
    made, constants = ahead.compiled(chosen, TARGETS[dtype]), dict(chosen.constants)
    sizes = {"samples": constants["SAMPLES"], "lanes": constants["LANES"]}
    return PluginKernel(chosen.program, made.text, TARGETS[dtype], WARPS, made.shared_bytes, **sizes)


def write(path: Path = SHIPPED) -> Mapping[str, Any]:
    """Compiles for every type and writes the file that is shipped."""
    version = require("triton", "compiling kernels").__version__
    kernels = {dtype: asdict(compiled(dtype)) for dtype in TARGETS}
    made = {"sources": sources(), "triton": version, "kernels": kernels}
    path.write_bytes(lzma.compress(json.dumps(made, sort_keys=True).encode(), preset=9))
    return made


if __name__ == "__main__":
    write()
