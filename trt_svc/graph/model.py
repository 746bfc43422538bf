"""A finished graph: the ONNX model, what feeds it, and what a person or another process must know about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

METADATA_KEY = "trt_svc"


@dataclass(frozen=True)
class GraphInput:
    """A tensor input (batch, channels, frames * per_frame), float32."""

    name: str
    channels: int
    per_frame: Fraction = Fraction(1)

    def shape(self, batch: int, frames: int) -> tuple[int, int, int]:
        return (batch, self.channels, int(frames * self.per_frame))

    def axis_name(self) -> str:
        """The name of the time axis, so that linked lengths show."""
        return "frames" if self.per_frame == 1 else f"{self.per_frame}*frames"


@dataclass(frozen=True)
class Graph:
    """An ONNX model with dynamic batch and frames."""

    model: onnx.ModelProto
    inputs: tuple[GraphInput, ...]
    metadata: Mapping[str, Any]
    module: Any = None
    """The torch module it was traced from, for backends that compile modules."""

    def to_bytes(self) -> bytes:
        return bytes(self.model.SerializeToString(deterministic=True))

    def structure_sha256(self) -> str:
        """Hash of everything but the numbers of the weights: nodes, names, types, shapes."""
        bare = onnx.ModelProto()
        bare.CopyFrom(self.model)
        del bare.metadata_props[:]
        for tensor in bare.graph.initializer:
            # Small integer tensors are shapes and axes, which are structure.
            if tensor.data_type != onnx.TensorProto.INT64:
                tensor.ClearField("raw_data")
        return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()

    def op_counts(self) -> dict[str, int]:
        """Nodes by operator."""
        counts: dict[str, int] = {}
        for node in self.model.graph.node:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
        return dict(sorted(counts.items()))


def with_metadata(model: onnx.ModelProto, metadata: Mapping[str, Any]) -> None:
    """Stores the metadata inside the model."""
    helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata, sort_keys=True)})


def metadata_of(model: onnx.ModelProto) -> dict[str, Any]:
    """The metadata of a model that we wrote; empty for others."""
    for prop in model.metadata_props:
        if prop.key == METADATA_KEY:
            found = json.loads(prop.value)
            return found if isinstance(found, dict) else {}
    return {}


def load_graph(path: Path) -> Graph:
    """A graph written by `Graph.to_bytes`."""
    model = onnx.load(str(path))
    metadata = metadata_of(model)
    inputs = tuple(GraphInput(i["name"], i["channels"], Fraction(i["per_frame"])) for i in metadata.get("inputs", ()))
    return Graph(model, inputs, metadata)
