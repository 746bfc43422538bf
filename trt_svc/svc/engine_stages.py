"""Opens the stages of a conversion as engines, each of its own, with torch behind every one of them.

What cannot be built, does not fit or fails is run by torch: a conversion never ends because of an engine.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from trt_svc.backends.base import backends
from trt_svc.backends.torch_eager import FULL_FLOAT32
from trt_svc.build_config import BuildConfig
from trt_svc.cache import EngineCache
from trt_svc.errors import BackendUnavailable, BuildCancelled, ConfigError, RunError, TrtSvcError, shown
from trt_svc.inputs import warn_caller
from trt_svc.lanes import is_memory
from trt_svc.prebuilt import Engine
from trt_svc.progress import Progress, Quiet
from trt_svc.svc.engine_building import TORCH, StageBuilder, chose_torch
from trt_svc.svc.stage import Run, StageNet, in_torch
from trt_svc.types import Array

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StageEngineNote:
    """What runs a stage, and why."""

    name: str
    backend: str
    """As it is now: "torch" where an engine could not be had or was given up."""
    precision: str
    quality_db: float | None
    """Of the engine, against torch float32; None for torch."""
    cached: bool
    """Was it there already?"""
    build_s: float
    """What building it took, now or then."""
    note: str = ""
    """Why it is torch, or what was seen since."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class EngineStages:
    """A `StageOpener` whose runs are engines: built once per weights and settings, then taken from the cache."""

    def __init__(
        self,
        config: BuildConfig | None = None,
        cache: EngineCache | None = None,
        progress: Progress | None = None,
        device: str = "auto",
    ) -> None:
        """config: backend, precision, targets and compiler options; shapes are the stages' own.

        device: where engines run, as torch names it.
        """
        self.config = config or BuildConfig()
        if self.config.backend not in ("auto", TORCH):
            backends.get(self.config.backend)  # says which there are
        self._device = device
        self._builder = StageBuilder(self.config, cache or EngineCache(), progress or Quiet())
        self._opened: list[StageRun] = []
        self._lock = threading.Lock()

    def __call__(self, stage: StageNet) -> Run:
        """What runs the stage."""
        run = self._open(stage)
        with self._lock:
            self._opened.append(run)
        return run

    def built(self, stage: StageNet) -> Engine:
        """The engine of a stage in the cache, also where it cannot run here (ahead of time)."""
        return self._builder.engine(stage)

    def report(self) -> list[StageEngineNote]:
        """What runs every stage that was opened, in order."""
        with self._lock:
            return [run.note for run in self._opened]

    def _open(self, stage: StageNet) -> StageRun:
        if self.config.backend == TORCH:
            return StageRun(stage, None, _torch_note(stage, "asked for"))
        try:
            return self._on_engine(stage)
        except (BuildCancelled, ConfigError):
            raise  # what was asked for is for the caller to decide
        except Exception as err:  # whatever a compiler throws
            warn_caller(
                f"{stage.name}: no engine ({_said(err)}). It runs in torch, which is slower; see `report`.",
                RuntimeWarning,
            )
            return StageRun(stage, None, _torch_note(stage, _said(err)))

    def _on_engine(self, stage: StageNet) -> StageRun:
        settled = self._builder.settled(stage)
        if settled.backend != "auto":
            why = backends.get(settled.backend)().why_not_here(settled)
            if why:
                raise BackendUnavailable(f"backend {settled.backend}", f"{why}.", "See `trt-svc doctor`.")
        engine = self._builder.engine(stage)
        if chose_torch(engine):
            return StageRun(stage, None, replace(_torch_note(stage, "quickest here"), cached=engine.cache_hit))
        runner = backends.get(engine.backend)().open(engine.entry.files, self._device)
        note = StageEngineNote(
            name=stage.name,
            backend=engine.backend,
            precision=str(engine.entry.manifest["key"]["precision"]["name"]),
            quality_db=engine.quality["snr_db"],
            cached=engine.cache_hit,
            build_s=float(engine.notes["build_s"]),
        )
        return StageRun(stage, runner.run, note)


class StageRun:
    """A stage that is run by its engine for as long as that can be trusted, else by torch."""

    def __init__(self, stage: StageNet, engine: Run | None, note: StageEngineNote) -> None:
        self.note = note
        self._stage = stage
        self._engine = engine
        self._torch = in_torch(stage)
        self._lock = threading.Lock()

    def __call__(self, inputs: Mapping[str, Array]) -> Array:
        engine, stage = self._engine, self._stage
        if engine is None:
            return self._by_torch(inputs)
        given, length = _prepared(stage, inputs)
        if length is None or length not in stage.lengths:
            return self._by_torch(inputs)
        rows, most = len(next(iter(given.values()))), stage.batch.max
        try:
            parts = [engine({n: v[at : at + most] for n, v in given.items()}) for at in range(0, rows, most)]
            made = parts[0] if len(parts) == 1 else np.concatenate(parts)
        except Exception as err:  # whatever a runtime throws
            if is_memory(err):
                log.warning("%s: %s; this run is torch's", stage.name, _said(err))
                return self._by_torch(inputs)
            return self._given_up(inputs, _said(err))
        return made if np.isfinite(made).all() else self._given_up(inputs, "its output contains NaN or Inf")

    def _by_torch(self, inputs: Mapping[str, Array]) -> Array:
        with FULL_FLOAT32:
            made = self._torch(inputs)
        if not np.isfinite(made).all():
            asked = f"a run of the {self._stage.name}"
            raise RunError(asked, "torch's output contains NaN or Inf.", "Look at the recording and at the weights.")
        return made

    def _given_up(self, inputs: Mapping[str, Array], found: str) -> Array:
        """Torch's answer; if it has one, the engine is to blame."""
        answer = self._by_torch(inputs)
        with self._lock:
            was_first, self._engine = self._engine is not None, None
            if was_first:
                left = f"{self.note.backend} {self.note.precision}: {found}"
                self.note = replace(self.note, backend=TORCH, precision="fp32", quality_db=None, note=left)
        if was_first:
            warn_caller(
                f"{self._stage.name} on {left}. It goes on in torch, which is slower; see `report`.", RuntimeWarning
            )
        return answer


def _prepared(stage: StageNet, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], int | None]:
    """The inputs with equal rows, and the stage's length; None where they do not fit an engine together."""
    rows = max(len(inputs[spec.name]) for spec in stage.inputs)
    given: dict[str, Array] = {}
    lengths: set[int] = set()
    fits = True
    for spec in stage.inputs:
        value = inputs[spec.name]
        fits = fits and (spec.per_frame != 0 or value.shape[-1] == 1)
        if spec.per_frame:
            positions = value.shape[-1] / spec.per_frame
            fits = fits and positions == int(positions)
            lengths.add(int(positions))
        whole = value if len(value) == rows else np.broadcast_to(value, (rows, *value.shape[1:]))
        given[spec.name] = np.ascontiguousarray(whole, np.float32)
    return given, lengths.pop() if fits and len(lengths) == 1 else None


def _torch_note(stage: StageNet, why: str) -> StageEngineNote:
    return StageEngineNote(stage.name, TORCH, "fp32", None, False, 0.0, why)


def _said(err: Exception) -> str:
    return shown(err.found.rstrip(".") if isinstance(err, TrtSvcError) else f"{type(err).__name__}: {err}")
