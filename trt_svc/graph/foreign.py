"""ONNX files that users bring: half precision by conversion, because there is no torch module to type.

Our own graphs are never made this way: a converter works on single nodes and cannot know that a phase grows, so it
needs a list of operations to leave alone, and the result is linted like everything else.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from trt_svc.errors import GraphError, shown
from trt_svc.graph.lint import PHASE_OPS, lint
from trt_svc.optional import require

KEPT_IN_FLOAT32 = (*sorted(PHASE_OPS), "RandomNormalLike", "RandomUniformLike", "RandomNormal", "RandomUniform")
"""Beside the converter's own list: phase and the source's noise."""


def read_onnx(path: Path) -> onnx.ModelProto:
    """A model from a file, with its external data."""
    try:
        return onnx.load(str(path))
    except Exception as err:  # protobuf and onnx raise what they like
        found = f"it cannot be read ({shown(str(err))})."
        raise GraphError(f"ONNX file {shown(path.name)}", found, "Export it again.") from err


def to_half(model: onnx.ModelProto, keep: tuple[str, ...] = ()) -> onnx.ModelProto:
    """The model in mixed half precision with float32 inputs and outputs; `keep` names nodes to leave in float32."""
    float16 = require("onnxconverter_common.float16", "half precision for an ONNX file")
    shaped = onnx.shape_inference.infer_shapes(model)
    for i, node in enumerate(shaped.graph.node):
        node.name = node.name or f"{node.op_type}_{i}"  # the converter tells nodes apart by their names
    try:
        converted: onnx.ModelProto = float16.convert_float_to_float16(
            shaped,
            keep_io_types=True,
            op_block_list=[*float16.DEFAULT_OP_BLOCK_LIST, *KEPT_IN_FLOAT32],
            node_block_list=list(keep),
        )
    except Exception as err:  # the converter was not written for every graph
        found = f"onnxconverter-common fails on it ({shown(f'{type(err).__name__}: {err}')})."
        raise GraphError("half precision for an ONNX file", found, "Use it in float32.") from err
    lint(converted)
    return converted
