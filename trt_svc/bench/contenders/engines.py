"""Every backend that builds engines, and `auto`, which chooses among them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
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
from trt_svc.errors import TrtSvcError
from trt_svc.prebuilt import Engine
from trt_svc.types import Array

AUTO = "auto"
UNGATED_DB = -1e9
"""The suite has its own gate, and a row that fails it says by how much."""


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
        try:
            runs = self._backend.can_run(self._backend.settled(BuildConfig(self.name, precision=_precision(precision))))
        except TrtSvcError as err:
            return err.found
        return "" if runs else found.found

    def forms(self, subject: Subject, wanted: Sequence[str]) -> list[Forms]:
        plain: Forms = ()
        sets: list[Forms] = []
        if "plain" in wanted:
            sets.append(plain)
        if "usual" in wanted:
            sets.append(default_rewrites(self._backend, subject.net))
        if "all" in wanted:
            sets += [plain, *competing_forms(self._backend, subject.net, BuildConfig(self.name))]
        return list(dict.fromkeys(sets))

    def open(self, subject: Subject, track: Track, precision: str, forms: Forms) -> Opened:
        return _opened(subject, track, self.name, precision, forms)


class Auto(Contender):
    """What `backend="auto"` chooses on this machine."""

    name = AUTO
    precisions = ("fp32", "fp16")

    def why_not(self, device: str, precision: str) -> str:
        return ""

    def open(self, subject: Subject, track: Track, precision: str, forms: Forms) -> Opened:
        return _opened(subject, track, AUTO, precision, None)


def _opened(subject: Subject, track: Track, backend: str, precision: str, forms: Forms) -> Opened:
    settings = BuildConfig(
        backend,
        "cpu" if track.device == "cpu" else "auto",
        _precision(precision),
        frames=_ranges(subject, track, backend),
        batch=track.batch,
        rewrites=forms,
        gate_db=None if backend == AUTO else UNGATED_DB,
    )
    started = time.perf_counter()
    engine = build_engine(subject.checkpoint or subject.net, settings, cache=subject.cache)
    built_s = time.perf_counter() - started
    files = engine.entry.files
    started = time.perf_counter()
    runner = backends.get(engine.backend)().open(files, track.device)
    load_s = time.perf_counter() - started
    return Opened(EngineEntrant(runner), _opening(engine, built_s, load_s))


def _ranges(subject: Subject, track: Track, backend: str) -> tuple[ShapeRange, ...]:
    """One range over all of them where the backend takes no more."""
    if backend == AUTO or not backends.get(backend).one_profile:
        return track.frames
    usual = track.frames or default_frames(subject.net.family)
    return (ShapeRange(usual[0].min, usual[0].opt, usual[-1].max),)


def _opening(engine: Engine, built_s: float, load_s: float) -> Opening:
    return Opening(
        from_cache=engine.cache_hit,
        build_s=float(engine.notes["build_s"]) if engine.cache_hit else built_s,
        load_s=load_s,
        engine_key=engine.key,
        engine_bytes=engine.bytes,
    )


def _precision(name: str) -> Precision:
    return Precision(name, allow_bf16=True)


for _name, _kind in backends:
    if _name != "torch":
        contenders.register(_name)(EngineContender(_kind))
contenders.register(AUTO)(Auto())
