"""What products in bfloat16 cost and save here: `python -m benchmarks.mixed_table > benchmarks/precision_mixed.md`.

Times are of the process on one thread, the least of several rounds in turn: neighbours on the machine hardly show.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import openvino
import torch
from torch import nn

from benchmarks.full_size import full_size
from benchmarks.full_size_stages import denoiser, randomised
from trt_svc.build_config import ShapeRange
from trt_svc.difference import difference
from trt_svc.features.f0.networks.crepe import Crepe
from trt_svc.features.f0.networks.crepe_spectral import SpectralCrepe
from trt_svc.graph.mixed import in_mixed, product_layers
from trt_svc.graph.model import Graph
from trt_svc.graph.vocoder import graph_from_vocoder
from trt_svc.mixed_layers import rounding_costs, worth_rounding
from trt_svc.svc.f0_stages import CrepeStage
from trt_svc.svc.stage import StageNet, in_torch
from trt_svc.svc.stage_graphs import graph_of, stage_graph
from trt_svc.svc.voice_stages import denoiser_stage
from trt_svc.types import Array
from trt_svc.vocoders.base import CoreInput
from trt_svc.vocoders.healthy import example_inputs

TARGETS_DB = (45.0, 48.0, 50.0, 53.0, 56.0, 60.0)
ROUNDS = 4
CREPE_WINDOWS = 64
SETTINGS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}

Inputs = Mapping[str, Array]


@dataclass(frozen=True)
class Subject:
    name: str
    module: nn.Module
    graph: Graph
    answer: Callable[[Inputs], Array]
    heard: Inputs
    """Short, for choosing layers."""
    timed: Inputs


def subjects() -> Iterator[Subject]:
    stage = denoiser_stage(denoiser())
    examples = stage.examples
    yield Subject(
        "diffusion denoiser 20 x 512, one step, 300 frames",
        stage.module, graph_of(stage), in_torch(stage), examples(1, 64, 0), examples(1, 300, 1),
    )  # fmt: skip
    for name in ("nsf_hifigan_44k", "sovits_41_dec"):
        yield _vocoder(name)


def _vocoder(name: str) -> Subject:
    net = full_size(name)

    def inputs(frames: int, seed: int) -> Inputs:
        given = example_inputs(net, 1, frames, seed)
        return {spec.name: given[spec.name].numpy() for spec in net.core_inputs()}

    def answer(given: Inputs) -> Array:
        with torch.inference_mode():
            made: Array = net(*[torch.from_numpy(given[spec.name]) for spec in net.core_inputs()]).numpy()
        return made

    graph = graph_from_vocoder(net, rewrites=("fold-mean",))
    return Subject(f"{name}, 100 frames", net, graph, answer, inputs(16, 0), inputs(100, 1))


def engine(graph: Graph) -> Callable[[Inputs], Array]:
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(graph.to_bytes(), b""), "CPU", SETTINGS)
    request = compiled.create_infer_request()

    def run(given: Inputs) -> Array:
        named = {port: given[next(n for n in port.get_names() if n in given)] for port in compiled.inputs}
        return np.array(request.infer(named)[compiled.outputs[0]])

    return run


def cpu_seconds(runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    least = dict.fromkeys(runs, float("inf"))
    for _ in range(ROUNDS):
        for name, run in runs.items():
            started = time.process_time()
            run()
            least[name] = min(least[name], time.process_time() - started)
    return least


def rows(subject: Subject) -> Iterator[list[str]]:
    layers, given = product_layers(subject.graph), subject.timed
    costs = list(rounding_costs(subject.module, lambda: subject.answer(subject.heard), layers))
    total, reference = sum(c.multiplications for c in costs), subject.answer(given)
    kept: dict[str, tuple[str, ...]] = {"float32": layers}
    for target in TARGETS_DB:
        chosen = worth_rounding(costs, target)
        kept[f"{target:.0f} dB"] = tuple(layer for layer in layers if layer not in chosen)
    kept["all"] = ()
    engines = {name: engine(in_mixed(subject.graph, some) if name != "float32" else subject.graph)
               for name, some in kept.items()}  # fmt: skip
    runs: dict[str, Callable[[], object]] = {"torch": lambda: subject.answer(given)}
    runs |= {name: (lambda run=run: run(given)) for name, run in engines.items()}  # type: ignore[misc]
    seconds = cpu_seconds(runs)
    for name, run in engines.items():
        share = sum(c.multiplications for c in costs if c.layer not in kept[name]) / total
        quality = difference(run(given), reference).snr_db
        times = (f"{seconds['torch'] / seconds[name]:.2f}", f"{seconds['float32'] / seconds[name]:.2f}")
        yield [subject.name, name, f"{100 * share:.0f} %", f"{quality:.1f}", f"{seconds[name]:.3f}", *times]


def crepe_rows() -> Iterator[list[str]]:
    """The same network by convolution and in the spectrum; quality of the logits."""
    net = randomised(Crepe())
    net.classifier.weight.mul_(20)
    spectral = SpectralCrepe(net).eval()
    windows = np.random.default_rng(0).standard_normal((CREPE_WINDOWS, 1024)).astype(np.float32)
    given = {"windows": windows[:, :, None]}

    def by(module: nn.Module) -> Callable[[], Array]:
        stage = StageNet("f0", CrepeStage(module), (CoreInput("windows", 1024),), _none, _ANY)  # type: ignore[arg-type]
        run = in_torch(stage)
        return lambda: run(given)

    inputs = (CoreInput("windows", 1024),)
    graphs = {"convolutions": CrepeStage(net), "spectrum": CrepeStage(spectral)}
    written = {name: stage_graph(module.eval(), inputs, "out") for name, module in graphs.items()}
    engines = {f"openvino, {name}": engine(graph) for name, graph in written.items()}
    engines |= {f"openvino, {name}, all products bfloat16": engine(in_mixed(g)) for name, g in written.items()}
    runs: dict[str, Callable[[], Array]] = {"torch, convolutions": by(net), "torch, spectrum": by(spectral)}
    runs |= {name: (lambda run=run: run(given)) for name, run in engines.items()}  # type: ignore[misc]
    seconds, expected = cpu_seconds(runs), _logits(by(net)())
    for name, run in runs.items():
        quality = f"{difference(_logits(run()), expected).snr_db:.1f}" if name != "torch, convolutions" else ""
        yield [name, quality, f"{seconds[name]:.3f}", f"{seconds['torch, convolutions'] / seconds[name]:.2f}"]


def _logits(salience: Array) -> Array:
    inside = np.clip(salience.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.asarray(np.log(inside / (1 - inside)))


def _table(head: Sequence[str], lines: Iterator[list[str]]) -> None:
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for line in lines:
        print("| " + " | ".join(line) + " |", flush=True)


HEAD = """
## Mixed bfloat16 on CPUs

