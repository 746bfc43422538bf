"""The graph of a vocoder: rewritten, typed, exported, linted, with everything a runtime must know inside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import torch

import trt_svc
from trt_svc.build_config import Precision
from trt_svc.graph.export import export
from trt_svc.graph.lint import lint
from trt_svc.graph.model import Graph, GraphInput
from trt_svc.graph.rewrites.base import rewritten
from trt_svc.precision import typed
from trt_svc.vocoders.base import VocoderNet

OUTPUT = "audio"


def graph_inputs(net: VocoderNet) -> tuple[GraphInput, ...]:
    """Inputs of the graph; a constant speaker is handed in once per frame, so every length is linked."""
    return tuple(GraphInput(spec.name, spec.channels, Fraction(spec.per_frame)) for spec in net.core_inputs())


def weights_sha256(net: VocoderNet) -> str:
    """Hash of every parameter: name, type, shape and bytes."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name}:{array.dtype}:{tuple(array.shape)}\n".encode())
        digest.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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
    lint(graph.model)
    return graph
