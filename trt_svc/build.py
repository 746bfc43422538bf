"""The one place that joins the stages: checkpoint, rewrites, precision, graph, engine, quality gate, cache."""

from __future__ import annotations

import contextlib
import io
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from trt_svc.backends.base import Backend, Built, Runner, backends
from trt_svc.build_config import STREAM_MAX_FRAMES, BuildConfig, Precision, ShapeRange
from trt_svc.cache import EngineCache
from trt_svc.checkpoints.load import Checkpoint, open_checkpoint
from trt_svc.difference import Difference, difference, worst
from trt_svc.engine_key import EngineKey, engine_key
from trt_svc.errors import (
    BackendUnavailable,
    BuildCancelled,
    ConfigError,
    GraphError,
    QualityError,
    TrtSvcError,
    shown,
)
from trt_svc.graph.check import MIN_EXPORT_SNR_DB, QUALITY_OF_GRAPH, compare_with_module, opened_on_cpu, reference_audio
from trt_svc.graph.mixed import product_layers
from trt_svc.graph.model import Graph
from trt_svc.graph.rewrites.base import applicable, rewritten
from trt_svc.graph.vocoder import described_stages, graph_from_vocoder, network_sha256, stage_graphs
from trt_svc.mixed_layers import protected_on_cases, rounding_costs
from trt_svc.prebuilt import Engine, find_built, request_for
from trt_svc.precision import layers_of
from trt_svc.progress import Progress, Quiet
from trt_svc.registry import did_you_mean
from trt_svc.request import machine_sha256, request_in_memory, request_sha256
from trt_svc.sentinel import SENTINEL
from trt_svc.stages import Chain, files_of, prefix, spans_from
from trt_svc.timing import interleaved_seconds, seconds_of
from trt_svc.types import Array
from trt_svc.vocoders.base import Stage, VocoderNet
from trt_svc.vocoders.healthy import example_inputs

log = logging.getLogger(__name__)

CHECK_SHAPES = ((1, 1), (2, 7), (1, 32))
GATE_FRAMES = (1, 33, 160)
SENTINEL_FRAMES = 32
STAGE_GATE_FRAMES = 40
GATE_MAX_FRAMES = 1000
MIX_FRAMES, MIX_SEED = 24, 11
"""What every layer of a mixed engine is rounded on by itself; the choice is measured as the gate measures."""


