"""Does a graph compute what its module computes? Asked of onnxruntime before the graph may be used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from onnx import TensorProto

from trt_svc.difference import Difference, difference, worst
from trt_svc.errors import GraphError
from trt_svc.graph.model import Graph, tensor_types
from trt_svc.graph.rounding import has_halves, rounding_written_out
from trt_svc.optional import require
from trt_svc.types import Array
from trt_svc.vocoders.base import VocoderNet
from trt_svc.vocoders.healthy import example_inputs

MIN_EXPORT_SNR_DB = 100.0
QUALITY_OF_GRAPH = "the same graph on onnxruntime, CPU, rounded where it is half"
"""What was measured where an engine cannot run."""


def cpu_session(graph: Graph, threads: int = 0) -> Any:
    """The graph opened by onnxruntime's CPU provider, with the rounding that the provider itself leaves out."""
    onnxruntime = require("onnxruntime", "checking a graph")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    data = rounding_written_out(graph.model).SerializeToString() if has_halves(graph.model) else graph.to_bytes()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def opened_on_cpu(graph: Graph, threads: int = 0) -> Callable[[Mapping[str, Array]], Array]:
    """Audio by onnxruntime's CPU provider; bfloat16, for which it has no kernels, by the graph's module in torch."""
    module = graph.module
    if module is not None and TensorProto.BFLOAT16 in tensor_types(graph.model).values():
        names = [spec.name for spec in graph.inputs]

        @torch.inference_mode()
        def in_torch(inputs: Mapping[str, Array]) -> Array:
            return np.asarray(module(*[torch.from_numpy(inputs[name]) for name in names]).float().numpy())

        return in_torch
    session = cpu_session(graph, threads)
    return lambda inputs: np.asarray(session.run(None, dict(inputs))[0])


def run_on_cpu(graph: Graph, inputs: Mapping[str, Array], threads: int = 0) -> Array:
    """One run; whoever has several opens the graph once."""
    return opened_on_cpu(graph, threads)(inputs)


@torch.inference_mode()
def reference_audio(net: VocoderNet, inputs: dict[str, torch.Tensor]) -> Array:
    """Audio by torch in float32."""
    return np.asarray(net(*[inputs[spec.name] for spec in net.core_inputs()]).numpy())


def compare_with_module(graph: Graph, net: VocoderNet, shapes: Iterable[tuple[int, int]], seed: int = 0) -> Difference:
    """Worst difference between the graph on onnxruntime and the module in torch float32 over (batch, frames) shapes."""
    session = cpu_session(graph)
    found = []
    for batch, frames in shapes:
        inputs = example_inputs(net, batch, frames, seed)
        arrays = {spec.name: inputs[spec.name].numpy() for spec in graph.inputs}
        made = np.asarray(session.run(None, arrays)[0])
        expected = reference_audio(net, inputs)
        if made.shape != expected.shape:
            raise GraphError(
                f"graph of {net.family} for {frames} frames",
                f"it makes audio of shape {made.shape}, the network {expected.shape}.",
                "This is a bug of the export: please report it with the config.",
            )
        found.append(difference(made, expected))
    return worst(found)
