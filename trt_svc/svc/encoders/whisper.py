"""Whisper's encoder (OpenAI): medium (whisper-ppg) and large-v2 (whisper-ppg-large), last layer.

It hears exactly 30 s: shorter audio is followed by silence, longer audio has no place. Only the frames that lie inside
the audio come out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trt_svc.build_config import ShapeRange
from trt_svc.errors import UnknownFamily, WeightsMismatch, shown
from trt_svc.svc.encoders.base import HOP_SAMPLES, RATE_HZ, ContentEncoder, encoders, weights_file
from trt_svc.svc.encoders.stored import StoredWeights, fill, opened_weights
from trt_svc.svc.encoders.transformer import EPSILON, Layer, LayerSizes
from trt_svc.svc.encoders.whisper_mel import MEL_BINS, WINDOW_SAMPLES, whisper_mel
from trt_svc.svc.example_audio import sung
from trt_svc.svc.stage import Run, StageNet
from trt_svc.types import Array
from trt_svc.vocoders.base import CoreInput

POSITIONS = WINDOW_SAMPLES // HOP_SAMPLES
MEL_FRAMES = 2 * POSITIONS
MAX_GRAPH_BYTES = 2_000_000_000
"""ONNX files end at 2 GiB, their weights within; of the published encoders only that of large-v2 is larger."""
_BLOCK = r"encoder\.blocks\.(\d+)\."
_NAMES = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"encoder\.positional_embedding", r"positions"),
        (r"encoder\.(conv[12]\.\w+)", r"\1"),
        (r"encoder\.ln_post\.(\w+)", r"norm.\1"),
        (_BLOCK + r"attn\.(query|key|value|out)\.(\w+)", r"layers.\1.attention.\2.\3"),
        (_BLOCK + r"attn_ln\.(\w+)", r"layers.\1.attention_norm.\2"),
        (_BLOCK + r"mlp\.0\.(\w+)", r"layers.\1.widen.\2"),
        (_BLOCK + r"mlp\.2\.(\w+)", r"layers.\1.narrow.\2"),
        (_BLOCK + r"mlp_ln\.(\w+)", r"layers.\1.output_norm.\2"),
    )
)


@dataclass(frozen=True)
class WhisperConfig:
    """Sizes of the encoder."""

    width: int
    heads: int
    layers: int


class WhisperNet(nn.Module):
    """Log mel (batch, 80, 3000) of 30 s -> units (batch, channels, 1500)."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.conv1 = nn.Conv1d(MEL_BINS, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.positions = nn.Parameter(torch.zeros(POSITIONS, width))
        sizes = LayerSizes(config.heads, width // config.heads, 4 * width)
        self.layers = nn.ModuleList(Layer(width, sizes, norm_first=True, key_bias=False) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, mel: Tensor) -> Tensor:
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel))))
        x = x.transpose(1, 2) + self.positions
        for layer in self.layers:
            x = layer(x)
        return cast(Tensor, self.norm(x).transpose(1, 2))


def _our_name(name: str) -> str | None:
    for pattern, ours in _NAMES:
        match = pattern.fullmatch(name)
        if match:
            return match.expand(ours)
    return None


def open_whisper(path: Path, encoder: str = "whisper-ppg") -> WhisperNet:
    """The encoder of a file {dims, model_state_dict}; the decoder is not read."""
    with opened_weights(path) as stored:
        config = _config(stored, f"{stored.what} as content encoder {encoder}")
        weights = stored.load(_our_name)
    with torch.device("meta"):
        net = WhisperNet(config)
    fill(net, weights, stored.what, f"content encoder {encoder}")
    return net


def _config(stored: StoredWeights, what: str) -> WhisperConfig:
    dims: Any = stored.tree.get("dims")
    if not isinstance(dims, dict):
        found = "it does not say its dimensions (dims): it is no file of OpenAI's Whisper."
        raise UnknownFamily(what, found, "Give medium.pt or large-v2.pt as OpenAI published them.")
    names = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")
    sizes = [dims.get(name) for name in names]
    said = ", ".join(f"{name} {shown(size)}" for name, size in zip(names, sizes, strict=True))
    whole = [size for size in sizes if type(size) is int and 1 <= size <= 16384]
    if len(whole) != len(names):
        raise WeightsMismatch(what, f"its dimensions are {said}.", "The file is damaged: get it again.")
    mels, positions, width, heads, layers = whole
    if (mels, positions) != (MEL_BINS, POSITIONS) or width % heads or layers > 256:
        found = f"its dimensions are {said}; {MEL_BINS} mel bins and {POSITIONS} positions are needed."
        raise WeightsMismatch(what, found, "Give medium.pt or large-v2.pt (large-v3 is another network).")
    return WhisperConfig(width, heads, layers)


class WhisperEncoder(ContentEncoder):
    """Audio -> log mel of 30 s -> network -> the frames inside the audio."""

    min_samples = HOP_SAMPLES
    max_samples = WINDOW_SAMPLES

    def __init__(self, net: WhisperNet) -> None:
        self._net = net
        self._run: Run = self._in_torch
        self.channels = net.config.width

    @classmethod
    def from_file(cls, path: str | Path, channels: int | None = None) -> Self:
        file = weights_file(path, cls.usual_files, cls.name)
        net = open_whisper(file, cls.name)
        cls.check_channels(net.config.width, channels, file.name)
        return cls(net)

    def module(self) -> WhisperNet:
        """mel (batch, 80, 3000) -> units (batch, channels, 1500)."""
        return self._net

    def frames(self, samples: int) -> int:
        return samples // HOP_SAMPLES

    def stage(self) -> StageNet | None:
        """None where its weights are too large for a graph."""
        if sum(value.numel() * 4 for value in self._net.parameters()) > MAX_GRAPH_BYTES:
            return None
        return StageNet(
            "content encoder",
            self._net,
            (CoreInput("mel", MEL_BINS),),
            lambda batch, _frames, seed: {"mel": _mel(sung(batch, WINDOW_SAMPLES, RATE_HZ, seed))},
            ShapeRange(MEL_FRAMES, MEL_FRAMES, MEL_FRAMES),
            in_torch=self._in_torch,
        )

    def on(self, run: Run) -> None:
        self._run = run

    def _units(self, wave: Array) -> Array:
        return self._run({"mel": _mel(wave)})[:, :, : self.frames(wave.shape[1])]

    @torch.inference_mode()
    def _in_torch(self, inputs: Mapping[str, Array]) -> Array:
        units: Array = self._net(torch.tensor(inputs["mel"], device=self._net.positions.device)).cpu().numpy()
        return units


@torch.inference_mode()
def _mel(wave: Array) -> Array:
    mel: Array = whisper_mel(torch.tensor(wave)).numpy()
    return mel


@encoders.register("whisper-ppg")
class WhisperMedium(WhisperEncoder):
    name = "whisper-ppg"
    channels = 1024
    usual_files = ("medium.pt",)


@encoders.register("whisper-ppg-large")
class WhisperLarge(WhisperEncoder):
    name = "whisper-ppg-large"
    channels = 1280
    usual_files = ("large-v2.pt",)