def build_engine(
    checkpoint: str | Path | Checkpoint | VocoderNet,
    settings: BuildConfig | None = None,
    *,
    config: str | Path | Mapping[str, Any] | None = None,
    family: str | None = None,
    source: str | None = None,
    cache: EngineCache | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Engine:
    """The engine of a checkpoint (or of a network): from the cache, else built, checked against torch and stored.

    config, family and source are those of `load_vocoder`. `force` builds again whatever the cache holds.
    """
    progress, cache, wanted = progress or Quiet(), cache or EngineCache(), settings or BuildConfig()
    if isinstance(checkpoint, (Checkpoint, VocoderNet)):
        net = checkpoint.net if isinstance(checkpoint, Checkpoint) else checkpoint
        memory = request_in_memory(network_sha256(net), wanted)
        return _remembered(memory, lambda: net, lambda: True, wanted, cache, force, progress)

    def request() -> dict[str, Any] | None:
        return request_for(checkpoint, wanted, config, family, source)

    def opened() -> VocoderNet:
        progress.stage("reading the checkpoint")
        return open_checkpoint(checkpoint, config, family, source).net

    stored = request()
    # Remembered only if the file is still the one that was read.
    return _remembered(stored, opened, lambda: request() == stored, wanted, cache, force, progress)


def _remembered(
    request: dict[str, Any] | None,
    opened: Callable[[], VocoderNet],
    is_current: Callable[[], bool],
    wanted: BuildConfig,
    cache: EngineCache,
    force: bool,
    progress: Progress,
) -> Engine:
    """The engine that the same request led to before, else built and noted."""
    found = None if force else find_built(cache, request)
    if found is not None:
        return found
    with cache.building(request_sha256(request)) if request is not None else contextlib.nullcontext():
        # Whoever waited here for the same request finds its engine now, `auto` included.
        found = None if force else find_built(cache, request)
        if found is not None:
            return found
        found = _engine_of(opened(), wanted, cache, force, progress)
        if request is not None and is_current():
            cache.remember(request, found.key)
        return found


def _engine_of(net: VocoderNet, config: BuildConfig, cache: EngineCache, force: bool, progress: Progress) -> Engine:
    wanted = config.for_family(net.family)
    check_protected(net, wanted)
    if wanted.backend == "auto" and wanted.targets:
        wanted = replace(wanted, backend="tensorrt-rtx")  # nothing else compiles for GPUs that are not here
    if wanted.backend == "auto" and wanted.precision.name == "mixed":
        wanted = replace(wanted, backend="native" if backends.get("native")().probe().runs else "openvino")
    measured: dict[str, Any] = {}
    built: Built | None = None
    if wanted.backend == "auto":
        wanted, built, measured = fastest(net, wanted, progress)
    backend = usable_backend(wanted.backend)
    wanted = backend.settled(wanted)
    if wanted.rewrites is None:
        wanted = replace(wanted, rewrites=default_rewrites(backend, net))
    if backend.graph_precision(wanted).name == "mixed" and not wanted.precision.protected:
        wanted = with_protection(net, wanted, backend, progress)
    progress.stage("writing the graph")
    graph = graph_from_vocoder(net, backend.graph_precision(wanted), wanted.rewrites or ())
    key = engine_key(graph.metadata["weights_sha256"], graph.sha256(), wanted, backend.identity(wanted))
    with cache.building(key):
        found = None if force else cached(cache, key, wanted)
        if found is None:
            return _built(net, graph, backend, wanted, key, cache, progress, measured, built)
        if measured:
            notes = {**found.notes, "measured": measured}
            return Engine(cache.store(key, found.entry.files, found.entry.metadata, notes), True)
        return found


def with_protection(net: VocoderNet, config: BuildConfig, backend: Backend, progress: Progress) -> BuildConfig:
    """With the layers in float32 that a mixed engine needs to pass the gate, and no more."""
    progress.stage("rounding one layer at a time")
    names = config.rewrites or ()
    body, layers = rewritten(net, names), product_layers(graph_from_vocoder(net, Precision(), names))
    heard = example_inputs(net, 1, MIX_FRAMES, seed=MIX_SEED)
    costs = list(rounding_costs(body, lambda: reference_audio(body, heard), layers))
    cases = [example_inputs(net, batch, frames, seed=frames) for batch, frames in gate_shapes(config)]
    answered = [(case, reference_audio(net, case)) for case in cases]

    def protecting(some: tuple[str, ...]) -> BuildConfig:
        return replace(config, precision=replace(config.precision, protected=some))

    def built(some: tuple[str, ...]) -> Callable[[dict[str, Any]], Array]:
        tried = protecting(some)
        graph = graph_from_vocoder(net, tried.precision, names)
        runner = backend.open(backend.build(graph, tried, progress).files, "auto")
        _stop_if_cancelled(progress)
        return lambda case: runner.run({spec.name: case[spec.name].numpy() for spec in graph.inputs})

    return protecting(protected_on_cases(layers, costs, config.min_snr_db, answered, built))


def check_protected(net: VocoderNet, config: BuildConfig) -> None:
    """Refuses patterns that protect nothing: their author thinks that something is float32."""
    names = [name for name, _ in layers_of(net)]
    for pattern in config.precision.protected:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"protected layers {shown(pattern)!r}",
                f"no layer of this {net.family} is called so.",
                did_you_mean(pattern, names[:40]),
            )


