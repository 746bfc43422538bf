"""The engine of one stage: from the cache, else built, measured against torch float32 and stored.

As for vocoders (`trt_svc.build`), but for modules whose inputs, outputs and lengths are whatever a stage says.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import trt_svc
from trt_svc.backends.base import Backend, Built, backends
from trt_svc.backends.torch_eager import FULL_FLOAT32
from trt_svc.build import refuse_below_gate, usable_backend
from trt_svc.build_config import BuildConfig, Precision, ShapeRange
from trt_svc.cache import EngineCache
from trt_svc.difference import Difference, difference, worst
from trt_svc.engine_key import BUILD_REVISION, EngineKey, canonical, engine_key
from trt_svc.errors import BuildCancelled, ConfigError, QualityError, TrtSvcError, UnsupportedOperator, shown
from trt_svc.graph.check import QUALITY_OF_GRAPH, opened_on_cpu
from trt_svc.graph.mixed import product_layers
from trt_svc.graph.model import Graph
from trt_svc.graph.vocoder import weights_sha256
from trt_svc.mixed_layers import protected_on_cases, rounding_costs
from trt_svc.prebuilt import Engine
from trt_svc.progress import Progress
from trt_svc.request import machine_marks, own_code, request_sha256, sha256, versions
from trt_svc.svc.stage import Run, StageNet, in_torch
from trt_svc.svc.stage_graphs import graph_of
from trt_svc.timing import interleaved_seconds
from trt_svc.types import Array

log = logging.getLogger(__name__)

TORCH = "torch"
CHOICE = "choice.json"
"""The only file of an entry that says that torch was quickest."""
MIXED_STAGES = ("denoiser",)
"""Those that take long: the errors of all others would add to theirs for little, and a pitch has to be exact."""
MIX_LENGTH = 64
GATE_BATCH = 2
TIMING_ROUNDS, TIMING_BUDGET_S = 3, 10.0
PLAIN = (int, float, str, bool, tuple, type(None))


class StageBuilder:
    """Makes the engines of stages with the same settings."""

    def __init__(self, config: BuildConfig, cache: EngineCache, progress: Progress) -> None:
        self.config = config
        self._cache = cache
        self._progress = progress

    def engine(self, stage: StageNet) -> Engine:
        """The engine of a stage, or the entry of one whose quickest run is torch's own (`chose_torch`)."""
        wanted = self.settled(stage)
        request = self._request(stage, wanted)
        with self._cache.building(request_sha256(request)):
            known = self._cache.recall(request) if request["machine"] else None
            if known is not None:
                return _checked(Engine(known, True), stage, wanted)
            made = (
                self._fastest(stage, wanted) if wanted.backend == "auto" else self._of_backend_or_other(stage, wanted)
            )
            if request["machine"]:  # what runs best, and whether it runs, is only known of a machine that can be told
                self._cache.remember(request, made.key)
            return made

    def settled(self, stage: StageNet) -> BuildConfig:
        """The settings for a stage: its shapes, its float32 layers, and the defaults of the backend if one is named."""
        precision = self.config.precision
        if stage.whole_float32 or (precision.name == "mixed" and stage.name not in MIXED_STAGES):
            precision = Precision("fp32")
        shaped = replace(
            self.config,
            precision=replace(precision, protected=tuple(sorted({*precision.protected, *stage.float32}))),
            frames=(stage.lengths,),
            batch=stage.batch,
            rewrites=(),
            streaming=False,
        )
        if shaped.backend == "auto" and shaped.targets:
            shaped = replace(shaped, backend="tensorrt-rtx")  # nothing else compiles for GPUs that are not here
        return shaped if shaped.backend == "auto" else usable_backend(shaped.backend).settled(shaped)

    def _request(self, stage: StageNet, config: BuildConfig) -> dict[str, Any]:
        """Everything that an engine of the stage follows from, without writing its graph.

        The gate is in it: the layers that a mixed engine rounds, and which backends `auto` may take, follow from it.
        """
        return {
            "stage": stage.name,
            "structure": sha256(canonical(_structure(stage))),
            "weights_sha256": weights_sha256(stage.module),
            "settings": config.as_dict(),
            "packages": versions(),
            "code": own_code(),
            "build_revision": BUILD_REVISION,
            "machine": machine_marks(),
        }

    # One backend.

    def _of_backend_or_other(self, stage: StageNet, config: BuildConfig) -> Engine:
        """By the other backend that one names for networks it has no kernels for."""
        try:
            return self._of_backend(stage, config)
        except UnsupportedOperator as err:
            other = backends.get(config.backend).stand_in
            if not other:
                raise
            log.info("%s: built for %s: %s", stage.name, other, err.found)
            plain = replace(config.precision, name="fp32")
            return self._of_backend(stage, replace(config, backend=other, precision=plain))

    def _of_backend(self, stage: StageNet, config: BuildConfig) -> Engine:
        started = time.perf_counter()
        candidate = self._candidate(stage, config)
        with self._cache.building(candidate.key):
            entry = self._cache.find(candidate.key)
            if entry is not None:
                return _checked(Engine(entry, True), stage, config)
            return self._stored(stage, candidate, self._compiled(stage, candidate), started, {})

    def _candidate(self, stage: StageNet, config: BuildConfig) -> _Candidate:
        self._progress.stage(f"{stage.name}: writing the graph")
        backend = usable_backend(config.backend)
        stage = _form_for(stage, backend)
        precision = backend.graph_precision(config)
        if precision.name == "mixed" and set(config.precision.protected) <= set(stage.float32):
            config = self._with_protection(stage, config, backend)
        graph = graph_of(stage, backend.graph_precision(config))
        key = engine_key(weights_sha256(stage.module), graph.sha256(), config, backend.identity(config))
        return _Candidate(backend, config, graph, key)

    def _with_protection(self, stage: StageNet, config: BuildConfig, backend: Backend) -> BuildConfig:
        """With the layers in float32 that a mixed engine needs to pass the gate, and no more."""
        self._progress.stage(f"{stage.name}: rounding one layer at a time")
        heard, run = stage.examples(1, min(MIX_LENGTH, stage.lengths.opt), 0), in_torch(replace(stage, in_torch=None))
        layers = product_layers(graph_of(stage))
        costs = list(rounding_costs(stage.module, lambda: run(heard), layers, stage.float32))
        cases = [stage.examples(batch, length, length) for batch, length in gate_shapes(stage.lengths, stage.batch)]
        answered = [(case, in_torch(stage)(case)) for case in cases]

        def protecting(some: tuple[str, ...]) -> BuildConfig:
            return replace(config, precision=replace(config.precision, protected=some))

        def built(some: tuple[str, ...]) -> Run:
            tried = protecting(some)
            made = backend.build(graph_of(stage, tried.precision), tried, self._progress)
            return backend.open(made.files, "auto").run

        return protecting(protected_on_cases(layers, costs, config.min_snr_db, answered, built))

    def _compiled(self, stage: StageNet, candidate: _Candidate) -> Built:
        self._progress.stage(f"{stage.name}: compiling for {candidate.backend.name}")
        built = candidate.backend.build(candidate.graph, candidate.config, self._progress)
        if self._progress.cancelled:
            raise BuildCancelled(f"building an engine of the {stage.name}", "it was stopped.", "Nothing was stored.")
        return built

    def _stored(
        self, stage: StageNet, candidate: _Candidate, built: Built, started: float, measured: Mapping[str, Any]
    ) -> Engine:
        """The engine in the cache, if it passes the gate."""
        self._progress.stage(f"{stage.name}: measuring quality")
        backend, config, graph = candidate.backend, candidate.config, candidate.graph
        runs_here = backend.can_run(config)
        quality = gate(stage, backend.open(built.files, "auto").run if runs_here else opened_on_cpu(graph), config)
        notes = {
            **built.notes,
            "build_s": round(time.perf_counter() - started, 2),
            "quality": quality.as_dict(),
            "quality_of": f"the engine on {backend.name}" if runs_here else QUALITY_OF_GRAPH,
            "gate_db": config.min_snr_db,
            "measured": dict(measured),
        }
        metadata = {**graph.metadata, "family": stage.name, "trt_svc": trt_svc.__version__}
        return Engine(self._cache.store(candidate.key, built.files, metadata, notes), False)

    # The quickest.

    def _fastest(self, stage: StageNet, config: BuildConfig) -> Engine:
        """The quickest of torch and of the backends that build and run here and pass the gate."""
        started = time.perf_counter()
        self._progress.stage(f"{stage.name}: measuring backends on this machine")
        inputs, reference = stage.examples(stage.batch.opt, stage.lengths.opt, 0), in_torch(stage)
        runs: dict[str, Callable[[], Array]] = {TORCH: lambda: reference(inputs)}
        made: dict[str, tuple[_Candidate, Built]] = {}
        out: dict[str, str] = {}
        for settled in contenders(config):
            try:
                candidate = self._candidate(stage, settled)
                built = self._compiled(stage, candidate)
                run = candidate.backend.open(built.files, "auto").run
                run(inputs)
            except BuildCancelled:
                raise
            except Exception as err:  # whatever is wrong with one backend must not stop the others
                out[settled.backend] = _said(err)
                level = logging.INFO if isinstance(err, UnsupportedOperator) else logging.WARNING
                log.log(level, "%s: %s is out: %s", stage.name, settled.backend, out[settled.backend])
            else:
                runs[settled.backend] = lambda run=run: run(inputs)  # type: ignore[misc]
                made[settled.backend] = candidate, built
        seconds = interleaved_seconds(runs, TIMING_ROUNDS, TIMING_BUDGET_S)
        measured = {"seconds": {name: round(value, 5) for name, value in seconds.items()}, "out": out}
        for name in sorted(seconds, key=lambda name: seconds[name]):
            if name == TORCH:
                break
            try:
                return self._stored(stage, *made[name], started, measured)
            except QualityError as err:
                out[name] = err.found
                log.warning("%s: %s is out: %s", stage.name, name, err.found)
        return self._torch_chosen(stage, config, measured)

    def _torch_chosen(self, stage: StageNet, config: BuildConfig, measured: Mapping[str, Any]) -> Engine:
        """An entry without an engine, so that nothing is measured again."""
        plain = replace(config, backend=TORCH, precision=Precision("fp32"))
        key = engine_key(weights_sha256(stage.module), sha256(canonical(_structure(stage))), plain, {})
        metadata = {"family": stage.name, "trt_svc": trt_svc.__version__}
        files = {CHOICE: canonical(dict(measured))}
        return Engine(self._cache.store(key, files, metadata, {"measured": dict(measured)}), False)


