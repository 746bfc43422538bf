"""Encoders that were exported as ONNX files, run as they are by onnxruntime.

What a file computes is not known here, only its shape: audio (1, 1, samples) in, its first output
(1, frames, channels) out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np

from trt_svc.errors import CorruptCheckpoint, InputError, RunError, UnknownFamily, shown
from trt_svc.optional import require
from trt_svc.svc.encoders.base import ContentEncoder, encoders, weights_file
from trt_svc.svc.stage import Run
from trt_svc.types import Array


class OnnxEncoder(ContentEncoder):
    """One opened file."""

    def __init__(self, session: Any, what: str, channels: int) -> None:
        self._session = session
        self._what = what
        self.channels = channels

    @classmethod
    def from_file(cls, path: str | Path, channels: int | None = None) -> Self:
        file = weights_file(path, cls.usual_files, cls.name)
        what = f"graph {file.name}"
        session = _opened(file, what)
        said = session.get_outputs()[0].shape[2]
        if isinstance(said, int):
            cls.check_channels(said, channels, what)
        return cls(session, what, cls.channels if channels is None else channels)

    def module(self) -> Any:
        """There is none: the file is a graph already."""
        raise InputError(
            f"the torch module of content encoder {self.name}",
            f"{self._what} is a finished ONNX graph.",
            "Compile the graph itself, or use the encoder of the same name without -onnx.",
        )

    def on(self, run: Run) -> None:
        """The file's own graph runs, and nothing else."""
        self.module()

    def _units(self, wave: Array) -> Array:
        name = self._session.get_inputs()[0].name
        # Published files were exported for one recording at a time.
        made = [self._run(name, np.ascontiguousarray(one[None, None])) for one in wave]
        return np.concatenate(made).transpose(0, 2, 1)

    def _run(self, name: str, audio: Array) -> Array:
        try:
            units = np.asarray(self._session.run(None, {name: audio})[0], np.float32)
        except Exception as err:  # onnxruntime's errors have no common base of their own
            reason = shown(str(err).strip().partition("\n")[0])
            raise RunError(
                self._what, f"onnxruntime failed on {audio.shape[2]} samples ({reason}).", "Get the file again."
            ) from err
        if units.ndim != 3 or units.shape[0] != 1 or units.shape[2] != self.channels:
            found = f"its units have the shape {units.shape} instead of (1, frames, {self.channels})."
            raise InputError(self._what, found, f"Give the file of content encoder {self.name}.")
        return units


def _opened(path: Path, what: str) -> Any:
    onnxruntime = require("onnxruntime", "content encoders stored as ONNX")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as err:  # onnxruntime's errors have no common base of their own
        reason = shown(str(err).strip().partition("\n")[0])
        raise CorruptCheckpoint(
            what, f"onnxruntime cannot open it ({reason}).", "Give a whole .onnx file: download or copy it again."
        ) from err
    _check_ports(session, what)
    return session


def _check_ports(session: Any, what: str) -> None:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    fits = (
        len(inputs) == 1
        and len(inputs[0].shape) == 3
        and inputs[0].type == "tensor(float)"
        and bool(outputs)
        and len(outputs[0].shape) == 3
    )
    if not fits:
        ports = ", ".join(f"{port.name} {port.type} {port.shape}" for port in (*inputs[:3], *outputs[:1]))
        raise UnknownFamily(
            what, f"it takes and gives {shown(ports)}.", "A content encoder takes float audio (1, 1, samples)."
        )


@encoders.register("vec768l12-onnx")
class Vec768Layer12Onnx(OnnxEncoder):
    name = "vec768l12-onnx"
    channels = 768
    usual_files = ("vec-768-layer-12.onnx",)


@encoders.register("vec768l9-onnx")
class Vec768Layer9Onnx(OnnxEncoder):
    name = "vec768l9-onnx"
    channels = 768
    usual_files = ("vec-768-layer-9.onnx",)


@encoders.register("vec256l12-onnx")
class Vec256Layer12Onnx(OnnxEncoder):
    name = "vec256l12-onnx"
    channels = 256
    usual_files = ("vec-256-layer-12.onnx",)


@encoders.register("vec256l9-onnx")
class Vec256Layer9Onnx(OnnxEncoder):
    name = "vec256l9-onnx"
    channels = 256
    usual_files = ("vec-256-layer-9.onnx",)


@encoders.register("hubertsoft-onnx")
class SoftHubertOnnx(OnnxEncoder):
    name = "hubertsoft-onnx"
    channels = 256
    usual_files = ("hubert-soft.onnx",)
