"""Run by test_trt_plugins in a process of its own: the plugins in the bindings of classic TensorRT, without libraries.

    python plugins_with_bindings.py FOLDER_OF_BINDINGS REPOSITORY

Everything of `tensorrt.plugin` that is Python runs as it is. In place of native parts stand: the registry of plugins
(a list), and expressions of lengths (numbers that are known). Prints what the plugin answers, as JSON.
"""

from __future__ import annotations

import importlib
import json
import sys
from types import SimpleNamespace
from typing import Any

BATCH, CHANNELS, LENGTH = 2, 24, 1001


def run() -> dict[str, Any]:
    trt: Any = importlib.import_module("tensorrt_bindings")
    sys.modules["tensorrt"] = trt
    creators: list[Any] = []
    trt.get_plugin_registry = lambda: SimpleNamespace(
        register_creator=lambda creator, namespace: creators.append(creator),
        get_creator=lambda name, version, namespace: creators[-1],
    )
    trt.DimsExprs = lambda length: [None] * length  # native memory for expressions

    from trt_svc.backends import trt_plugins

    answers: dict[str, Any] = {"why_not": [trt_plugins.why_not("tensorrt") for _ in range(2)]}
    (creator,) = creators
    answers["plugin"] = [creator.name, creator.plugin_namespace, creator.plugin_version]
    for kind in ("FLOAT", "HALF", "BF16"):
        answers[kind] = asked(trt, creator, getattr(trt.DataType, kind))
    return answers


def asked(trt: Any, creator: Any, kind: Any) -> dict[str, Any]:
    """What TensorRT asks a plugin while it builds an engine, in its order."""
    request = trt.QuickPluginCreationRequest.STRICT_AOT
    plugin = creator.create_plugin(
        creator.name, creator.plugin_namespace, trt.PluginFieldCollection([]), trt.TensorRTPhase.BUILD, request
    )
    assert plugin.get_num_outputs() == 1
    number, builder = numbers(trt)
    types = [kind, trt.DataType.FLOAT, trt.DataType.FLOAT]
    (given,) = plugin.get_output_data_types(types, [3, 1, 1])
    row = [number(CHANNELS)]
    shapes = [[number(BATCH), number(CHANNELS), number(LENGTH)], row, row]
    (made,) = plugin.get_output_shapes(shapes, [], builder)
    tensors = [described(trt, kind, [BATCH, CHANNELS, -1]), *[described(trt, trt.DataType.FLOAT, [CHANNELS])] * 2]
    tensors = [*tensors, tensors[0]]
    offered = plugin.get_supported_format_combinations(tensors, 3)
    plugin.set_tactic(0)
    returned: list[Any] = []
    implementation = plugin.aot_impl_function
    plugin.aot_impl_function = lambda *args: returned.append(implementation(*args)) or returned[-1]
    plugin.get_launch_params(shapes, tensors, 3, SimpleNamespace(), SymbolSetter(), builder)
    (_, _, params, extra) = returned[0]
    plain = [tensor.desc for tensor in tensors]
    name, ptx = plugin.get_kernel(plain[:3], plain[3:])
    launch = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared_mem")
    return {
        "given": given.name,
        "shape": [length.value for length in made],
        "offered": [(desc.type.name, desc.format.name) for desc in offered],
        "launch": {key: getattr(params, key)._expr.value for key in launch},
        "extra": [number._expr.value for number in extra],
        "name": name,
        "ptx": ptx.decode(),
    }


class SymbolSetter(dict[int, Any]):
    """Takes the numbers that a kernel is called with."""

    nbSymExprs = 0  # noqa: N815


def described(trt: Any, kind: Any, dims: list[int]) -> Any:
    inner, outer = trt.PluginTensorDesc(), trt.DynamicPluginTensorDesc()
    inner.type, inner.format, inner.dims = kind, trt.TensorFormat.LINEAR, trt.Dims(dims)
    outer.desc = inner
    return outer


def numbers(trt: Any) -> tuple[Any, Any]:
    """Expressions whose value is known, and what computes with them."""
    operation = trt.DimensionOperation
    compute = {
        operation.SUM: lambda a, b: a + b,
        operation.PROD: lambda a, b: a * b,
        operation.FLOOR_DIV: lambda a, b: a // b,
        operation.CEIL_DIV: lambda a, b: -(-a // b),
    }

    class Number(trt.IDimensionExpr):  # type: ignore[misc]
        value = 0

    def number(value: int) -> Any:
        made = Number.__new__(Number)  # there is no constructor
        made.value = value
        return made

    builder = SimpleNamespace(constant=number, operation=lambda kind, a, b: number(compute[kind](a.value, b.value)))
    return number, builder


if __name__ == "__main__":
    sys.path[:0] = sys.argv[1:3]
    print(json.dumps(run()))
