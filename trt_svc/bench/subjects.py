"""What is benchmarked: a checkpoint, or a published config whose weights are drawn at random."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from trt_svc.bench.race import Inputs
from trt_svc.cache import EngineCache
from trt_svc.checkpoints.load import Checkpoint, open_checkpoint
from trt_svc.checkpoints.locate import DEMO_ALIAS, DEMO_FOLDER, MODEL_PATH_VARIABLE, USUAL_FOLDERS
from trt_svc.checkpoints.presets import preset, presets
from trt_svc.clips import Clip, clip_of
from trt_svc.errors import InputError, shown
from trt_svc.graph.vocoder import weights_sha256
from trt_svc.types import Array
from trt_svc.vocoders.base import VocoderNet
from trt_svc.vocoders.healthy import example_inputs, healthy_net

CLIPS = {"sung": DEMO_FOLDER / "sung.flac", "spoken": DEMO_FOLDER / "spoken.flac"}
MOST_EXAMPLE_FRAMES = 256
"""Longer inputs repeat an example of this length: synthesis of the mel takes longer than many a vocoder."""


@dataclass(frozen=True)
class Subject:
    """An opened network."""

    name: str
    net: VocoderNet
    checkpoint: Checkpoint | None
    """None: weights drawn at random."""
    origin: str
    cache: EngineCache
    """Where its engines are kept: with everybody else's, or only for the time of the race."""
    weights_sha256: str

    @property
    def trained(self) -> bool:
        return self.checkpoint is not None

    def inputs(self, batch: int, frames: int) -> Inputs:
        """Inputs of a shape, a new one for every call."""
        short = example_inputs(self.net, 1, min(frames, MOST_EXAMPLE_FRAMES))
        per_frame = {spec.name: Fraction(spec.per_frame) for spec in self.net.core_inputs()}
        repeats = -(-frames // MOST_EXAMPLE_FRAMES)
        base = {}
        for name, value in short.items():
            long = np.tile(value.numpy(), (1, 1, repeats))[:, :, : int(frames * per_frame[name])]
            rows = [np.roll(long, int(row * 17 * per_frame[name]), axis=-1) for row in range(batch)]
            base[name] = np.concatenate(rows)
        return Inputs(base, per_frame)

    def clip(self, recording: Path, seconds: float) -> Clip:
        """What it is listened to with."""
        frames = max(1, round(seconds * self.net.spec.frames_per_second))
        found = clip_of(self.net, recording, frames)
        return found if self.trained else Clip(found.inputs, None)

    def source_run(self, batch: int, frames: int) -> Any:
        """A call that renders what goes in beside the mel, as every vocoder call has to."""
        from trt_svc.noise import Noise

        excitation = self.net.excitation()
        f0 = np.full((batch, frames), 220.0, np.float32)

        def render() -> Mapping[str, Array]:
            return excitation.begin(Noise(excitation.fields, tuple(range(batch)))).push(f0, frames)

        return render


@contextmanager
def opened_subject(
    network: str, config: str | None = None, family: str | None = None, source: str | None = None
) -> Iterator[Subject]:
    """A checkpoint by path, folder or alias, else the published config of that name; its own engines end with it."""
    if is_checkpoint(network):
        checkpoint = open_checkpoint(network, config, family, source)
        origin = "the demo voice" if network == DEMO_ALIAS else checkpoint.path.name
        name = network if network == DEMO_ALIAS else _name_of(checkpoint.path)
        yield Subject(name, checkpoint.net, checkpoint, origin, EngineCache(), weights_sha256(checkpoint.net))
        return
    published = preset(network)
    net = healthy_net(published.family, published.config, published.source)
    with TemporaryDirectory(prefix="trt-svc-bench-") as folder:
        cache = EngineCache(Path(folder))
        yield Subject(network, net, None, f"config {network}, random weights", cache, weights_sha256(net))


def is_checkpoint(network: str) -> bool:
    """Is it a path or an alias? A published config's name is one only where there is such a file."""
    if network not in presets():
        return True
    folders = [*os.environ.get(MODEL_PATH_VARIABLE, "").split(os.pathsep), *USUAL_FOLDERS, "."]
    return any((Path(folder) / network).exists() for folder in folders if folder)


def _name_of(path: Path) -> str:
    """Short, but not just `model`."""
    stem = path.stem
    return f"{path.parent.name}/{stem}" if stem in ("model", "generator") and path.parent.name else stem


def recording_named(name: str) -> Path:
    """One of the demo clips by name, or a file."""
    path = CLIPS.get(name) or Path(name).expanduser()
    if not path.is_file():
        raise InputError(
            f"recording {shown(name)}", "there is no such file.", f"Give a recording, or one of: {', '.join(CLIPS)}."
        )
    return path
