"""Opens the rungs of a session: engines from the cache or freshly built, and the network itself in torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from trt_svc.backends.base import backends
from trt_svc.build_config import STREAM_MAX_FRAMES, BuildConfig, Precision, Profile
from trt_svc.cache import EngineCache
from trt_svc.errors import EngineError
from trt_svc.guards import Problem
from trt_svc.health import Record
from trt_svc.lanes import Lane, Lanes
from trt_svc.milestones import reached
from trt_svc.parts import InStages, Parts
from trt_svc.prebuilt import Engine, find_built, request_for
from trt_svc.request import machine_sha256
from trt_svc.rungs import REFERENCE, Rung, Step
from trt_svc.sentinel import Sentinel
from trt_svc.stages import files_of, spans_from
from trt_svc.voice import Voice

if TYPE_CHECKING:
    from trt_svc.checkpoints.load import Checkpoint
    from trt_svc.vocoders.base import VocoderNet


@runtime_checkable
class Source(Protocol):
    """Where a session's network comes from."""

    def open(self) -> Checkpoint:
        """The network with its weights."""

    def engine(self, settings: BuildConfig) -> Engine:
        """Its engine: from the cache, else built."""


@dataclass(frozen=True)
class InMemory:
    """A network whose weights are there already, such as the decoder of an opened voice."""

    net: VocoderNet

    def open(self) -> Checkpoint:
        from trt_svc.checkpoints.layouts import Unwrapped
        from trt_svc.checkpoints.load import Checkpoint

        weights = self.net.state_dict()
        return Checkpoint(Path(self.net.family), self.net, {}, "the network itself", Unwrapped({}, "memory"), weights)

    def engine(self, settings: BuildConfig) -> Engine:
        from trt_svc.build import build_engine

        return build_engine(self.net, settings)


@dataclass(frozen=True)
class Stored:
    """A checkpoint on disk."""

    path: str | Path
    config: Any
    family: str | None
    source: str | None

    def open(self) -> Checkpoint:
        from trt_svc.checkpoints.load import open_checkpoint

        return open_checkpoint(self.path, self.config, self.family, self.source)

    def engine(self, settings: BuildConfig) -> Engine:
        """From the cache without torch where it is known, else built."""
        found = find_built(EngineCache(), request_for(self.path, settings, self.config, self.family, self.source))
        if found is not None:
            reached("engine found")
            return found
        from trt_svc.build import build_engine

        return build_engine(self.path, settings, config=self.config, family=self.family, source=self.source)


@dataclass(frozen=True)
class Places:
    """Where engines are opened, and how many contexts each place gets."""

    devices: tuple[str, ...]
    contexts: int
    record: Record

    def lanes(self, open_on: Callable[[str], Parts]) -> Lanes:
        lanes = []
        for device in self.devices:
            first = open_on(device)
            lanes.append(Lane(device, [first, *(first.sibling() for _ in range(self.contexts - 1))]))
        return Lanes(lanes, self.record.drained)


def torch_step(net: Callable[[], VocoderNet], places: Places) -> Step:
    """The network itself: the reference, and the last rung."""

    def opened() -> Rung:
        from trt_svc.backends.torch_eager import TorchRunner
        from trt_svc.graph.vocoder import described_stages

        original = net()
        copies: dict[str, VocoderNet] = {}

        def open_on(device: str) -> Parts:
            if device not in copies:  # one copy of the weights per device
                copies[device] = copy.deepcopy(original) if copies else original
            here = copies[device]
            return Parts(TorchRunner(here, device), tuple(TorchRunner(stage, device) for stage in here.stages()))

        usable = replace(places, devices=tuple(_torch_device(device) for device in places.devices))
        return Rung(REFERENCE, "fp32", usable.lanes(open_on), stages=spans_from(described_stages(original)))

    return Step(REFERENCE, opened)


def _torch_device(device: str) -> str:
    """On the engine's GPU if torch can use it; asked only when torch is needed, because asking imports it."""
    if device == "cpu":
        return device
    import torch

    return device if torch.cuda.is_available() else "cpu"


def engine_step(find: Callable[[], Engine], voice: Voice, places: Places, name: str) -> Step:
    """An engine; its sentinel is asked before anybody hears it."""

    def opened() -> Rung:
        engine = find()
        key, sentinel = engine.entry.manifest["key"], Sentinel.of(engine)
        backend = backends.get(engine.backend)()
        speed = engine.notes.get("speed", {})
        here = bool(speed) and speed["machine"] == machine_sha256()
        files, spans = engine.entry.files, spans_from(engine.entry.metadata.get("stages", ()))

        def open_on(device: str) -> Parts:
            stages = [backend.open(files_of(files, number), device) for number in range(len(spans))]
            return Parts(backend.open(files, device), tuple(stages))

        def ask(parts: Parts) -> Problem | None:
            return sentinel.ask(parts.whole) or (sentinel.ask(InStages(parts, spans)) if spans else None)

        return Rung(
            engine.backend,
            str(key["precision"]["name"]),
            places.lanes(open_on),
            profiles=tuple(Profile.parse(text) for text in key["profiles"]),
            own_distance=sentinel.own_distance(voice),
            ask=ask,
            frames_per_s=speed["frames"] * speed["batch"] / speed["seconds"] if here else None,
            frames_measured=speed["frames"] * speed["batch"] if here else 0,
            stages=spans,
            stage_frames=STREAM_MAX_FRAMES,
            quality_db=float(engine.quality["snr_db"]),
        )

    return Step(name, opened)


def steps_of(engine: Engine, settings: BuildConfig, voice: Voice, source: Source, places: Places) -> list[Step]:
    """The engine, the same in fp32, onnxruntime, torch. Nothing here keeps the engine's bytes once it is open."""
    once = [engine]
    backend, weights = engine.backend, engine.entry.metadata["weights_sha256"]
    is_fp32 = engine.entry.manifest["key"]["precision"]["name"] == "fp32"
    plain = replace(settings, backend=backend, precision=Precision("fp32"), gate_db=None, rewrites=None)
    bare = BuildConfig("onnxruntime", "cpu", Precision("fp32"), settings.frames, settings.batch)
    on_cpu = replace(places, devices=("cpu",), contexts=1)
    steps = [engine_step(once.pop, voice, places, backend)]
    if not is_fp32:
        steps.append(_lower(plain, weights, voice, source, places))
    if backend != "onnxruntime":
        steps.append(_lower(bare, weights, voice, source, on_cpu))
    reference = replace(places, devices=places.devices[:1], contexts=1)
    return [*steps, torch_step(lambda: same_network(source.open(), weights).net, reference)]


def _lower(config: BuildConfig, weights_sha256: str, voice: Voice, source: Source, places: Places) -> Step:
    def find() -> Engine:
        return same_weights(source.engine(config), weights_sha256)

    return engine_step(find, voice, places, f"{config.backend} fp32")


def same_weights(found: Engine, weights_sha256: str) -> Engine:
    """Refuses to fall back on another voice: the checkpoint may have been replaced since."""
    if found.entry.metadata["weights_sha256"] != weights_sha256:
        raise EngineError(
            "falling back on another engine", "the checkpoint has been replaced meanwhile.", "Load the vocoder again."
        )
    return found


def same_network(checkpoint: Checkpoint, weights_sha256: str) -> Checkpoint:
    """The same for the network itself."""
    from trt_svc.graph.vocoder import weights_sha256 as hash_of

    if hash_of(checkpoint.net) != weights_sha256:
        raise EngineError(
            "falling back on torch", "the checkpoint has been replaced meanwhile.", "Load the vocoder again."
        )
    return checkpoint