@dataclass(frozen=True)
class _Candidate:
    """What an engine is made of."""

    backend: Backend
    config: BuildConfig
    graph: Graph
    key: EngineKey


def chose_torch(engine: Engine) -> bool:
    """Was torch quicker than every engine?"""
    return engine.backend == TORCH


def contenders(config: BuildConfig) -> Iterator[BuildConfig]:
    """What `auto` compares: every backend that builds and runs stages here, with its own precision."""
    for name, kind in backends:
        backend = kind()
        if name == "torch-tensorrt" or (config.device == "cpu" and backend.needs_gpu):
            continue  # torch-tensorrt compiles modules, and the types of a stage are in its graph
        probe = backend.probe()
        if not (probe.runs and probe.builds):
            continue
        try:
            settled = backend.settled(replace(config, backend=name))
        except ConfigError as err:
            log.info("%s is out: %s", name, err)
            continue
        if backend.can_run(settled):
            yield settled


def gate(stage: StageNet, run: Run, config: BuildConfig) -> Difference:
    """The quality against torch float32 at several lengths and two batches; refuses an engine below the gate."""
    reference, found = in_torch(stage), []
    for batch, length in gate_shapes(stage.lengths, stage.batch):
        inputs = stage.examples(batch, length, length)
        made = run(inputs)
        with FULL_FLOAT32:
            expected = reference(inputs)
        if made.shape != expected.shape:
            raise QualityError(
                f"an engine of the {stage.name} for {length} positions",
                f"it answers in the shape {made.shape}, torch in {expected.shape}.",
                "This is a bug of the export: please report it with the model's config.",
            )
        found.append(difference(made, expected))
    quality = worst(found)
    refuse_below_gate(quality.snr_db, stage.name, config)
    return quality


