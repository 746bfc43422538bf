"""Every backend that builds engines, and `auto`, which chooses among them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from trt_svc.arrays import is_tensor
from trt_svc.backends.base import Backend, Runner, TensorRunner, backends
from trt_svc.bench.contenders.base import Contender, Forms, Opened, Track, contenders
from trt_svc.bench.race import Entrant
from trt_svc.bench.report import Opening
from trt_svc.bench.subjects import Subject
from trt_svc.build import build_engine, default_rewrites
from trt_svc.build import forms as competing_forms
from trt_svc.build_config import BuildConfig, Precision, ShapeRange, default_frames
from trt_svc.cache import EngineCache
from trt_svc.errors import EngineError, TrtSvcError
from trt_svc.prebuilt import Engine
from trt_svc.types import Array

AUTO = "auto"
UNGATED_DB = -1e9
"""The suite has its own gate, and a row that fails it says by how much. Some engines are made to pass theirs."""


class EngineEntrant(Entrant):
    """An opened engine: tensors on its device where it takes them, arrays elsewhere."""

    def __init__(self, runner: Runner) -> None:
        self._runner: Any = runner
        self._on_device = isinstance(runner, TensorRunner)
        self.device = runner.device if isinstance(runner, TensorRunner) else "cpu"

    def placed(self, inputs: Mapping[str, Array]) -> Mapping[str, Any]:
        if not self._on_device:
            return inputs
        return {name: torch.from_numpy(value).to(self.device) for name, value in inputs.items()}

    def run(self, placed: Mapping[str, Any]) -> Any:
        return self._runner.run_tensors(placed) if self._on_device else self._runner.run(placed)

    def audio(self, made: Any) -> Array:
        return made.float().cpu().numpy().copy() if is_tensor(made) else super().audio(made)

    def gflop(self, plain: float) -> float:
        return plain * float(getattr(self._runner, "share_of_products", 1.0))

    def close(self) -> None:
        self._runner = None


class EngineContender(Contender):
    """One backend."""

    def __init__(self, backend: type[Backend]) -> None:
        self.name = backend.name  # type: ignore[misc]
        self._backend = backend()
        self.precisions = backend.precisions

    def why_not(self, device: str, precision: str) -> str:
        if self._backend.needs_gpu != (device != "cpu"):
            return "it needs a GPU" if self._backend.needs_gpu else "it runs on the CPU, this race is on a GPU"
        found = self._backend.probe()
        if not (found.builds and found.runs):
            return found.found
        if precision not in self._backend.computes:
            return f"it computes in float32 here: {precision} would only store the weights"
        try:
            settled = self._backend.settled(BuildConfig(self.name, precision=_precision(precision)))
            return self._backend.why_not_here(settled)
        except TrtSvcError as err:
            return err.found

    def forms(self, subject: Subject, wanted: Sequence[str]) -> list[Forms]:
        plain: Forms = ()
        sets: list[Forms] = []
        if "plain" in wanted and self._backend.takes_plain:
            sets.append(plain)
        if "usual" in wanted or not (sets or self._backend.takes_plain):
            sets.append(default_rewrites(self._backend, subject.net))
        if "all" in wanted:
            sets += [
                *([plain] if self._backend.takes_plain else []),
                *competing_forms(self._backend, subject.net, BuildConfig(self.name)),
            ]
        return list(dict.fromkeys(sets))

    def prepare(self, subject: Subject, track: Track, precision: str, forms: Forms) -> Callable[[], Opened]:
        return _prepared(subject, track, self.name, precision, forms)


class Auto(Contender):
    """What `backend="auto"` chooses on this machine."""

    name = AUTO
    precisions = ("fp32", "fp16", "mixed")

    def why_not(self, device: str, precision: str) -> str:
        choices = [kind for name, kind in backends if name != "torch" and kind.needs_gpu == (device != "cpu")]
        if any(precision in kind.computes for kind in choices):
            return ""
        return f"nothing that it may choose here computes in {precision}"

    def prepare(self, subject: Subject, track: Track, precision: str, forms: Forms) -> Callable[[], Opened]:
        return _prepared(subject, track, AUTO, precision, None)


def _prepared(subject: Subject, track: Track, backend: str, precision: str, forms: Forms) -> Callable[[], Opened]:
    gated = backend == AUTO or precision == "mixed" or backends.get(backend).gate_shapes_engines
    settings = BuildConfig(
        backend,
        "cpu" if track.device == "cpu" else "auto",
        _precision(precision),
        frames=_ranges(subject, track, backend),
        batch=track.batch,
        rewrites=forms,
        gate_db=None if gated else UNGATED_DB,
    )
    started = time.perf_counter()
    engine = build_engine(subject.checkpoint or subject.net, settings, cache=subject.cache)
    built_s = time.perf_counter() - started
    opening = _opening(engine, built_s)
    # Only the name goes on: the engine's files are read again, as by whoever finds it in the cache.
    chosen = _chosen(engine) if backend == AUTO else ""
    return partial(_opened, subject.cache, engine.key, track.device, opening, chosen)


def _chosen(engine: Engine) -> str:
    """Backend and forms of an engine."""
    return " + ".join([engine.backend, *engine.notes["rewrites"]])


def _opened(cache: EngineCache, key: str, device: str, opening: Opening, chosen: str) -> Opened:
    started = time.perf_counter()
    entry = cache.find(key)
    if entry is None:
        raise EngineError("opening the engine that was just built", "the cache has lost it.", "Look at its disk.")
    runner = backends.get(Engine(entry, True).backend)().open(entry.files, device)
    load_s = time.perf_counter() - started
    return Opened(EngineEntrant(runner), opening.model_copy(update={"load_s": load_s}), chosen=chosen)


def _ranges(subject: Subject, track: Track, backend: str) -> tuple[ShapeRange, ...]:
    """One range over all of them where the backend takes no more."""
    if backend == AUTO or not backends.get(backend).one_profile:
        return track.frames
    usual = track.frames or default_frames(subject.net.family)
    return (ShapeRange(usual[0].min, usual[0].opt, usual[-1].max),)


def _opening(engine: Engine, built_s: float) -> Opening:
    return Opening(
        from_cache=engine.cache_hit,
        build_s=float(engine.notes["build_s"]) if engine.cache_hit else built_s,
        engine_key=engine.key,
        engine_bytes=engine.bytes,
    )


def _precision(name: str) -> Precision:
    return Precision(name, allow_bf16=True)


for _name, _kind in backends:
    if _name != "torch":
        contenders.register(_name)(EngineContender(_kind))
contenders.register(AUTO)(Auto())
