"""Every published config, and every stage of a conversion, through NVIDIA's compiler, in fp16, without a GPU.

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
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.full_size import CONFIGS, full_size
from benchmarks.full_size_stages import STAGES

if TYPE_CHECKING:
    from trt_svc.build_config import BuildConfig
    from trt_svc.graph.model import Graph
    from trt_svc.svc.stage import StageNet

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
    from trt_svc.build import default_rewrites
    from trt_svc.build_config import BuildConfig, Precision
    from trt_svc.graph.vocoder import graph_from_vocoder

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
    return {**row, **compiled(graph, settings)}


STAGE_HEAD = """
## Stages of a conversion

Every other network of a conversion as an engine of its own, at the size of the published models (random weights of a
trained network's scale). Products are half precision; norms, softmax, sums and searches are float32, and so are inputs
and outputs (`trt_svc/graph/half.py`). Stages that compare long vectors stay float32 as a whole. Lengths are samples for
content encoders of audio, windows for crepe, frames for all others.

- *dB* is the signal-to-noise ratio of the same graph on onnxruntime, values between layers
  [rounded](precision.md#what-the-figures-cover), against torch float32: the lowest of several lengths within a
  second. The gate is 45 dB.

| stage | precision | lengths x batch | result | dB | parse s | build s | MB | RSS MB | nodes | islands | kernels |
|---|---|---|---|---|---|---|---|---|---|---|---|"""
QUALITY_LONGEST = {"audio": 16_000}
QUALITY_FRAMES = 100


def one_stage(name: str) -> dict[str, object]:
    """Builds the engine of one stage in this process."""
    from trt_svc.build_config import BuildConfig, Precision
    from trt_svc.svc.stage_graphs import graph_of

    stage = STAGES[name]()
    precision = Precision("fp32" if stage.whole_float32 else "fp16")
    settings = BuildConfig(
        "tensorrt-rtx", precision=precision, frames=(stage.lengths,), batch=stage.batch, targets=TARGETS
    )
    graph = graph_of(stage, precision)
    row: dict[str, object] = {
        "stage": name,
        "precision": precision.name,
        "profiles": f"{stage.lengths} x {stage.batch}",
        "nodes": len(graph.model.graph.node),
        "islands": graph.float32_islands(),
    }
    # The compiler's memory is told before anything else takes some.
    return {**row, **compiled(graph, settings), "db": f"{quality_db(stage, graph):.0f}"}


def quality_db(stage: StageNet, graph: Graph) -> float:
    """Of the graph on onnxruntime, at the lengths of the gate that are not long."""
    from trt_svc.difference import difference
    from trt_svc.graph.check import opened_on_cpu
    from trt_svc.svc.engine_building import gate_shapes
    from trt_svc.svc.stage import in_torch

    longest = max(QUALITY_LONGEST.get(stage.inputs[0].name, QUALITY_FRAMES), stage.lengths.min)
    run, found = opened_on_cpu(graph), []
    for batch, length in gate_shapes(stage.lengths, stage.batch):
        if length <= longest:
            inputs = stage.examples(batch, length, length)
            found.append(difference(run(inputs), in_torch(stage)(inputs)).snr_db)
    return min(found)


def compiled(graph: Graph, settings: BuildConfig) -> dict[str, object]:
    """What the compiler makes of a graph."""
    from trt_svc.backends.base import backends
    from trt_svc.backends.tensorrt import PLAN
    from trt_svc.errors import TrtSvcError
    from trt_svc.progress import Quiet

    started = time.perf_counter()
    try:
        built = backends.get("tensorrt-rtx")().build(graph, settings, Quiet())
    except TrtSvcError as err:
        return {"result": f"{type(err).__name__}: {err.found}"}
    total_s = time.perf_counter() - started
    parse_s = float(built.notes["parse_s"])
    return {
        "result": "ok",
        "parse_s": f"{parse_s:.2f}",
        "build_s": f"{total_s - parse_s:.1f}",
        "mb": f"{len(built.files[PLAN]) / 1e6:.1f}",
        "peak_mb": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}",
        "kernels": built.notes["fused_kernels"],
    }


COLUMNS = (
    "config", "family", "form", "precision", "profiles", "result", "parse_s", "build_s", "mb", "peak_mb", "nodes",
    "islands", "kernels",
)  # fmt: skip
STAGE_COLUMNS = (
    "stage", "precision", "profiles", "result", "db", "parse_s", "build_s", "mb", "peak_mb", "nodes", "islands",
    "kernels",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", default=CONFIGS)
    parser.add_argument("--only", choices=("configs", "stages"), help="leave the other table out")
    parser.add_argument("--one", nargs=2, metavar=("CONFIG", "FORM"), help=argparse.SUPPRESS)
    parser.add_argument("--one-stage", metavar="STAGE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one or options.one_stage:
        print(json.dumps(one(*options.one) if options.one else one_stage(options.one_stage)))
        return
    if options.only != "stages":
        write_configs(options.configs)
    if options.only != "configs":
        write_stages()


def write_configs(names: Sequence[str]) -> None:
    from trt_svc.backends.trt_api import TrtApi

    version, machine = TrtApi.load("tensorrt_rtx").version, f"{platform.system()} {platform.machine()}"
    print(HEAD.format(targets=", ".join(TARGETS), version=version, machine=machine))
    for name in names:
        for form in ("usual", *EXTRA_FORMS.get(name, ())):
            write_row(COLUMNS, "--one", name, form)


def write_stages() -> None:
    print(STAGE_HEAD)
    for name in STAGES:
        write_row(STAGE_COLUMNS, "--one-stage", name)


def write_row(columns: Sequence[str], *arguments: str) -> None:
    """One build in a process of its own, as a line of a table."""
    Console(stderr=True).print(", ".join(arguments[1:]), "...")
    command = [sys.executable, "-m", "benchmarks.compile_matrix", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{arguments[1]} failed:\n{done.stderr}")
    row = json.loads(done.stdout.splitlines()[-1])
    print("| " + " | ".join(str(row.get(column, "")) for column in columns) + " |", flush=True)


if __name__ == "__main__":
    main()
