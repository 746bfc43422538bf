"""What runs the networks of a model: torch where it stands, or an engine for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from trt_svc.backends.base import backends
from trt_svc.errors import InputError, shown
from trt_svc.hardware import first_gpu
from trt_svc.loading import check_usable, chosen_device
from trt_svc.progress import Progress, Quiet
from trt_svc.rungs import REFERENCE
from trt_svc.svc.stage import Run, StageNet, StageOpener, in_torch

if TYPE_CHECKING:
    from trt_svc.svc.engine_stages import EngineStages


NEURAL = ("content encoder", "f0 network", "voice encoder", "voice pitch", "flow", "flow of a mix", "denoiser")
"""Stages that a backend has a say in, by the names of their `StageNet`."""


@dataclass(frozen=True)
class Running:
    """How stages are opened."""

    open_stage: StageOpener
    session: Mapping[str, Any]
    """backend, device and precision, as `load_vocoder` takes them."""
    engines: EngineStages | None = None

    @classmethod
    def on(cls, backend: str, device: str = "auto", precision: str = "fp32", progress: Progress | None = None) -> Self:
        """torch, or engines of a backend ("auto": the fastest that is here, stage by stage)."""
        session = {"backend": backend, "device": device, "precision": precision}
        if backend == REFERENCE:
            if precision not in ("fp32", "auto"):
                advice = "Use precision='fp32', or an engine backend."
                raise InputError(f"precision {shown(precision)}", "the torch backend runs in fp32.", advice)
            place = chosen_device(device)
            return cls(in_torch if place == "cpu" else lambda stage: _on_device(stage, place), session)
        if backend != "auto":
            check_usable(backend)
        from trt_svc.build_config import BuildConfig, Precision
        from trt_svc.svc.engine_stages import EngineStages

        settings = BuildConfig(backend, "cpu" if device == "cpu" else "auto", Precision(precision))
        engines = EngineStages(settings, progress=progress or Quiet(), device=device)
        return cls(engines, session, engines)

    @property
    def on_gpu(self) -> bool:
        """Are there GPUs, for what was asked for?"""
        backend, device = self.session["backend"], self.session["device"]
        if device == "cpu":
            return False
        if backend == REFERENCE:
            return chosen_device(device) != "cpu"
        if backend == "auto":
            return first_gpu() is not None
        return backends.get(backend).needs_gpu

    @property
    def on_torch(self) -> bool:
        return self.engines is None

    def notes(self) -> dict[str, dict[str, Any]]:
        """Stage -> backend, quality and what there is to say."""
        if self.engines is None:
            return {name: {"backend": f"{REFERENCE} fp32"} for name in NEURAL}
        return {
            note.name: {"backend": f"{note.backend} {note.precision}", "quality_db": note.quality_db, "note": note.note}
            for note in self.engines.report()
        }


def _on_device(stage: StageNet, device: str) -> Run:
    """The whole module where the weights are put; bounded forms are for memory that has to be shared."""
    stage.module.to(device)
    return in_torch(replace(stage, in_torch=None))
