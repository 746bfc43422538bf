"""What `trt-svc inspect` says about a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from trt_svc.checkpoints.load import Checkpoint, examine
from trt_svc.vocoders.base import VocoderNet

FRAMES_COUNTED = 64


@dataclass(frozen=True)
class Description:
    """A checkpoint in numbers."""

    path: str
    family: str
    variant: str
    layout: str
    stored_dtype: str
    weight_norm: str
    config: str
    parameters: int
    sample_rate: int
    hop: int
    input_channels: int
    input_kind: str
    needs_f0: bool
    needs_speaker: bool
    speaker_channels: int
    receptive_field: tuple[int, int]
    receptive_field_ms: tuple[float, float]
    gflop_per_second: float
    noise: dict[str, tuple[int, ...]]
    usable: bool
    missing: list[str]
    extra: list[str]
    misshapen: list[str]
    beside: int
    """Tensors of other networks in the same file."""

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def describe(
    where: str | Path,
    config: str | Path | Mapping[str, Any] | None = None,
    family: str | None = None,
    source: str | None = None,
) -> Description:
    """Reads a checkpoint without running it; a mismatch with its config is reported, not raised."""
    seen = examine(where, config, family, source)
    net, spec, unwrapped = seen.net, seen.net.spec, seen.unwrapped
    left, right = net.receptive_field
    frame_ms = 1000 / spec.frames_per_second
    noise = _noise_shapes(seen)
    return Description(
        path=str(seen.path),
        family=seen.family,
        variant=net.variant,
        layout=unwrapped.layout,
        stored_dtype=unwrapped.dtype,
        weight_norm="folded when loaded" if unwrapped.norm_folded else "none in the file",
        config=seen.config_origin,
        parameters=seen.parameters,
        sample_rate=spec.sample_rate,
        hop=spec.hop,
        input_channels=spec.n_mels,
        input_kind="mel" if spec.mel else "latent",
        needs_f0=spec.needs_f0,
        needs_speaker=spec.needs_speaker,
        speaker_channels=spec.speaker_channels,
        receptive_field=(left, right),
        receptive_field_ms=(round(left * frame_ms, 1), round(right * frame_ms, 1)),
        gflop_per_second=round(gflop_per_second(net), 2),
        noise=noise,
        usable=seen.complete,
        missing=seen.missing,
        extra=seen.extra,
        misshapen=seen.misshapen,
        beside=len(unwrapped.left_out),
    )


def _noise_shapes(seen: Checkpoint) -> dict[str, tuple[int, ...]]:
    frames = ceil(seen.net.spec.frames_per_second)
    if not seen.complete:
        return {}
    seen.fill()
    return {field.name: field.shape(1, frames) for field in seen.net.excitation().fields}


def gflop_per_second(net: VocoderNet) -> float:
    """10^9 floating-point operations per second of audio: matrix and convolution work, two per multiply-add."""
    with torch.device("meta"):
        shapes = {spec.name: int(FRAMES_COUNTED * spec.per_frame) for spec in net.core_inputs()}
        inputs = [torch.empty(1, spec.channels, shapes[spec.name]) for spec in net.core_inputs()]
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net.to("meta")(*inputs)
    seconds = FRAMES_COUNTED / net.spec.frames_per_second
    return float(counter.get_total_flops() / 1e9 / seconds)
