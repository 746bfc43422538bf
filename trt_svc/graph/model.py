"""A finished graph: the ONNX model, what feeds it, and what a person or another process must know about it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # every backend knows graphs, but who opens a stored engine has none to read
    import onnx

METADATA_KEY = "trt_svc"
FLOAT, FLOAT16, BFLOAT16 = 1, 10, 16
"""Element types as ONNX numbers them."""
HALF_TYPES = {FLOAT16, BFLOAT16}


@dataclass(frozen=True)
class GraphInput:
    """A tensor input (batch, channels, frames * per_frame), float32; `per_frame` 0: one position at any length."""

    name: str
    channels: int
    per_frame: Fraction = Fraction(1)

    def shape(self, batch: int, frames: int) -> tuple[int, int, int]:
        return (batch, self.channels, int(frames * self.per_frame) if self.per_frame else 1)

    def traced_shape(self) -> tuple[None, int, int | None]:
        """As known while the graph is written."""
        return (None, self.channels, None if self.per_frame else 1)

    def axis(self) -> str | int:
        """The time axis: its name, so that linked lengths show, or its fixed length."""
        if not self.per_frame:
            return 1
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

    def sha256(self) -> str:
        """Hash of everything that is computed, constants included, and of all metadata but our version."""
        bare = type(self.model)()
        bare.CopyFrom(self.model)
        del bare.metadata_props[:]
        said = {name: value for name, value in self.metadata.items() if name != METADATA_KEY}
        digest = hashlib.sha256(bare.SerializeToString(deterministic=True))
        digest.update(json.dumps(said, sort_keys=True).encode())
        return digest.hexdigest()

    def float32_islands(self) -> int:
        """Connected groups of float32 operations in a graph that also computes in half; 0 in a float32 graph."""
        types = tensor_types(self.model)
        if not HALF_TYPES & set(types.values()):
            return 0
        island: dict[str, str] = {}

        def root(name: str) -> str:
            while island[name] != name:
                name = island[name]
            return name

        for node in self.model.graph.node:
            if node.op_type == "Cast" or types.get(node.output[0]) != FLOAT:
                continue
            island[node.output[0]] = node.output[0]
            for source in node.input:
                if source in island:
                    island[root(source)] = root(node.output[0])
        return len({root(name) for name in island})

    def op_counts(self) -> dict[str, int]:
        """Nodes by operator."""
        counts: dict[str, int] = {}
        for node in self.model.graph.node:
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
        return dict(sorted(counts.items()))


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor."""
    from onnx import shape_inference

    inferred = shape_inference.infer_shapes(model)
    values = [*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def with_metadata(model: onnx.ModelProto, metadata: Mapping[str, Any]) -> None:
    """Stores the metadata inside the model."""
    from onnx import helper

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
    import onnx

    model = onnx.load(str(path))
    metadata = metadata_of(model)
    inputs = tuple(GraphInput(i["name"], i["channels"], Fraction(i["per_frame"])) for i in metadata.get("inputs", ()))
    return Graph(model, inputs, metadata)