def _built(
    net: VocoderNet,
    graph: Graph,
    backend: Backend,
    config: BuildConfig,
    key: EngineKey,
    cache: EngineCache,
    progress: Progress,
    measured: Mapping[str, Any],
    built: Built | None,
) -> Engine:
    started = time.perf_counter()
    progress.stage("checking the graph against torch")
    check_export(net, config.rewrites or ())
    _stop_if_cancelled(progress)
    progress.stage(f"compiling for {backend.name}")
    built = built or backend.build(graph, config, progress)
    _stop_if_cancelled(progress)
    stages = build_stages(net, backend, config, progress) if config.streaming else {}
    progress.stage("measuring quality")
    runs_here = backend.can_run(config)
    runner = backend.open(built.files, "auto") if runs_here else None
    quality = gate(net, graph, runner, config)
    speed = {} if runner is None else {"speed": measured_speed(net, graph, runner, config)}
    metadata = {**graph.metadata, "stages": described_stages(net)} if stages else graph.metadata
    if stages:
        gate_stages(net, backend if runs_here else None, stages, config)
    files = {**built.files, **stages, SENTINEL: sentinel_file(net, config)}
    notes = {
        **built.notes,
        "build_s": round(time.perf_counter() - started, 2),
        "quality": quality.as_dict(),
        "quality_of": f"the engine on {backend.name}" if runs_here else QUALITY_OF_GRAPH,
        "gate_db": config.min_snr_db,
        "rewrites": list(config.rewrites or ()),
        "measured": dict(measured),
        **speed,
    }
    progress.stage("storing the engine")
    return Engine(cache.store(key, files, metadata, notes), False)


def build_stages(net: VocoderNet, backend: Backend, config: BuildConfig, progress: Progress) -> dict[str, bytes]:
    """The files of the network's stages; nothing where it cannot be cut."""
    files: dict[str, bytes] = {}
    graphs = stage_graphs(net, backend.graph_precision(config), config.rewrites or ())
    for number, (stage, graph) in enumerate(zip(net.stages(), graphs, strict=True)):
        progress.stage(f"compiling stage {number + 1} of {len(graphs)} for {backend.name}")
        made = backend.build(graph, replace(config, frames=(stage_range(stage),)), progress)
        files |= {prefix(number) + name: data for name, data in made.files.items()}
        _stop_if_cancelled(progress)
    return files


def stage_range(stage: Stage) -> ShapeRange:
    """The lengths of a stage's windows, in its own ticks: from one tick to some seconds."""
    usual, most = int(100 * stage.ticks_per_frame), int(STREAM_MAX_FRAMES * stage.ticks_per_frame)
    return ShapeRange(1, usual, max(most, sum(stage.context) + 1))


def gate_stages(net: VocoderNet, backend: Backend | None, files: Mapping[str, bytes], config: BuildConfig) -> None:
    """The chain of the opened stages against torch float32; refuses it below the gate."""
    batch, frames = config.profiles[0].batch.min, STAGE_GATE_FRAMES
    inputs = example_inputs(net, batch, frames)
    opened: list[Callable[[Mapping[str, Array]], Array]]
    if backend is not None:
        opened = [backend.open(files_of(files, number), "auto").run for number in range(len(net.stages()))]
    else:
        graphs = stage_graphs(net, config.precision, config.rewrites or ())
        opened = [opened_on_cpu(graph) for graph in graphs]

    def run(given: Mapping[str, Any], number: int) -> Array:
        return opened[number](dict(given))

    chain = Chain(spans_from(described_stages(net)), run, lambda: None)
    made = chain.push({name: value.numpy() for name, value in inputs.items()}, last=True)
    found = difference(np.concatenate(made, axis=-1), reference_audio(net, inputs))
    refuse_below_gate(found.snr_db, net.family, config)


def cached(cache: EngineCache, key: EngineKey, config: BuildConfig) -> Engine | None:
    """The stored engine of a key, if its measured quality satisfies this request's gate."""
    entry = cache.find(key)
    if entry is None:
        return None
    engine = Engine(entry, True)
    refuse_below_gate(float(engine.notes["quality"]["snr_db"]), engine.entry.metadata["family"], config)
    return engine


def refuse_below_gate(snr_db: float, family: str, config: BuildConfig) -> None:
    if snr_db >= config.min_snr_db:
        return
    raise QualityError(
        f"quality of the {config.precision.name} engine for {family}",
        f"it is {snr_db:.1f} dB from torch float32, the gate asks for {config.min_snr_db:g} dB.",
        "Use fp32, protect the layers that `trt-svc precision-report` names, or lower --min-snr.",
    )


