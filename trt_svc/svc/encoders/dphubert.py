"""DPHuBERT: a HuBERT base with convolution channels, attention heads and feed-forward channels pruned away.

What is left of each layer cannot be read off shapes alone, so the file carries its configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, ValidationError, model_validator

from trt_svc.checkpoints.layouts import fold_weight_norm
from trt_svc.errors import UnknownFamily, WeightsMismatch, shown
from trt_svc.svc.encoders.base import CONV_KERNELS, CONV_STRIDES, encoders, weights_file
from trt_svc.svc.encoders.hubert import HubertConfig, HubertNet
from trt_svc.svc.encoders.hubert_files import HubertEncoder, check_names
from trt_svc.svc.encoders.names import hubert_name
from trt_svc.svc.encoders.stored import fill, opened_weights
from trt_svc.svc.encoders.transformer import LayerSizes
from trt_svc.vocoders.generator_config import UpstreamConfig

Size = Annotated[int, Field(ge=1, le=16384)]
PerLayer = Annotated[tuple[Annotated[int, Field(ge=0, le=16384)], ...], Field(max_length=64)]
Uses = Annotated[tuple[bool, ...], Field(max_length=64)]


class PrunedConfig(UpstreamConfig):
    """The keyword arguments of DPHuBERT's model, as far as they describe what runs."""

    extractor_mode: Literal["group_norm", "layer_norm"]
    extractor_conv_layer_config: tuple[tuple[Size, Size, Size], ...]
    extractor_conv_bias: bool
    encoder_embed_dim: Size
    encoder_pos_conv_kernel: Size
    encoder_pos_conv_groups: Size
    encoder_num_layers: Annotated[int, Field(ge=1, le=64)]
    encoder_use_attention: Uses
    encoder_use_feed_forward: Uses
    encoder_num_heads: PerLayer
    encoder_head_dim: Size
    encoder_ff_interm_features: PerLayer
    encoder_layer_norm_first: Literal[False]
    normalize_waveform: bool

    @model_validator(mode="after")
    def _lists_agree(self) -> Self:
        lists = (self.encoder_use_attention, self.encoder_use_feed_forward, self.encoder_num_heads)
        if any(len(values) != self.encoder_num_layers for values in (*lists, self.encoder_ff_interm_features)):
            raise ValueError("the lists per layer are not as long as encoder_num_layers")
        if not all(self.encoder_num_heads[i] for i, used in enumerate(self.encoder_use_attention) if used):
            raise ValueError("encoder_num_heads is 0 in a layer that uses attention")
        if not all(self.encoder_ff_interm_features[i] for i, used in enumerate(self.encoder_use_feed_forward) if used):
            raise ValueError("encoder_ff_interm_features is 0 in a layer that uses its feed-forward part")
        convolutions = tuple(shape[1:] for shape in self.extractor_conv_layer_config)
        if convolutions != tuple(zip(CONV_KERNELS, CONV_STRIDES, strict=True)):
            raise ValueError(f"extractor_conv_layer_config has the kernels and strides {convolutions}")
        if self.encoder_embed_dim % self.encoder_pos_conv_groups:
            raise ValueError("encoder_pos_conv_groups does not divide encoder_embed_dim")
        return self

    def hubert(self) -> HubertConfig:
        return HubertConfig(
            conv_channels=tuple(shape[0] for shape in self.extractor_conv_layer_config),
            conv_bias=self.extractor_conv_bias,
            extractor_norm="group" if self.extractor_mode == "group_norm" else "layer",
            width=self.encoder_embed_dim,
            position_kernel=self.encoder_pos_conv_kernel,
            position_groups=self.encoder_pos_conv_groups,
            layers=tuple(self._layer(i) for i in range(self.encoder_num_layers)),
            norm_first=False,
            normalised_input=self.normalize_waveform,
            scaled_extractor=True,
        )

    def _layer(self, index: int) -> LayerSizes:
        heads = self.encoder_num_heads[index] if self.encoder_use_attention[index] else 0
        inner = self.encoder_ff_interm_features[index] if self.encoder_use_feed_forward[index] else 0
        return LayerSizes(heads, self.encoder_head_dim, inner)


@encoders.register("dphubert")
class DPHubert(HubertEncoder):
    name = "dphubert"
    channels = 768
    usual_files = ("DPHuBERT-sp0.75.pth",)

    @classmethod
    def from_file(cls, path: str | Path, channels: int | None = None) -> Self:
        file = weights_file(path, cls.usual_files, cls.name)
        net = open_pruned(file)
        cls.check_channels(net.config.channels, channels, file.name)
        return cls(net)


def open_pruned(path: Path) -> HubertNet:
    """The network of a file {config, state_dict}."""
    with opened_weights(path) as stored:
        what = f"{stored.what} as content encoder dphubert"
        config = _config(stored.tree.get("config"), what)
        check_names(stored, what)
        weights = fold_weight_norm(stored.load(hubert_name), what)
    with torch.device("meta"):
        net = HubertNet(config)
    fill(net, weights, stored.what, "content encoder dphubert")
    return net


def _config(given: Any, what: str) -> HubertConfig:
    if not isinstance(given, dict) or "encoder_use_attention" not in given:
        found = "it does not say what was pruned (config with encoder_use_attention ...)."
        raise UnknownFamily(what, found, "Give DPHuBERT's own file.")
    if "encoder_remaining_heads" in given:
        raise UnknownFamily(what, "it is a pruned WavLM, not a pruned HuBERT.", "Give DPHuBERT-sp0.75.pth.")
    try:
        return PrunedConfig.model_validate(given).hubert()
    except ValidationError as err:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))} {shown(e['msg'])}".strip() for e in err.errors()[:3])
        raise WeightsMismatch(what, f"its config cannot be used: {faults}.", "Give DPHuBERT's own file.") from err
