"""What a backend answers: can you build and run here, build this graph, open this engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from trt_svc.build_config import COMMON_OPTIONS, OPTION_FIELDS, BuildConfig, Precision
from trt_svc.errors import ConfigError
from trt_svc.graph.model import Graph
from trt_svc.progress import Progress
from trt_svc.registry import Registry
from trt_svc.types import Array

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Probe:
    """Can a backend build and run on this machine? If not: why, and what helps."""

    builds: bool
    runs: bool
    found: str
    advice: str = ""


class Runner(Protocol):
    """An opened engine. It may be called from any thread; whether calls overlap is its own affair."""

    def run(self, inputs: Mapping[str, Array]) -> Array:
        """Audio (B, samples) for the graph's inputs; freshly allocated at each call."""
        ...

    def sibling(self) -> Runner:
        """A runner of the same engine whose calls overlap with this one's; this one where they do anyway."""
        ...


@runtime_checkable
class TensorRunner(Runner, Protocol):
    """A runner that also takes torch tensors where they are."""

    device: str
    """As torch names it, such as cpu or cuda:0."""

    def run_tensors(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The same for tensors, in the order of the caller's current stream, without waiting for it.

        Contiguous float32 tensors on `device` are read where they are; others are converted there.
        """
        ...


@dataclass
class Built:
    """The files of an engine and what was said while it was made."""

    files: dict[str, bytes]
    notes: dict[str, Any] = field(default_factory=dict)


class Backend(ABC):
    """One runtime."""

    name: ClassVar[str]
    needs_gpu: ClassVar[bool] = False
    options: ClassVar[frozenset[str]] = frozenset()
    """Compiler options (fields of BuildConfig) that it knows."""
    precisions: ClassVar[tuple[str, ...]] = ("fp32", "fp16")
    computes: ClassVar[tuple[str, ...]] = ("fp32", "fp16", "bf16")
    """Precisions that it computes in; in others it only keeps the weights and computes in float32."""
    one_profile: ClassVar[bool] = False
    """Does it take no more than one range of shapes?"""
    gate_shapes_engines: ClassVar[bool] = False
    """Is as much rounding allowed as the gate leaves room for?"""
    stand_in: ClassVar[str] = ""
    """The backend for stages of a voice that this one has no kernels for."""
    takes_plain: ClassVar[bool] = True
    """Does it take graphs that no rewrite has touched?"""
    folds: ClassVar[tuple[str, ...]] = ("fold-mean", "fold-snake")
    """Rewrites that always pay here (docs/rewrites.md)."""
    default_rewrites: ClassVar[tuple[str, ...]] = ("fold-mean", "fold-snake", "two-phase-conv")
    """Forms used where they cannot be compared by time."""
    competing_rewrites: ClassVar[tuple[tuple[str, ...], ...]] = (
        (),
        ("two-phase-conv",),
        ("two-phase-slices",),
        ("upsample-as-conv",),
    )
    """Sets added to the folds when the fastest form is looked for on this machine."""

    plugin_rewrites: ClassVar[tuple[str, ...]] = ()
    """Forms that need kernels of ours inside the runtime, of those that it takes; it refuses the others."""

    def competing(self) -> tuple[tuple[str, ...], ...]:
        """The competing forms that there are on this machine."""
        return self.competing_rewrites

    @property
    def usual_precision(self) -> str:
        """What "auto" means here: half precision pays on GPUs only."""
        return "fp16" if self.needs_gpu else "fp32"

    def settled(self, config: BuildConfig) -> BuildConfig:
        """The settings with this backend's own defaults, in one spelling; refuses what it would ignore."""
        plain = BuildConfig()
        for name in OPTION_FIELDS:
            if name not in self.options | COMMON_OPTIONS and getattr(config, name) != getattr(plain, name):
                raise ConfigError(
                    f"{name.replace('_', ' ')} for the {self.name} backend",
                    "it has no such option.",
                    f"Leave it out; it knows: {', '.join(sorted(self.options)) or 'none'}.",
                )
        self._refuse_plugins(config.rewrites or ())
        settled = config.with_precision(self.usual_precision)
        if settled.precision.name not in self.precisions:
            raise ConfigError(
                f"precision {settled.precision.name!r} for the {self.name} backend",
                "it has no kernels for it.",
                f"Use one of: {', '.join(self.precisions)}.",
            )
        return settled

    def _refuse_plugins(self, names: Iterable[str]) -> None:
        for name in set(names) - set(self.plugin_rewrites):
            from trt_svc.graph.rewrites.base import rewrites

            if rewrites.get(name).needs_plugin:
                raise ConfigError(
                    f"rewrite {name!r} for the {self.name} backend",
                    "it takes no kernels from outside.",
                    "Leave it out, or use two-phase-conv: the same in plain operations.",
                )

    def graph_precision(self, config: BuildConfig) -> Precision:
        """The precision that is written into the graph; another where the backend chooses its own numbers."""
        return config.precision

    def can_run(self, config: BuildConfig) -> bool:
        """Can an engine of these settings run on this machine?"""
        return self.probe().runs

    def why_not_here(self, config: BuildConfig) -> str:
        """Why an engine of these settings cannot run on this machine; empty where it can."""
        return "" if self.can_run(config) else self.probe().found

    @abstractmethod
    def probe(self) -> Probe:
        """Looks at this machine; never raises."""

    @abstractmethod
    def identity(self, config: BuildConfig) -> dict[str, str]:
        """Versions and hardware that an engine of this backend depends on."""

    @abstractmethod
    def build(self, graph: Graph, config: BuildConfig, progress: Progress) -> Built:
        """The engine's files."""

    @abstractmethod
    def open(self, files: Mapping[str, bytes], device: str) -> Runner:
        """The verified files of an engine, ready to run."""


backends: Registry[type[Backend]] = Registry("backend", "trt_svc.backends")
