"""HuBERT for inference: seven convolutions, one more for positions, a transformer. Also WavLM and pruned HuBERTs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor, nn
from torch.nn import functional as F

from trt_svc.svc.encoders.base import CONV_KERNELS, CONV_STRIDES
from trt_svc.svc.encoders.transformer import EPSILON, DistanceRows, Distances, Layer, LayerSizes

ExtractorNorm = Literal["group", "layer"]


@dataclass(frozen=True)
class HubertConfig:
    """Sizes and conventions of one network."""

    conv_channels: tuple[int, ...]
    conv_bias: bool
    extractor_norm: ExtractorNorm
    """Base networks normalise the first convolution over time, large ones every convolution over channels."""
    width: int
    position_kernel: int
    position_groups: int
    layers: tuple[LayerSizes, ...]
    norm_first: bool
    normalised_input: bool = False
    padding_samples: int = 0
    """Zeros put on each side of the audio."""
    scaled_extractor: bool = False
    buckets: int = 0
    """Of WavLM's gated distances; 0: none."""
    max_distance: int = 0
    units: int | None = None
    """Channels of a last projection; None: the transformer's own."""

    @property
    def channels(self) -> int:
        return self.units or self.width


class Convolution(nn.Module):
    """Convolution, perhaps a norm, GELU."""

    def __init__(self, inputs: int, outputs: int, index: int, norm: ExtractorNorm | None, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, CONV_KERNELS[index], CONV_STRIDES[index], bias=bias)
        self.kind = norm
        if norm == "group":
            self.norm: nn.Module = nn.GroupNorm(outputs, outputs, eps=EPSILON)
        elif norm == "layer":
            self.norm = nn.LayerNorm(outputs, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.kind == "group":
            x = self.norm(x)
        elif self.kind == "layer":
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return F.gelu(x)


class HubertNet(nn.Module):
    """Audio (batch, 1, samples) at 16 kHz -> units (batch, channels, frames)."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self.config = config
        self.padding_samples, self.normalised_input = config.padding_samples, config.normalised_input
        inputs = (1, *config.conv_channels)
        self.extractor = nn.Sequential(
            *(
                Convolution(inputs[i], inputs[i + 1], i, self._conv_norm(i), config.conv_bias)
                for i in range(len(config.conv_channels))
            )
        )
        if config.scaled_extractor:
            self.extractor_scale = nn.Parameter(Tensor(inputs[-1]))
        self.feature_norm = nn.LayerNorm(inputs[-1], eps=EPSILON)
        self.feature_projection = nn.Linear(inputs[-1], config.width)
        self.positions = nn.Conv1d(
            config.width,
            config.width,
            config.position_kernel,
            padding=config.position_kernel // 2,
            groups=config.position_groups,
        )
        self.norm = nn.LayerNorm(config.width, eps=EPSILON)
        if config.buckets:
            self.distances = nn.ModuleList([Distances(config.buckets, config.layers[0].heads, config.max_distance)])
        self.layers = nn.ModuleList(
            Layer(config.width, sizes, config.norm_first, gated=config.buckets > 0) for sizes in config.layers
        )
        if config.units is not None:
            self.projection = nn.Linear(config.width, config.units)

    def _conv_norm(self, index: int) -> ExtractorNorm | None:
        return self.config.extractor_norm if index == 0 or self.config.extractor_norm == "layer" else None

    def forward(self, audio: Tensor) -> Tensor:
        return self.contextual(self.extractor(self.prepared(audio)))

    def prepared(self, audio: Tensor) -> Tensor:
        """The audio as the convolutions expect it: padded, normalised, or as it is."""
        if self.padding_samples:
            audio = F.pad(audio, (self.padding_samples, self.padding_samples))
        if self.normalised_input:
            audio = audio - audio.mean(-1, keepdim=True)
            audio = audio / (audio.square().mean(-1, keepdim=True) + EPSILON).sqrt()
        return audio

    def contextual(self, features: Tensor, query_frames: int | None = None) -> Tensor:
        """Units of what the convolutions made (batch, channels, frames); `query_frames`: see `Attention`."""
        x = features.transpose(1, 2)
        if self.config.scaled_extractor:
            x = x * self.extractor_scale
        x = self._with_positions(self.feature_projection(self.feature_norm(x)))
        if not self.config.norm_first:
            x = self.norm(x)
        distances = self._distances(x, query_frames)
        for layer in self.layers:
            x = layer(x, distances, query_frames)
        if self.config.norm_first:
            x = self.norm(x)
        if self.config.units is not None:
            x = self.projection(x)
        return x.transpose(1, 2)

    def _distances(self, x: Tensor, query_frames: int | None) -> DistanceRows | None:
        """All rows at once, shared by the layers; or, to save memory, rows made when they are asked for."""
        if not self.config.buckets:
            return None
        distances = self.distances[0]
        if query_frames is not None:
            return lambda queries: cast(Tensor, distances(x, queries))
        whole = distances(x)
        return lambda queries: whole

    def _with_positions(self, x: Tensor) -> Tensor:
        places = self.positions(x.transpose(1, 2))
        if self.config.position_kernel % 2 == 0:
            places = places[..., :-1]
        return x + F.gelu(places).transpose(1, 2)
