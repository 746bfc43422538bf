"""Tensors that write an ONNX graph instead of computing.

A module's own `forward` runs once with these in place of tensors; every torch function that meets one adds
nodes to the graph. Anything computed from weights alone runs in torch and ends up as a constant, so folding
happens by itself. Why not torch.onnx: it needs about 30 ms per node (half a minute for BigVGAN, against a
second here), decides about names and casts itself, and has to be told shapes that these graphs do not depend
on. A function that is not listed in `trt_svc.graph.functions` is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from trt_svc.errors import GraphError

OPSET = 20
BF16_OPSET = 22
"""The first in which convolutions take bfloat16."""
IR_VERSION = 10
ONNX_TYPES = {
    torch.float32: TensorProto.FLOAT,
    torch.float16: TensorProto.FLOAT16,
    torch.bfloat16: TensorProto.BFLOAT16,
    torch.int64: TensorProto.INT64,
    torch.bool: TensorProto.BOOL,
}
Shape = tuple[int | None, ...]
"""Lengths that are known while tracing; None for batch and time."""

FUNCTIONS: dict[Any, Callable[..., Any]] = {}
"""torch function -> the function that writes its nodes; filled by `trt_svc.graph.functions`."""


class Tracer:
    """Collects the nodes and constants of one graph."""

    def __init__(self, module: nn.Module) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self._tensor_names = {id(t): name for name, t in [*module.named_parameters(), *module.named_buffers()]}
        self._constant_names: dict[int, str] = {}
        self._kept: list[torch.Tensor] = []
        self._taken: dict[str, int] = {}
        self.scope: list[str] = []

    def unique(self, name: str) -> str:
        """`name`, numbered if it is taken."""
        count = self._taken.get(name, 0)
        self._taken[name] = count + 1
        return name if count == 0 else f"{name}_{count}"

    def constant(self, value: torch.Tensor) -> str:
        """The name of an initializer with this value; weights keep their own names."""
        if id(value) in self._constant_names:
            return self._constant_names[id(value)]
        name = self.unique(self._tensor_names.get(id(value), "constant"))
        array = value.detach().cpu().contiguous()
        if array.dtype == torch.bfloat16:
            proto = helper.make_tensor(
                name, TensorProto.BFLOAT16, list(array.shape), array.view(torch.int16).numpy().tobytes(), raw=True
            )
        else:
            proto = numpy_helper.from_array(array.numpy(), name)
        self.constants[name] = proto
        self._constant_names[id(value)] = name
        self._kept.append(value)  # ids stay unique only while the objects live
        return name

    def integers(self, values: Sequence[int]) -> str:
        """An int64 vector as an initializer."""
        return self.constant(torch.tensor(list(values), dtype=torch.int64))

    def node(self, op: str, inputs: Sequence[str], dtype: torch.dtype, shape: Shape, **attributes: Any) -> Traced:
        """Adds a node with one output."""
        return self.split_node(op, inputs, [(dtype, shape)], **attributes)[0]

    def split_node(
        self, op: str, inputs: Sequence[str], outputs: Sequence[tuple[torch.dtype, Shape]], **attributes: Any
    ) -> list[Traced]:
        """Adds a node with several outputs."""
        name = self.unique("/".join([*self.scope, op]))
        made = [Traced(self, f"{name}:{i}" if len(outputs) > 1 else name, *kind) for i, kind in enumerate(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), [t.name for t in made], name=name, **attributes))
        return made


class Traced:
    """A value of the graph under construction."""

    def __init__(self, tracer: Tracer, name: str, dtype: torch.dtype, shape: Shape) -> None:
        self.tracer = tracer
        self.name = name
        self.dtype = dtype
        self.shape = shape

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return call(func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        """Methods of torch.Tensor, by name."""
        method = getattr(torch.Tensor, name, None)
        if method is None or name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: call(method, (self, *args), kwargs)

    def __getitem__(self, index: Any) -> Traced:
        return _traced(call(torch.Tensor.__getitem__, (self, index), {}))

    def __add__(self, other: Any) -> Traced:
        return _traced(call(torch.add, (self, other), {}))

    __radd__ = __add__

    def __mul__(self, other: Any) -> Traced:
        return _traced(call(torch.mul, (self, other), {}))

    __rmul__ = __mul__

    def __sub__(self, other: Any) -> Traced:
        return _traced(call(torch.sub, (self, other), {}))

    def __rsub__(self, other: Any) -> Traced:
        return _traced(call(torch.sub, (other, self), {}))

    def __truediv__(self, other: Any) -> Traced:
        return _traced(call(torch.div, (self, other), {}))

    def __rtruediv__(self, other: Any) -> Traced:
        return _traced(call(torch.div, (other, self), {}))

    def __matmul__(self, other: Any) -> Traced:
        return _traced(call(torch.matmul, (self, other), {}))

    def __lt__(self, other: Any) -> Traced:
        return _traced(call(torch.lt, (self, other), {}))

    def __le__(self, other: Any) -> Traced:
        return _traced(call(torch.le, (self, other), {}))

    def __gt__(self, other: Any) -> Traced:
        return _traced(call(torch.gt, (self, other), {}))

    def __ge__(self, other: Any) -> Traced:
        return _traced(call(torch.ge, (self, other), {}))

    def __neg__(self) -> Traced:
        return _traced(call(torch.neg, (self,), {}))


def _traced(value: Any) -> Traced:
    assert isinstance(value, Traced)
    return value


def call(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Writes the nodes of a torch function."""
    if func not in FUNCTIONS:
        name = getattr(func, "__name__", str(func))
        raise UnknownFunction(
            "exporting a module",
            f"its forward calls torch function {name!r}, which has no translation.",
            "Add one in trt_svc/graph/functions.py, or export the module with torch.onnx.",
        )
    return FUNCTIONS[func](*args, **kwargs)


class UnknownFunction(GraphError):
    """The module uses a torch function that is not listed."""


def trace(module: nn.Module, inputs: Mapping[str, tuple[torch.dtype, Shape]]) -> tuple[Tracer, list[Traced]]:
    """Runs a module's forward on graph values; returns the graph and its outputs."""
    from trt_svc.graph import functions  # noqa: F401 - fills FUNCTIONS

    tracer = Tracer(module)
    values = [Traced(tracer, tracer.unique(name), dtype, shape) for name, (dtype, shape) in inputs.items()]
    paths = {id(m): name for name, m in module.named_modules()}

    def enter(called: nn.Module, _: Any) -> None:
        tracer.scope[:] = [paths[id(called)]] if paths.get(id(called)) else tracer.scope[:0]
        stack.append(list(tracer.scope))

    def leave(_called: nn.Module, _args: Any, _out: Any) -> None:
        stack.pop()
        tracer.scope[:] = stack[-1] if stack else []

    stack: list[list[str]] = []
    # On the module's own parts, not on all of torch: other threads may be computing.
    hooks = [part.register_forward_pre_hook(enter) for part in module.modules()]
    hooks += [part.register_forward_hook(leave) for part in module.modules()]
    try:
        with torch.no_grad():
            made = module(*values)
    finally:
        for hook in hooks:
            hook.remove()
    return tracer, list(made) if isinstance(made, (tuple, list)) else [made]


def array_of(proto: onnx.TensorProto) -> np.ndarray[Any, Any]:
    """The value of an initializer."""
    return np.asarray(numpy_helper.to_array(proto))