Written by `python -m benchmarks.mixed_table`, which `make precision` only copies.

`precision="mixed"` by OpenVINO is for CPUs with AVX512-BF16 or AMX. Convolutions and matrix products of chosen layers
multiply in bfloat16 and everything between them is float32: the types are written into the graph, and the plugin keeps
to them (what it executed is asked of the compiled model in a test). Each layer is rounded alone on inputs like real
ones; those with the most multiplications per noise are chosen until the gate's noise (53 dB) is used up, and the engine
is measured. Of a conversion's stages the denoiser, and vocoders, are mixed; the others take little time, their errors
would add up, and a pitch that is one bin off changes the phase of all that follows.

Upsamplers and the first convolution cost 50 to 54 dB each, a convolution of a residual block 65 to 70 dB: that is why
everything in bfloat16 ends near 40 dB and a part of it does not. Random, calibrated weights; CPU seconds of one thread;
"x torch" and "x float32" are speeds relative to eager torch and to OpenVINO in float32.
"""
CREPE_HEAD = f"""
CREPE needs a sixth of the multiplications with its convolutions of 64 positions in the spectrum, in float32
(`trt_svc.features.f0.networks.crepe_spectral`); {CREPE_WINDOWS} windows, quality of the logits:
"""


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    print(HEAD.strip() + "\n\nOn " + str(openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")) + ":\n")
    head = ["network", "aimed at", "products in bfloat16", "SNR dB", "CPU s", "x torch", "x float32"]
    _table(head, (row for subject in subjects() for row in rows(subject)))
    print(CREPE_HEAD)
    _table(["CREPE full", "SNR dB", "CPU s", "x torch"], crepe_rows())


def _none(*_: int) -> dict[str, Array]:
    return {}


_ANY = ShapeRange(1, 1, 1)

if __name__ == "__main__":
    main()
