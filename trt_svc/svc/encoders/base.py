"""What a content encoder is: 16 kHz audio in, units (what is sung, not who sings) every 20 ms out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from trt_svc.errors import CheckpointNotFound, InputError, WeightsMismatch, shown
from trt_svc.inputs import as_wave
from trt_svc.registry import Registry
from trt_svc.svc.stage import Run, StageNet
from trt_svc.types import Array

RATE_HZ = 16000
HOP_SAMPLES = 320
CONV_KERNELS = (10, 3, 3, 3, 3, 2, 2)
CONV_STRIDES = (5, 2, 2, 2, 2, 2, 2)
CONV_REACH_SAMPLES = 400
"""Samples that one frame of the wav2vec convolutions hears."""
MAX_PEAK = 1e6
"""Beyond any audio, far below what overflows in the norms."""
HUGGING_FACE_FILES = ("model.safetensors", "pytorch_model.bin")


def conv_frames(samples: int) -> int:
    """Frames that the wav2vec convolutions make of so many samples; 0 below `CONV_REACH_SAMPLES`."""
    for kernel, stride in zip(CONV_KERNELS, CONV_STRIDES, strict=True):
        samples = max(0, (samples - kernel) // stride + 1)
    return samples


class ContentEncoder(ABC):
    """One kind of units, opened from its weights file."""

    name: ClassVar[str]
    channels: int
    """Channels of the units: on the class what voice models of this kind expect, on an object what the file has."""
    usual_files: ClassVar[tuple[str, ...]]
    """Names under `pretrain/`, the usual one first."""
    min_samples: ClassVar[int] = CONV_REACH_SAMPLES
    max_samples: ClassVar[int | None] = None

    @classmethod
    @abstractmethod
    def from_file(cls, path: str | Path, channels: int | None = None) -> Self:
        """The encoder stored in a file, or in a folder under one of its usual names.

        channels: what the voice model expects, where that is not the usual number (small networks in tests).
        """

    @abstractmethod
    def module(self) -> Any:
        """The torch module of the network, to be exported: its one input and output are described there."""

    def stage(self) -> StageNet | None:
        """What an engine for the network is built of; None where there can be none, as for a finished graph."""
        return None

    @abstractmethod
    def on(self, run: Run) -> None:
        """Lets `run` compute the network from now on, as long as it runs this encoder's `stage`."""

    @abstractmethod
    def _units(self, wave: Array) -> Array:
        """Units (batch, channels, frames) of audio (batch, samples) that has been checked."""

    def frames(self, samples: int) -> int:
        """Frames that come out for so many samples."""
        return conv_frames(samples)

    def __call__(self, wav16k: Any) -> Array:
        """Units (batch, channels, frames), float32, of audio (samples,) or (batch, samples) at 16 kHz."""
        wave = np.atleast_2d(as_wave(wav16k))
        self._check(wave)
        units = np.ascontiguousarray(self._units(wave))
        if not np.isfinite(units).all():
            raise WeightsMismatch(
                f"content encoder {self.name}",
                "its units are not finite.",
                "Its weights are damaged: get the file again.",
            )
        return units

    def _check(self, wave: Array) -> None:
        what, samples, peak = f"content encoder {self.name}", wave.shape[1], float(np.abs(wave).max())
        if samples < self.min_samples:
            found = f"{samples} samples at 16 kHz are less than the {self.min_samples} that one frame needs."
            raise InputError(what, found, "Pad the audio with zeros on both sides.")
        if self.max_samples is not None and samples > self.max_samples:
            found = (
                f"{samples / RATE_HZ:.2f} s of audio are longer than the {self.max_samples / RATE_HZ:g} s it can hear."
            )
            raise InputError(what, found, "Cut the audio into shorter pieces (--clip).")
        if peak > MAX_PEAK:
            raise InputError(what, f"the audio's largest value is {peak:.4g}.", "Give audio between -1 and 1.")

    @classmethod
    def check_channels(cls, found: int, asked: int | None, what: str) -> None:
        """Refuses a network of another width than voice models of this kind expect."""
        expected = cls.channels if asked is None else asked
        if found != expected:
            raise WeightsMismatch(
                f"{what} as content encoder {cls.name}",
                f"its units have {found} channels, {expected} are expected.",
                f"Give the right file (usually {cls.usual_files[0]}), or another encoder.",
            )


encoders: Registry[type[ContentEncoder]] = Registry("content encoder", "trt_svc.svc.encoders")


def weights_file(where: str | Path, usual: tuple[str, ...], encoder: str) -> Path:
    """The file itself, or the first of the usual names in a folder."""
    what = f"weights of content encoder {encoder}"
    try:
        path = Path(where).expanduser()
        if path.is_dir():
            names = (*usual, *HUGGING_FACE_FILES)
            path = next((path / name for name in names if (path / name).is_file()), path)
        if path.is_file():
            return path
        kind = "this folder holds none of the usual files" if path.is_dir() else "there is no such file"
    except (OSError, RuntimeError, ValueError) as err:  # rights, names too long, unknown ~users, NUL bytes
        found = f"{shown(str(where))} cannot be looked up ({shown(str(err))})."
        raise CheckpointNotFound(what, found, "Check the name and the folder's rights.") from err
    raise CheckpointNotFound(what, f"{kind}: {shown(str(where))}.", f"Its usual name is pretrain/{usual[0]}.")
