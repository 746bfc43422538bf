"""Plugins for classic TensorRT: operations of ours that its compiler takes as one kernel each.

They are made with TensorRT's ahead-of-time plugins: the kernel's PTX goes into the engine, so an engine needs neither
Python nor this package to run. TensorRT-RTX has no plugins. Nothing here has run on a GPU yet.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Mapping
from typing import Any

from trt_svc.backends.plugin_kernels import PluginKernel, kernel_for, manifest
from trt_svc.errors import shown
from trt_svc.graph.custom import ANTIALIASED_SNAKE, DOMAIN

TYPES: Mapping[str, str] = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16"}
"""What TensorRT calls the types of samples, and Triton."""
_LOCK = threading.Lock()
_WHY_NOT: dict[str, str] = {}


def why_not(module: str) -> str:
    """Makes the plugins known to a flavour of TensorRT, once per process; says in a line why that fails, if it does."""
    with _LOCK:
        if module not in _WHY_NOT:
            _WHY_NOT[module] = _registered(module)
        return _WHY_NOT[module]


def identity() -> dict[str, str]:
    """What an engine with plugins depends on beside TensorRT."""
    return {"plugins": str(manifest()["sources"])[:16]}


def _registered(module: str) -> str:
    try:
        trt = importlib.import_module(module)
        trtp = _imported_quietly(trt, f"{module}.plugin")
    except ImportError:
        return f"{module} has no module for plugins"
    if not hasattr(trtp, "aot_impl") or not hasattr(trt, "QuickPluginCreationRequest"):
        return f"{module} {trt.__version__} takes no kernels that are compiled ahead"
    try:
        register(trtp)
    except Exception as err:  # the registry is native code
        return f"{module} refuses the plugin ({shown(f'{type(err).__name__}: {err}')})"
    return ""


def _imported_quietly(trt: Any, name: str) -> Any:
    """The module for plugins; it logs to standard output, which may carry a command's answer, that it is new."""

    class Silent:
        WARNING = None

        def log(self, *said: Any) -> None:
            pass

    logger, trt.Logger = trt.Logger, Silent
    try:
        return importlib.import_module(name)
    finally:
        trt.Logger = logger


def register(trtp: Any) -> None:
    """The plugin in three parts: what it gives, in which types, and its kernel. TensorRT reads the annotations."""
    plugin, tensor = f"{DOMAIN}::{ANTIALIASED_SNAKE}", trtp.TensorDesc  # the parser finds them by a node's names

    def described(x: Any, a: Any, inverse: Any) -> Any:
        return x.like()

    def in_types(x: Any, a: Any, inverse: Any, outputs: Any) -> Any:
        samples = "FP32|FP16|BF16"
        return [trtp.AutoTuneCombination(f"{samples}, FP32, FP32, {samples}", "LINEAR")]

    def with_kernel(x: Any, a: Any, inverse: Any, outputs: Any, tactic: Any) -> Any:
        kernel = kernel_for(TYPES[x.dtype.name])
        params, numbers = launch(trtp, kernel, x.shape_expr)
        return kernel.name, kernel.ptx, params, numbers

    described.__annotations__ = {"x": tensor, "a": tensor, "inverse": tensor, "return": tensor}
    in_types.__annotations__ = {}
    with_kernel.__annotations__ = {"return": tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]}
    trtp.register(plugin)(described)
    trtp.autotune(plugin)(in_types)
    trtp.aot_impl(plugin)(with_kernel)


def launch(trtp: Any, kernel: PluginKernel, shape: Any) -> tuple[Any, Any]:
    """How many blocks of how many threads, and the numbers between the kernel's inputs and its output."""
    batch, channels, length = shape
    segments = trtp.cdiv(length, kernel.samples)
    lanes = batch * channels * segments
    params = trtp.KernelLaunchParams()
    params.grid_x = trtp.cdiv(lanes, kernel.lanes)
    params.block_x = kernel.threads
    params.shared_mem = kernel.shared_bytes
    return params, trtp.SymIntExprs.from_tuple([trtp.SymInt32(n) for n in (lanes, length, segments, channels)])
