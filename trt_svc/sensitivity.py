"""Which layers pay for half precision: each is rounded alone, on the mel of a real recording.

A layer's weights, inputs and outputs are rounded to 16 bits while everything else stays float32; what that adds to
the audio is its cost. Costs add up nearly independently, so the smallest set of layers to keep in float32 follows
from them, and is then measured on the real graph.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from trt_svc.build_config import Precision
from trt_svc.checkpoints.locate import DEMO_FOLDER
from trt_svc.clips import clip_of
from trt_svc.difference import Difference, difference, worst
from trt_svc.graph.check import opened_on_cpu, reference_audio
from trt_svc.graph.vocoder import graph_from_vocoder
from trt_svc.precision import layers_of, rule_for
from trt_svc.progress import Progress, Quiet
from trt_svc.types import Array
from trt_svc.vocoders.base import VocoderNet

RECORDINGS = (DEMO_FOLDER / "sung.flac", DEMO_FOLDER / "spoken.flac")
DEFAULT_TARGET_DB = 60.0
ATTEMPTS = 6


@dataclass(frozen=True)
class LayerCost:
    """A layer in half precision, all others in float32."""

    layer: str
    parameters: int
    snr_db: float
    mse: float


@dataclass(frozen=True)
class PrecisionReport:
    family: str
    target_db: float
    frames: int
    recordings: tuple[str, ...]
    layers: tuple[LayerCost, ...]
    """The most costly first."""
    protected: tuple[str, ...]
    """What has to stay float32 for the target."""
    plain: Difference
    """The typed graph without further protection, on onnxruntime."""
    shielded: Difference
    """The same with the protected layers in float32."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def recipe(self) -> dict[str, Any]:
        """The keys that `build-engine --recipe` reads."""
        return {"precision": "fp16", "protected": list(self.protected)}


def precision_report(
    net: VocoderNet,
    target_db: float = DEFAULT_TARGET_DB,
    frames: int = 64,
    recordings: Sequence[Path] = RECORDINGS,
    progress: Progress | None = None,
) -> PrecisionReport:
    """Measures every layer and chooses the protected ones."""
    progress = progress or Quiet()
    progress.stage("reading the recordings")
    clips = [clip_of(net, path, frames).inputs for path in recordings]
    references = [reference_audio(net, clip) for clip in clips]
    progress.stage("rounding one layer at a time")
    costs = sorted(_costs(net, clips, references, progress), key=lambda cost: cost.snr_db)
    power = float(np.mean([np.mean(np.square(r, dtype=np.float64)) for r in references]))
    progress.stage("measuring the typed graph")
    shielded = plain = _of_graph(net, Precision("fp16"), clips, references)
    protected: tuple[str, ...] = ()
    allowed = power / 10 ** (target_db / 10)
    for _ in range(ATTEMPTS):
        if shielded.snr_db >= target_db or len(protected) == len(costs):
            break
        # Costs add up only nearly: what the graph still lacks is taken off the allowance.
        protected = smallest_set(costs, allowed)
        shielded = _of_graph(net, Precision("fp16", protected), clips, references) if protected else plain
        allowed /= 10 ** (max(target_db - shielded.snr_db, 0.5) / 10)
    names = tuple(path.name for path in recordings)
    return PrecisionReport(net.family, target_db, frames, names, tuple(costs), protected, plain, shielded)


def _costs(
    net: VocoderNet, clips: Sequence[Mapping[str, Tensor]], references: Sequence[Array], progress: Progress
) -> Iterator[LayerCost]:
    body = copy.deepcopy(net)
    layers = [
        (name, layer)
        for name, layer in layers_of(body)
        if rule_for(net, name, Precision("fp16"))[0] == torch.float16 and any(True for _ in layer.parameters())
    ]
    for done, (name, layer) in enumerate(layers, start=1):
        with rounded(layer):
            made = [reference_audio(body, dict(clip)) for clip in clips]
        found = worst([difference(m, r) for m, r in zip(made, references, strict=True)])
        yield LayerCost(name, sum(p.numel() for p in layer.parameters()), round(found.snr_db, 2), found.mse)
        progress.step(done, len(layers))


@contextmanager
def rounded(layer: nn.Module) -> Iterator[None]:
    """The layer as it is with 16-bit weights, inputs and outputs, computed in float32."""
    leaves = [m for m in layer.modules() if next(m.parameters(recurse=False), None) is not None]
    kept = [(p, p.data) for p in layer.parameters()]
    hooks = []
    for leaf in leaves:
        hooks.append(leaf.register_forward_pre_hook(lambda _, given: tuple(_half(x) for x in given)))
        hooks.append(leaf.register_forward_hook(lambda _, __, made: _half(made)))
    try:
        for parameter, data in kept:
            parameter.data = _half(data)
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data
        for hook in hooks:
            hook.remove()


def _half(value: Tensor) -> Tensor:
    return value.half().float()


def smallest_set(costs: Sequence[LayerCost], allowed_mse: float) -> tuple[str, ...]:
    """The fewest layers without which the others' costs add up to no more than allowed."""
    left = sum(cost.mse for cost in costs)
    chosen = []
    for cost in sorted(costs, key=lambda c: -c.mse):
        if left <= allowed_mse:
            break
        chosen.append(cost.layer)
        left -= cost.mse
    return tuple(sorted(chosen))


def _of_graph(
    net: VocoderNet, precision: Precision, clips: Sequence[Mapping[str, Tensor]], references: Sequence[Array]
) -> Difference:
    graph = graph_from_vocoder(net, precision)
    run, found = opened_on_cpu(graph), []
    for clip, reference in zip(clips, references, strict=True):
        made = run({spec.name: clip[spec.name].numpy() for spec in graph.inputs})
        found.append(difference(made, reference))
    return worst(found)
