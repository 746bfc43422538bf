"""A voice's stages as graphs: the door to every backend's engines."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from torch import nn

import trt_svc.svc.band_writers  # noqa: F401 - files the writers of relative attention
from trt_svc.graph.export import export
from trt_svc.graph.lint import lint
from trt_svc.graph.model import Graph, GraphInput
from trt_svc.vocoders.base import CoreInput


def stage_graph(stage: nn.Module, inputs: Sequence[CoreInput], output: str) -> Graph:
    """The float32 graph of a stage (B, channels, T) -> (B, channels, T), for any batch and length."""
    named = [GraphInput(spec.name, spec.channels, Fraction(spec.per_frame)) for spec in inputs]
    graph = export(stage, named, output, ("batch", "channels", "frames"), {})
    lint(graph.model)
    return graph