def gate_shapes(lengths: ShapeRange, batch: ShapeRange) -> list[tuple[int, int]]:
    """(batch, length): the shortest, one little longer, several rows of one between, and the usual length.

    Where only some lengths make sense the shortest says which: all here are multiples of it.
    """
    least = lengths.min
    between, usual = least * int((lengths.opt / least) ** 0.5), lengths.opt - lengths.opt % least
    rows = min(batch.max, max(batch.min, GATE_BATCH))
    little = min(3 * least, usual)
    return sorted({(batch.min, least), (batch.min, little), (rows, between), (batch.min, usual)})


def _checked(engine: Engine, stage: StageNet, config: BuildConfig) -> Engine:
    """A stored engine, if what was measured satisfies this request's gate."""
    if not chose_torch(engine):
        precision = replace(config.precision, name=engine.entry.manifest["key"]["precision"]["name"])
        refuse_below_gate(float(engine.quality["snr_db"]), stage.name, replace(config, precision=precision))
    return engine


def _form_for(stage: StageNet, backend: Backend) -> StageNet:
    """The stage in the form that suits a backend's machine."""
    return stage if backend.needs_gpu or stage.on_cpu is None else replace(stage, module=stage.on_cpu())


def _said(err: Exception) -> str:
    return shown(err.found if isinstance(err, TrtSvcError) else f"{type(err).__name__}: {err}")


def _structure(stage: StageNet) -> dict[str, Any]:
    """What a module is beside its weights: classes and plain attributes of all its parts."""
    parts = {
        name: [type(part).__name__, {k: v for k, v in sorted(vars(part).items()) if isinstance(v, PLAIN)}]
        for name, part in stage.module.named_modules()
    }
    inputs = [(spec.name, spec.channels, str(spec.per_frame)) for spec in stage.inputs]
    return {"parts": parts, "inputs": inputs, "float32": stage.float32, "whole": stage.whole_float32}
