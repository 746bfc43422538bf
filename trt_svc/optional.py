"""Optional packages: which are here, and the one message for those that are not."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from trt_svc.errors import MissingExtra

EXTRA_OF = {
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "rtx",
    "torch_tensorrt": "torch-tensorrt",
    "cuda": "cuda-core",
    "pycuda": "pycuda",
    "openvino": "openvino",
    "onnxconverter_common": "onnx",
    "triton": "gpu",
    "pynvml": "gpu",
    "swift_f0": "f0",
    "pyworld": "svc",
    "parselmouth": "svc",
    "matplotlib": "bench",
    "auraloss": "bench",
    "pesq": "bench",
    "visqol": "bench",
    "jinja2": "bench",
    "scipy": "bench",
}


def is_installed(module: str) -> bool:
    """Is the package there? It is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def install_line(module: str) -> str:
    """The pip command that brings an optional package."""
    extra = EXTRA_OF.get(module.partition(".")[0])
    return f"pip install {module}" if extra is None else f'pip install "trt-svc[{extra}]"'


def require(module: str, purpose: str) -> ModuleType:
    """The imported package, or a MissingExtra that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as err:
        found = (
            f"the package {module} is not installed."
            if not is_installed(module)
            else f"the package {module} cannot be imported ({err})."
        )
        raise MissingExtra(purpose, found, f"Run: {install_line(module)}") from err
