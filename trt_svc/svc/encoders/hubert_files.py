"""From a file of the HuBERT family to the network: sizes read from the weights, conventions checked by the plan."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from trt_svc.build_config import ShapeRange
from trt_svc.checkpoints.layouts import fold_weight_norm
from trt_svc.checkpoints.locate import read_config
from trt_svc.errors import UnknownFamily, WeightsMismatch, shown
from trt_svc.svc.encoders.base import CONV_KERNELS, HOP_SAMPLES, RATE_HZ, ContentEncoder, weights_file
from trt_svc.svc.encoders.hubert import ExtractorNorm, HubertConfig, HubertNet
from trt_svc.svc.encoders.long_audio import LONG_SAMPLES, units_in_blocks
from trt_svc.svc.encoders.names import hubert_name, is_training_only, separated
from trt_svc.svc.encoders.stored import StoredWeights, fill, opened_weights, some
from trt_svc.svc.encoders.transformer import LayerSizes
from trt_svc.svc.example_audio import sung
from trt_svc.svc.stage import Run, StageNet
from trt_svc.types import Array
from trt_svc.vocoders.base import CoreInput

USUAL_HEAD_CHANNELS = 64
_LAYER_OF = re.compile(r"layers\.(\d+)\.")
MAX_DISTANCE = 1 << 16
"""Frames (22 minutes): nobody tells longer distances apart."""
WHOLE_FILE = "Get the whole file of that encoder."
USUAL_SAMPLES = 10 * RATE_HZ
ENGINE_SAMPLES = 40 * RATE_HZ
"""Longest audio for an engine: its attention holds every pair of frames."""


@dataclass(frozen=True)
class Plan:
    """What an encoder takes out of a HuBERT file, and which networks it takes it from."""

    extractor_norm: ExtractorNorm
    layer: int | None = None
    """Its output is used, counted from 1; None: the last."""
    projected: bool = False
    """The projection behind it is used."""
    relative: bool = False
    """WavLM's gated distances are expected."""
    padding_samples: int = 0
    normalised_as_stored: bool = False
    """The file says whether its audio is normalised; else it is not."""


def open_hubert(path: Path, plan: Plan, encoder: str) -> HubertNet:
    """The network stored under fairseq's, Hugging Face's or soft HuBERT's names, ready to run."""
    with opened_weights(path) as stored:
        what = f"{stored.what} as content encoder {encoder}"
        weights = separated(fold_weight_norm(_needed_weights(stored, plan, what), what))
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    config = _Reader(shapes, stored, path, what).config(plan)
    with torch.device("meta"):
        net = HubertNet(config)
    fill(net, weights, stored.what, f"content encoder {encoder}")
    return net


def check_names(stored: StoredWeights, what: str) -> None:
    """Refuses files whose names are not those of the family."""
    strange = [name for name in stored.tensors if hubert_name(name) is None and not is_training_only(name)]
    if strange:
        found = f"{len(strange)} of its {len(stored.tensors)} weights belong to no HuBERT ({some(strange)})."
        raise UnknownFamily(what, found, "Give the encoder's own file, as it was published.")


def _needed_weights(stored: StoredWeights, plan: Plan, what: str) -> dict[str, Tensor]:
    """The weights up to the layer that is used, under our names."""
    check_names(stored, what)

    def new_name(name: str) -> str | None:
        ours = hubert_name(name)
        if ours is None or (ours.startswith("projection.") and not plan.projected):
            return None
        layer = _LAYER_OF.match(ours)
        return None if layer and plan.layer is not None and int(layer[1]) >= plan.layer else ours

    return stored.load(new_name)