def _stop_if_cancelled(progress: Progress) -> None:
    if progress.cancelled:
        raise BuildCancelled("building an engine", "it was stopped.", "Nothing was stored.")


def usable_backend(name: str) -> Backend:
    """The backend, or a BackendUnavailable with the reason."""
    backend = backends.get(name)()
    probe = backend.probe()
    if not probe.builds:
        raise BackendUnavailable(f"backend {name}", f"{probe.found}.", probe.advice)
    return backend


def default_rewrites(backend: Backend, net: VocoderNet) -> tuple[str, ...]:
    """The backend's usual forms, as far as they have something to do here."""
    return tuple(sorted(set(backend.default_rewrites) & set(applicable(net))))


def check_export(net: VocoderNet, rewrites: Iterable[str]) -> Difference:
    """The float32 graph in these forms must equal the module on onnxruntime before any of it may be used."""
    found = compare_with_module(graph_from_vocoder(net, Precision(), rewrites), net, CHECK_SHAPES)
    if not found.snr_db >= MIN_EXPORT_SNR_DB:
        raise GraphError(
            f"graph of {net.family} with {sorted(rewrites) or 'no rewrites'}",
            f"it is {found.snr_db:.1f} dB from torch, {MIN_EXPORT_SNR_DB:.0f} dB are needed.",
            "This is a bug of the export: please report it with the checkpoint's config.",
        )
    return found


def gate(net: VocoderNet, graph: Graph, runner: Runner | None, config: BuildConfig) -> Difference:
    """The quality against torch float32 at several lengths of each profile; refuses an engine below the gate."""
    run = runner.run if runner is not None else opened_on_cpu(graph)
    found = []
    for batch, frames in gate_shapes(config):
        inputs = example_inputs(net, batch, frames, seed=frames)
        arrays = {spec.name: inputs[spec.name].numpy() for spec in graph.inputs}
        found.append(difference(run(arrays), reference_audio(net, inputs)))
    quality = worst(found)
    refuse_below_gate(quality.snr_db, net.family, config)
    return quality


def measured_speed(net: VocoderNet, graph: Graph, runner: Runner, config: BuildConfig) -> dict[str, Any]:
    """What this engine does on this machine at the usual shape: whoever opens it can notice that it got slow."""
    profile = config.profiles[0]
    batch, frames = profile.batch.opt, min(profile.frames.opt, GATE_MAX_FRAMES)
    inputs = example_inputs(net, batch, frames)
    arrays = {spec.name: inputs[spec.name].numpy() for spec in graph.inputs}
    seconds = min(seconds_of(lambda: runner.run(arrays)) for _ in range(2))
    return {"frames": frames, "batch": batch, "seconds": round(seconds, 6), "machine": machine_sha256()}


def gate_shapes(config: BuildConfig) -> list[tuple[int, int]]:
    """(batch, frames) inside the profiles: shortest and usual length of each, one batch, and the usual test lengths."""
    shapes = set()
    for profile in config.profiles:
        few = profile.batch.min
        inside = [frames for frames in GATE_FRAMES if frames in profile.frames]
        usual = [profile.frames.opt] if profile.frames.opt <= GATE_MAX_FRAMES else []
        shapes |= {(few, frames) for frames in (profile.frames.min, *inside, *usual)}
        shapes.add((min(profile.batch.max, few + 1), min(profile.frames.min + 7, profile.frames.max)))
    return sorted(shapes)


