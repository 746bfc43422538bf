"""What runs the networks of a model: torch where it stands, or an engine for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

from trt_svc.backends.base import backends
from trt_svc.errors import BuildCancelled, BuildError, InputError, shown
from trt_svc.hardware import first_gpu
from trt_svc.inputs import warn_caller
from trt_svc.loading import check_usable, chosen_device
from trt_svc.progress import Progress, Quiet
from trt_svc.rungs import REFERENCE
from trt_svc.svc.stage import Run, StageNet, StageOpener, in_torch

if TYPE_CHECKING:
    from torch import nn

    from trt_svc.svc.engine_stages import EngineStages


Loaded = TypeVar("Loaded")
NEURAL = (
    "content encoder",
    "f0 network",
    "voice encoder",
    "voice pitch",
    "voice pitch of a mix",
    "flow",
    "flow of a mix",
    "denoiser",
)
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

    @property
    def in_place(self) -> bool:
        """Does torch run networks where they are read, on the CPU?"""
        return self.on_torch and not self.on_gpu

    def place(self, net: nn.Module) -> None:
        """Puts a network where torch runs it, if it is torch that does."""
        if self.on_torch:
            net.to(chosen_device(self.session["device"]))

    def opened(self, what: str, load: Callable[..., Loaded]) -> Loaded:
        """A vocoder session by `load(backend=…, device=…, precision=…)`; in torch where no engine can be had."""
        try:
            return load(**self.session)
        except BuildCancelled:
            raise
        except BuildError as err:
            found = shown(err.found.rstrip("."))
            warn_caller(f"{what}: no engine ({found}). It runs in torch, which is slower.", RuntimeWarning)
            return load(backend=REFERENCE, device=self.session["device"], precision="fp32")

    def notes(self) -> dict[str, dict[str, Any]]:
        """Stage -> backend, quality and what there is to say."""
        if self.engines is None:
            return {name: {"backend": f"{REFERENCE} fp32"} for name in NEURAL}
        return {
            note.name: {"backend": f"{note.backend} {note.precision}", "quality_db": note.quality_db, "note": note.note}
            for note in self.engines.report()
        }


def _on_device(stage: StageNet, device: str) -> Run:
    """Torch where the weights are put; bounded forms follow them."""
    stage.module.to(device)
    return in_torch(stage)