class _Reader:
    """Reads a config off the shapes of weights, and off what is stored or lies beside them."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], stored: StoredWeights, path: Path, what: str) -> None:
        self._shapes, self._stored, self._path, self._what = shapes, stored, path, what

    def config(self, plan: Plan) -> HubertConfig:
        convolutions = self._convolutions()
        width, per_group, kernel = self._shape("positions.weight", 3)
        relative = "distances.0.weight" in self._shapes
        norm: ExtractorNorm = "layer" if "extractor.1.norm.weight" in self._shapes else "group"
        self._check_kind(norm, relative, width, plan)
        if per_group == 0 or width % per_group:
            raise self._unusable(f"positions.weight has the shape {self._shapes['positions.weight']}.")
        return HubertConfig(
            conv_channels=convolutions,
            conv_bias="extractor.0.conv.bias" in self._shapes,
            extractor_norm=norm,
            width=width,
            position_kernel=kernel,
            position_groups=width // per_group,
            layers=self._layers(width, plan),
            norm_first=self._norm_first(norm),
            normalised_input=plan.normalised_as_stored and bool(self._option("normalize", "do_normalize")),
            padding_samples=plan.padding_samples,
            buckets=self._shape("distances.0.weight", 2)[0] if relative else 0,
            max_distance=self._max_distance() if relative else 0,
            units=self._projected(plan),
        )

    def _shape(self, name: str, rank: int) -> tuple[int, ...]:
        shape = self._shapes.get(name)
        if shape is None:
            raise self._unusable(f"weight {name} is missing.")
        if len(shape) != rank:
            raise self._unusable(f"weight {name} has the shape {shape}.")
        return shape

    def _unusable(self, found: str, advice: str = WHOLE_FILE) -> WeightsMismatch:
        return WeightsMismatch(self._what, found, advice)

    def _convolutions(self) -> tuple[int, ...]:
        found = [self._shape(f"extractor.{i}.conv.weight", 3) for i in range(len(CONV_KERNELS))]
        kernels = tuple(shape[2] for shape in found)
        if kernels != CONV_KERNELS:
            raise self._unusable(f"its convolutions are {kernels} samples wide instead of {CONV_KERNELS}.")
        return tuple(shape[0] for shape in found)

    def _check_kind(self, norm: ExtractorNorm, relative: bool, width: int, plan: Plan) -> None:
        if (norm, relative) != (plan.extractor_norm, plan.relative):
            family = "WavLM" if relative else "HuBERT"
            size = "large" if norm == "layer" else "base"
            raise self._unusable(
                f"it is a {family} of the {size} kind ({width} channels).", "Give this encoder's own file."
            )

    def _layers(self, width: int, plan: Plan) -> tuple[LayerSizes, ...]:
        """As many layers as are used, all like the first: gaps and odd ones show when the weights are put in."""
        count = 1 + max((int(m[1]) for m in map(_LAYER_OF.match, self._shapes) if m), default=-1)
        if count == 0 or count < (plan.layer or 0):
            raise self._unusable(f"it has {count} layers, {plan.layer or 'at least one'} are needed.")
        heads = self._heads(width)
        inner = self._shape("layers.0.widen.weight", 2)[0]
        return (LayerSizes(heads, width // heads, inner),) * count

    def _heads(self, width: int) -> int:
        heads = self._option("encoder_attention_heads", "num_attention_heads")
        if type(heads) is not int:
            heads = width // USUAL_HEAD_CHANNELS
        if heads < 1 or width % heads:
            found = f"{shown(heads)} attention heads do not divide its {width} channels."
            raise self._unusable(found, "Put the config.json that came with it beside it.")
        return heads

    def _norm_first(self, norm: ExtractorNorm) -> bool:
        """Not to be seen in the weights; all published networks of the large kind do it."""
        said = self._option("layer_norm_first", "do_stable_layer_norm")
        return said if isinstance(said, bool) else norm == "layer"

    def _max_distance(self) -> int:
        found = self._option("max_distance", "max_bucket_distance")
        buckets = self._shape("distances.0.weight", 2)[0]
        if type(found) is not int or buckets < 4 or not buckets // 4 < found <= MAX_DISTANCE:
            said = f"its configuration says max_distance {shown(found)} for {buckets} buckets."
            raise self._unusable(said, "Give the file as it was published, with its cfg.")
        return found

    def _projected(self, plan: Plan) -> int | None:
        if not plan.projected:
            return None
        if "projection.weight" not in self._shapes:
            raise self._unusable(
                "it has no final projection (final_proj): it is not ContentVec, or was stored without it.",
                "Give checkpoint_best_legacy_500.pt, or a conversion that keeps final_proj (content-vec-best).",
            )
        return self._shape("projection.weight", 2)[0]

    def _option(self, *names: str) -> Any:
        """What the file says, or the config.json beside a Hugging Face file."""
        found = self._stored.option(*names)
        beside = self._path.parent / "config.json"
        if found is None and self._path.suffix in (".bin", ".safetensors") and beside.is_file():
            config = read_config(beside)
            found = next((config[name] for name in names if name in config), None)
        return found


class HubertEncoder(ContentEncoder):
    """An encoder whose network is a HuBERT; `plan` says what is taken from it."""

    plan: ClassVar[Plan]

    def __init__(self, net: HubertNet) -> None:
        self._net = net
        self._run: Run = self._in_torch
        self.channels = net.config.channels

    @classmethod
    def from_file(cls, path: str | Path, channels: int | None = None) -> Self:
        file = weights_file(path, cls.usual_files, cls.name)
        net = open_hubert(file, cls.plan, cls.name)
        cls.check_channels(net.config.channels, channels, file.name)
        return cls(net)

    def module(self) -> HubertNet:
        """audio (batch, 1, samples) -> units (batch, channels, frames)."""
        return self._net

    def frames(self, samples: int) -> int:
        return super().frames(samples + 2 * self._net.config.padding_samples)

    def stage(self) -> StageNet:
        return StageNet(
            "content encoder",
            self._net,
            (CoreInput("audio", 1),),
            lambda batch, samples, seed: {"audio": sung(batch, samples, RATE_HZ, seed)[:, None]},
            # Two frames: attention of OpenVINO 2026.4 that has seen a single one first is wrong ever after.
            ShapeRange(self.min_samples + HOP_SAMPLES, USUAL_SAMPLES, ENGINE_SAMPLES),
            in_torch=self._in_torch,
        )

    def on(self, run: Run) -> None:
        self._run = run

    def _units(self, wave: Array) -> Array:
        return self._run({"audio": np.ascontiguousarray(wave[:, None])})

    @torch.inference_mode()
    def _in_torch(self, inputs: Mapping[str, Array]) -> Array:
        net = self._net
        audio = torch.tensor(inputs["audio"], device=net.positions.weight.device)
        made: Tensor = net(audio) if audio.shape[2] <= LONG_SAMPLES else units_in_blocks(net, audio)
        units: Array = made.cpu().numpy()
        return units
