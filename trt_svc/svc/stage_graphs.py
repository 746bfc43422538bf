"""The stages of a conversion as graphs: the door to every backend's engines."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from torch import nn

import trt_svc.svc.band_writers  # noqa: F401 - files the writers of relative attention
from trt_svc.build_config import Precision
from trt_svc.errors import BuildError
from trt_svc.graph.export import export
from trt_svc.graph.half import in_half
from trt_svc.graph.lint import lint
from trt_svc.graph.mixed import in_mixed
from trt_svc.graph.model import Graph, GraphInput
from trt_svc.svc.stage import StageNet
from trt_svc.vocoders.base import CoreInput

OUTPUT = "out"
FLOAT32 = Precision("fp32")


def stage_graph(stage: nn.Module, inputs: Sequence[CoreInput], output: str) -> Graph:
    """The float32 graph of a stage (B, channels, T) -> (B, channels, T), for any batch and length."""
    named = [GraphInput(spec.name, spec.channels, Fraction(spec.per_frame)) for spec in inputs]
    graph = export(stage, named, output, ("batch", "channels", "frames"), {})
    lint(graph.model)
    return graph


def graph_of(stage: StageNet, precision: Precision = FLOAT32) -> Graph:
    """The graph of a stage in a precision; what may not lose digits stays float32."""
    graph = stage_graph(stage.module, stage.inputs, OUTPUT)
    if precision.name == "fp32" or stage.whole_float32:
        return graph
    if precision.name == "mixed":
        return in_mixed(graph, (*stage.float32, *precision.protected))
    if precision.name != "fp16":
        asked, advice = f"the {stage.name} in {precision.name}", "Use fp16 or fp32."
        raise BuildError(asked, "stages of a conversion are not written in it.", advice)
    half = in_half(graph, (*stage.float32, *precision.protected))
    lint(half.model)
    return half