def sentinel_file(net: VocoderNet, config: BuildConfig) -> bytes:
    """A short input inside the first profile and torch's answer to it, asked of the engine whenever it is opened."""
    (profile, *_) = config.profiles
    frames = min(max(SENTINEL_FRAMES, profile.frames.min), profile.frames.max)
    inputs = example_inputs(net, profile.batch.min, frames, seed=7)
    answer = reference_audio(net, inputs)
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"answer": answer, **{f"in_{name}": value.numpy() for name, value in inputs.items()}}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def fastest(net: VocoderNet, config: BuildConfig, progress: Progress) -> tuple[BuildConfig, Built, dict[str, Any]]:
    """The quickest backend and form that can run on this machine and passes the gate, by interleaved timing."""
    progress.stage("measuring backends on this machine")
    (profile, *_) = config.profiles
    frames, batch = profile.frames.opt, profile.batch.opt
    inputs = example_inputs(net, batch, frames)
    runs: dict[str, Any] = {"torch": lambda: reference_audio(net, inputs)}
    candidates: dict[str, tuple[BuildConfig, Built]] = {}
    out: dict[str, str] = {}
    for candidate in contenders(net, config):
        label = f"{candidate.backend} ({', '.join(candidate.rewrites or ()) or 'as it is'})"
        try:
            runs[label], built = _contender(net, candidate, inputs, progress)
            runs[label]()
            candidates[label] = (candidate, built)
        except Exception as err:  # whatever is wrong with one backend must not stop the others
            out[label] = shown(err.found if isinstance(err, TrtSvcError) else f"{type(err).__name__}: {err}")
            log.warning("%s is out: %s", label, out[label])
        _stop_if_cancelled(progress)
    if not candidates:
        found = "no backend that builds engines can run here."
        raise BackendUnavailable("backend auto", found, "See `trt-svc doctor`, or use backend='torch'.")
    seconds = interleaved_seconds(runs)
    best = first_that_passes(net, candidates, seconds, out)
    report = {
        "frames": frames,
        "batch": batch,
        "seconds": {label: round(value, 5) for label, value in seconds.items()},
        "chosen": best,
        "out": out,
    }
    return (*candidates[best], report)


def first_that_passes(
    net: VocoderNet,
    candidates: Mapping[str, tuple[BuildConfig, Built]],
    seconds: Mapping[str, float],
    out: dict[str, str],
) -> str:
    """The quickest candidate that passes the gate; the reasons of those before it go to `out`."""
    for label in sorted(candidates, key=lambda name: seconds[name]):
        config, built = candidates[label]
        backend = backends.get(config.backend)()
        graph = graph_from_vocoder(net, backend.graph_precision(config), config.rewrites or ())
        try:
            gate(net, graph, backend.open(built.files, "auto"), config)
        except QualityError as err:
            out[label] = err.found
            log.warning("%s is out: %s", label, err.found)
        else:
            return label
    raise QualityError(
        "backend auto", "nothing that runs here passes the quality gate.", "Lower --min-snr, or use backend='torch'."
    )


def contenders(net: VocoderNet, config: BuildConfig) -> Iterator[BuildConfig]:
    """What `auto` compares: every backend that builds and runs here, in each of its competing forms."""
    for name, kind in backends:
        backend = kind()
        if config.device == "cpu" and backend.needs_gpu:
            continue
        probe = backend.probe()
        if not (probe.runs and probe.builds):
            continue
        try:
            settled = backend.settled(replace(config, backend=name))
        except ConfigError as err:
            log.info("%s is out: %s", name, err)
            continue
        if backend.can_run(settled):
            yield from (replace(settled, rewrites=rewrites) for rewrites in forms(backend, net, config))


def forms(backend: Backend, net: VocoderNet, config: BuildConfig) -> list[tuple[str, ...]]:
    """The sets of rewrites to compare for a backend: the asked one, or the folds with each competing form."""
    if config.rewrites is not None:
        return [config.rewrites]
    here = set(applicable(net))
    folds = here & set(backend.folds)
    sets = {tuple(sorted(folds | set(extra))) for extra in backend.competing() if set(extra) <= here}
    return sorted(sets)


def _contender(
    net: VocoderNet, config: BuildConfig, inputs: Mapping[str, Any], progress: Progress
) -> tuple[Callable[[], Array], Built]:
    backend = backends.get(config.backend)()
    graph = graph_from_vocoder(net, backend.graph_precision(config), config.rewrites or ())
    built = backend.build(graph, config, progress)
    runner = backend.open(built.files, "auto")
    arrays: dict[str, Array] = {spec.name: inputs[spec.name].numpy() for spec in graph.inputs}
    return lambda: runner.run(arrays), built
