"""What is benchmarked: a checkpoint, or a published config whose weights are drawn at random."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
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
from trt_svc.checkpoints.locate import DEMO_ALIAS, DEMO_FOLDER, MODEL_PATH_VARIABLE, USUAL_FOLDERS, locate
from trt_svc.checkpoints.presets import preset, presets
from trt_svc.clips import Clip, clip_of
from trt_svc.errors import InputError, shown
from trt_svc.graph.vocoder import weights_sha256
from trt_svc.types import Array
from trt_svc.vocoders.base import VocoderNet
from trt_svc.vocoders.healthy import example_inputs, healthy_net

CLIPS = {"sung": DEMO_FOLDER / "sung.flac", "spoken": DEMO_FOLDER / "spoken.flac"}
EXAMPLES = 4
"""Different ones for the rows of a batch."""
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
        """Inputs of a shape, a new one for every call; no part of them repeats another, no row the next."""
        per_frame = {spec.name: Fraction(spec.per_frame) for spec in self.net.core_inputs()}
        rows = [self._row(frames, seed, per_frame) for seed in range(batch)]
        return Inputs({name: np.concatenate([row[name] for row in rows]) for name in per_frame}, per_frame)

    def _row(self, frames: int, seed: int, per_frame: Mapping[str, Fraction]) -> dict[str, Array]:
        """Examples one behind the other, each at a place and a loudness of its own."""
        short = example_inputs(self.net, 1, min(frames, MOST_EXAMPLE_FRAMES), seed % EXAMPLES)
        length = short["mel"].shape[-1]
        random = np.random.default_rng(seed)
        parts: dict[str, list[Array]] = {name: [] for name in per_frame}
        for _ in range(-(-frames // length)):
            roll, louder = int(random.integers(length)), np.float32(random.uniform(-0.3, 0.3))
            for name, ratio in per_frame.items():
                part = np.roll(short[name].numpy(), int(roll * ratio), axis=-1)
                parts[name].append(part + louder if name == "mel" else part)
        return {name: np.concatenate(found, -1)[:, :, : int(frames * per_frame[name])] for name, found in parts.items()}

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
    network: str,
    config: str | None = None,
    family: str | None = None,
    source: str | None = None,
    name: str | None = None,
) -> Iterator[Subject]:
    """A checkpoint by path, folder or alias, else the published config of that name; its own engines end with it."""
    if is_checkpoint(network):
        checkpoint = open_checkpoint(network, config, family, source)
        origin = "the demo voice" if network == DEMO_ALIAS else checkpoint.path.name
        name = name or name_of(network)
        yield Subject(name, checkpoint.net, checkpoint, origin, EngineCache(), weights_sha256(checkpoint.net))
        return
    published = preset(network)
    net = healthy_net(published.family, published.config, published.source)
    with TemporaryDirectory(prefix="trt-svc-bench-") as folder:
        cache = EngineCache(Path(folder))
        yield Subject(name or network, net, None, f"config {network}, random weights", cache, weights_sha256(net))


def is_checkpoint(network: str) -> bool:
    """Is it a path or an alias? A published config's name is one only where there is such a file."""
    if network not in presets():
        return True
    folders = [*os.environ.get(MODEL_PATH_VARIABLE, "").split(os.pathsep), *USUAL_FOLDERS, "."]
    return any((Path(folder) / network).exists() for folder in folders if folder)


def name_of(network: str, taken: Collection[str] = ()) -> str:
    """Short, but not just `model`, and unlike those that are taken: with as many folders as that needs."""
    if network == DEMO_ALIAS or not is_checkpoint(network):
        return network
    weights = locate(network).weights.absolute()
    parts = [weights.stem] if weights.stem not in ("model", "generator") else [weights.parent.name, weights.stem]
    for folder in weights.parents[len(parts) - 1 :]:
        if "/".join(parts) not in taken or not folder.name:
            break
        parts.insert(0, folder.name)
    return "/".join(parts)


def place_of(network: str) -> str:
    """What tells one network from another: the file, or the name of the config."""
    return str(locate(network).weights.resolve()) if is_checkpoint(network) else network


def recording_named(name: str) -> Path:
    """One of the demo clips by name, or a file."""
    path = CLIPS.get(name) or Path(name).expanduser()
    if not path.is_file():
        raise InputError(
            f"recording {shown(name)}", "there is no such file.", f"Give a recording, or one of: {', '.join(CLIPS)}."
        )
    return path
