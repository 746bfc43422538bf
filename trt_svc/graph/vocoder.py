"""The graph of a vocoder: rewritten, typed, exported, linted, with everything a runtime must know inside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import torch
from torch import nn

import trt_svc
from trt_svc.build_config import Precision
from trt_svc.graph.export import export
from trt_svc.graph.lint import lint
from trt_svc.graph.mixed import in_mixed
from trt_svc.graph.model import Graph, GraphInput
from trt_svc.graph.rewrites.base import rewritten
from trt_svc.precision import typed
from trt_svc.vocoders.base import Stage, VocoderNet

OUTPUT = "audio"
STAGE_OUTPUT = "x_out"


def graph_inputs(net: VocoderNet) -> tuple[GraphInput, ...]:
    """Inputs of the graph; a constant speaker is handed in once per frame, so every length is linked."""
    return tuple(GraphInput(spec.name, spec.channels, Fraction(spec.per_frame)) for spec in net.core_inputs())


def weights_sha256(net: nn.Module) -> str:
    """Hash of every parameter: name, type, shape and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name}:{array.dtype}:{tuple(array.shape)}\n".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def network_sha256(net: VocoderNet) -> str:
    """Hash of a network: its layers with all their sizes, and its weights."""
    described = f"{net.family} {net.variant} {net.spec} {net.excitation().as_dict()}\n{net!r}\n{weights_sha256(net)}"
    return hashlib.sha256(described.encode()).hexdigest()


def graph_from_vocoder(net: VocoderNet, precision: Precision | None = None, rewrites: Iterable[str] = ()) -> Graph:
    """The ONNX graph of a loaded vocoder."""
    chosen, names = precision or Precision(), sorted(rewrites)
    body = typed(rewritten(net, names), chosen)
    metadata: dict[str, Any] = {
        **net.voice().as_dict(),
        "trt_svc": trt_svc.__version__,
        "precision": chosen.as_dict(),
        "rewrites": names,
        "weights_sha256": weights_sha256(net),
    }
    linked = net.samples_out(8) == 8 * net.spec.hop
    axes = ["batch", f"{net.spec.hop}*frames" if linked else "samples"]
    graph = export(body, graph_inputs(net), OUTPUT, axes, metadata)
    if chosen.name == "mixed":
        graph = in_mixed(graph, chosen.protected)
    lint(graph.model)
    return graph


class _Float32Stage(nn.Module):
    """A stage of a typed network; what leaves it is float32, as what enters."""

    def __init__(self, stage: Stage, body: VocoderNet) -> None:
        super().__init__()
        stage.net = body
        self.stage = stage

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.stage(*tensors)
        return made.float()


def stage_graphs(net: VocoderNet, precision: Precision, rewrites: Iterable[str] = ()) -> list[Graph]:
    """The graphs of the network's stages, in order; nothing where it cannot be cut."""
    body = typed(rewritten(net, sorted(rewrites)), precision)
    graphs: list[Graph] = []
    for stage in net.stages():
        inputs = tuple(GraphInput(i.name, i.channels, Fraction(i.per_frame)) for i in stage.inputs)
        is_last = len(graphs) + 1 == len(net.stages())
        axes = ["batch", "samples"] if is_last else ["batch", "channels", "ticks"]
        graph = export(_Float32Stage(stage, body), inputs, OUTPUT if is_last else STAGE_OUTPUT, axes, {})
        lint(graph.model)
        graphs.append(graph)
    return graphs


def described_stages(net: VocoderNet) -> list[dict[str, Any]]:
    """The stages in time, for an engine's metadata."""
    stages = net.stages()
    channels = [next(i.channels for i in stage.inputs if i.name == "x") for stage in stages[1:]]
    return [
        {
            "inputs": {i.name: str(Fraction(i.per_frame)) for i in stage.inputs},
            "out_per_tick": str(stage.out_per_tick),
            "out_channels": out_channels,
            "context": list(stage.context),
            "per_frame": str(stage.ticks_per_frame),
        }
        for stage, out_channels in zip(stages, [*channels, None][: len(stages)], strict=True)
    ]
