"""Every published config through NVIDIA's compiler, in fp16, for three GPU generations, without a GPU.

python -m benchmarks.compile_matrix > docs/compile-matrix.md

Each build runs in a process of its own, so that its peak memory can be told.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time

from rich.console import Console

from benchmarks.full_size import CONFIGS, full_size

TARGETS = ("sm86", "sm89", "sm120")
EXTRA_FORMS = {"bigvgan_base_24khz_100band": ("upstream",)}
"""Shown beside the usual form, for comparison."""

HEAD = """# Compile matrix

Written by `make compile-matrix`. Every published config at full size (random weights, calibrated to a healthy output)
goes through TensorRT-RTX's real compiler on a machine without a GPU: fp16, strongly typed, dynamic batch and frames
with the family's default profiles, ahead of time for {targets}. TensorRT-RTX {version}, {machine}.

- *parse* and *build* in seconds; the graph's export is not in them. *MB* is the engine, *RSS MB* the peak of the whole
  process.
- *islands* are connected groups of float32 operations inside the half-precision graph: snakes, the last
  convolution with its tanh, WaveGlow's inverse.
- *kernels* are the fused kernels named in the plan (all targets and profiles together); fewer is better.
  `tests/data/fused_kernels.json` holds ceilings for small networks of the same shapes, and a test fails when a
  change of the graphs adds some.

Running these engines needs an RTX card: latency is not measured here.

| config | family | form | precision | profiles | result | parse s | build s | MB | RSS MB | nodes | islands | kernels |
|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


def one(name: str, form: str) -> dict[str, object]:
    """Builds one engine in this process."""
    from trt_svc.backends.base import backends
    from trt_svc.backends.tensorrt import PLAN
    from trt_svc.build import default_rewrites
    from trt_svc.build_config import BuildConfig, Precision
    from trt_svc.errors import TrtSvcError
    from trt_svc.graph.vocoder import graph_from_vocoder
    from trt_svc.progress import Quiet

    net = full_size(name)
    backend = backends.get("tensorrt-rtx")()
    forms = () if form == "upstream" else default_rewrites(backend, net)
    settings = BuildConfig("tensorrt-rtx", precision=Precision("fp16"), targets=TARGETS).for_family(net.family)
    graph = graph_from_vocoder(net, settings.precision, forms)
    row: dict[str, object] = {
        "config": name,
        "family": net.family,
        "form": ", ".join(forms) or "upstream's",
        "precision": settings.precision.name,
        "profiles": ", ".join(str(p.frames) for p in settings.profiles) + f" x {settings.batch}",
        "nodes": len(graph.model.graph.node),
        "islands": graph.float32_islands(),
    }
    started = time.perf_counter()
    try:
        built = backend.build(graph, settings, Quiet())
    except TrtSvcError as err:
        return {**row, "result": f"{type(err).__name__}: {err.found}"}
    total_s = time.perf_counter() - started
    parse_s = float(built.notes["parse_s"])
    return {
        **row,
        "result": "ok",
        "parse_s": f"{parse_s:.2f}",
        "build_s": f"{total_s - parse_s:.1f}",
        "mb": f"{len(built.files[PLAN]) / 1e6:.1f}",
        "peak_mb": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}",
        "kernels": built.notes["fused_kernels"],
    }


COLUMNS = (
    "config",
    "family",
    "form",
    "precision",
    "profiles",
    "result",
    "parse_s",
    "build_s",
    "mb",
    "peak_mb",
    "nodes",
    "islands",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", default=CONFIGS)
    parser.add_argument("--one", nargs=2, metavar=("CONFIG", "FORM"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(*options.one)))
        return
    from trt_svc.backends.trt_api import TrtApi

    progress = Console(stderr=True)
    version, machine = TrtApi.load("tensorrt_rtx").version, f"{platform.system()} {platform.machine()}"
    print(HEAD.format(targets=", ".join(TARGETS), version=version, machine=machine))
    for name in options.configs:
        for form in ("usual", *EXTRA_FORMS.get(name, ())):
            progress.print(f"{name}, {form} form ...")
            command = [sys.executable, "-m", "benchmarks.compile_matrix", "--one", name, form]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{name} failed:\n{done.stderr}")
            row = json.loads(done.stdout.splitlines()[-1])
            print("| " + " | ".join(str(row.get(column, "")) for column in (*COLUMNS, "kernels")) + " |", flush=True)


if __name__ == "__main__":
    main()
