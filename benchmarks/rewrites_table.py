"""Every graph rewrite by time and by sound, on the CPU backends: interleaved in one process, medians.

python -m benchmarks.rewrites_table > docs/rewrites.md
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.full_size import full_size
from trt_svc.backends.base import backends
from trt_svc.build_config import BuildConfig, Precision
from trt_svc.difference import difference
from trt_svc.graph.check import reference_audio
from trt_svc.graph.rewrites.base import applicable, rewrites
from trt_svc.graph.vocoder import graph_from_vocoder
from trt_svc.progress import Quiet
from trt_svc.timing import interleaved_seconds
from trt_svc.vocoders.healthy import example_inputs

CONFIGS = ("nsf_hifigan_44k", "hifigan_v1", "bigvgan_base_24khz_100band", "gptsovits_v4")
BACKENDS = ("onnxruntime", "openvino")
SECONDS_OF_AUDIO = 1.0
HEAD = Path(__file__).with_name("rewrites_head.md")


def rows(name: str) -> list[str]:
    """Table rows of one network."""
    net = full_size(name)
    frames = round(SECONDS_OF_AUDIO * net.spec.frames_per_second)
    inputs = example_inputs(net, 1, frames)
    reference = reference_audio(net, inputs)
    runs: dict[str, Any] = {"torch eager, fp32": lambda: reference_audio(net, inputs)}
    quality = {"torch eager, fp32": "reference"}
    for backend_name in BACKENDS:
        backend = backends.get(backend_name)()
        for forms in [(), *[(one,) for one in applicable(net) if not rewrites.get(one).needs_plugin]]:
            settings = BuildConfig(backend_name, precision=Precision("fp32")).for_family(net.family)
            graph = graph_from_vocoder(net, settings.precision, forms)
            runner = backend.open(backend.build(graph, settings, Quiet()).files, "cpu")
            arrays = {spec.name: inputs[spec.name].numpy() for spec in graph.inputs}
            label = f"{backend_name}, {forms[0] if forms else 'as upstream writes it'}"
            runs[label] = lambda runner=runner, arrays=arrays: runner.run(arrays)
            quality[label] = f"{difference(runner.run(arrays), reference).snr_db:.0f} dB"
    seconds = interleaved_seconds(runs, rounds=7, budget_s=90.0, hopeless=9.0)
    eager = seconds["torch eager, fp32"]
    return [
        f"| {name} | {label} | {value * 1000:.0f} | {eager / value:.2f}x | {quality[label]} |"
        for label, value in seconds.items()
    ]


def main() -> None:
    progress = Console(stderr=True)
    print(HEAD.read_text("utf-8").rstrip())
    print(f"\nThis machine: {os.cpu_count()} CPU threads, {SECONDS_OF_AUDIO:g} s of audio, batch 1.\n")
    print("| network | contender | median ms | against eager | SNR to torch |\n|---|---|---|---|---|")
    for name in CONFIGS:
        progress.print(f"{name} ...")
        print("\n".join(rows(name)), flush=True)


if __name__ == "__main__":
    main()
