"""A generator that lives in somebody's program, read back: its layers give the config, its parameters the weights."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trt_svc.build_config import BuildConfig
from trt_svc.checkpoints.layouts import fold_weight_norm
from trt_svc.checkpoints.load import HINT_KEY, Checkpoint, recognise, shapes_of
from trt_svc.errors import EngineError, UnknownFamily, WeightsMismatch, shown
from trt_svc.opening import InMemory
from trt_svc.prebuilt import Engine
from trt_svc.progress import Progress
from trt_svc.vocoders.base import VocoderNet, families

TRUNK = ("conv_pre", "ups", "resblocks", "conv_post")
CONVOLUTIONS = (nn.Conv1d, nn.ConvTranspose1d)
GEOMETRY = ("stride", "padding", "dilation", "groups", "output_padding")
USUAL_RATE_HZ = 44100
"""Only time limits depend on it where neither the layers nor the host tell the rate."""


def looks_like_a_generator(module: Any) -> bool:
    """Has it the layers of the HiFi-GAN family under their usual names?"""
    # Not getattr: what torch.compile wraps around a module answers for it.
    own = module._modules if isinstance(module, nn.Module) else {}
    return all(name in own and isinstance(own[name], nn.Module) for name in TRUNK)


@dataclass(frozen=True)
class LiveSource:
    """The weights of a live module, read again whenever they are needed; nothing of it is kept alive."""

    module: weakref.ref[nn.Module]
    facts: Mapping[str, Any]
    progress: Progress | None = None

    def net(self) -> VocoderNet:
        module = self.module()
        if module is None:
            raise EngineError("reading a host's vocoder", "the host has let go of it.", "Accelerate the new one.")
        return net_of(module, self.facts)

    def open(self) -> Checkpoint:
        return InMemory(self.net()).open()

    def engine(self, settings: BuildConfig) -> Engine:
        from trt_svc.build import build_engine

        return build_engine(self.net(), settings, progress=self.progress)


@torch.inference_mode(False)
@torch.no_grad()
def net_of(module: nn.Module, facts: Mapping[str, Any]) -> VocoderNet:
    """The same network as one of ours, with its own copy of the weights in float32 on the CPU."""
    what = f"the live {type(module).__name__}"
    stored = {name: value.detach().to("cpu", torch.float32).clone() for name, value in module.state_dict().items()}
    weights = fold_weight_norm(stored, what)
    config = {**live_config(module), **facts}
    shapes = shapes_of(weights)
    hint = config.get(HINT_KEY, {})
    kind = families.get(hint.get("family") or recognise(shapes, config, what))
    with torch.device("meta"):
        net = kind.from_config(config, shapes, hint.get("source"))
    weights = kind.adapt(weights)
    _check_shapes(net, weights, what)
    _check_geometry(net, module, what)
    net.load_state_dict(weights, assign=True)
    return net.eval().requires_grad_(False)


def live_config(module: nn.Module) -> dict[str, Any]:
    """Upstream's config keys: what the module carries as `h`, overruled by what its layers are."""
    if not looks_like_a_generator(module):
        found = f"it has not the layers {', '.join(TRUNK)}."
        raise UnknownFamily(f"the live {type(module).__name__}", found, "Only generators of the HiFi-GAN family fit.")
    carried = _plain(getattr(module, "h", None))
    parts: Any = module
    ups = [first_of(up) for up in parts.ups]
    blocks = list(parts.resblocks)[: len(parts.resblocks) // len(ups)]
    bands = parts.conv_pre.in_channels
    return {
        "sampling_rate": _rate_hz(module) or USUAL_RATE_HZ,
        **carried,
        "num_mels": bands,
        "inter_channels": bands,
        "hop_size": None,
        "upsample_initial_channel": parts.conv_pre.out_channels,
        "upsample_rates": [up.stride[0] for up in ups],
        "upsample_kernel_sizes": [up.kernel_size[0] for up in ups],
        "resblock": "1" if hasattr(blocks[0], "convs1") else "2",
        "resblock_kernel_sizes": [_first_convs(block)[0].kernel_size[0] for block in blocks],
        "resblock_dilation_sizes": [[conv.dilation[0] for conv in _first_convs(block)] for block in blocks],
        **({"gin_channels": parts.cond.in_channels} if isinstance(getattr(module, "cond", None), nn.Conv1d) else {}),
        **_snakes(module),
    }


def first_of(layer: Any) -> Any:
    """BigVGAN wraps each upsampler in a list of one."""
    return layer[0] if isinstance(layer, nn.ModuleList) else layer


def _plain(carried: Any) -> dict[str, Any]:
    """A config object (dictionary, AttrDict, HParams, Namespace) as a plain dictionary of plain values."""
    items = carried if isinstance(carried, Mapping) else getattr(carried, "__dict__", {})
    plain = (str, int, float, bool, list, tuple)
    return {str(name): value for name, value in dict(items).items() if isinstance(value, plain)}


def _first_convs(block: nn.Module) -> list[Any]:
    return list(getattr(block, "convs1", None) or getattr(block, "convs", []))


def _rate_hz(module: nn.Module) -> int | None:
    """The rate that the source stage was made for."""
    for part in module.modules():
        for name in ("sampling_rate", "sample_rate"):
            rate = part.__dict__.get(name)
            if isinstance(rate, (int, float)) and rate > 0:
                return int(rate)
    return None


def _snakes(module: nn.Module) -> dict[str, Any]:
    """BigVGAN's keys, from its activations."""
    last = getattr(module, "activation_post", None)
    act = getattr(last, "act", last)
    if not isinstance(act, nn.Module) or not hasattr(act, "alpha"):
        return {}
    return {
        "activation": "snakebeta" if hasattr(act, "beta") else "snake",
        "snake_logscale": bool(getattr(act, "alpha_logscale", True)),
        "use_tanh_at_final": bool(getattr(module, "use_tanh_at_final", True)),
        "use_bias_at_final": getattr(getattr(module, "conv_post", None), "bias", None) is not None,
    }


def _check_shapes(net: VocoderNet, weights: Mapping[str, Tensor], what: str) -> None:
    expected, actual = shapes_of(net.state_dict()), shapes_of(weights)
    odd = [name for name in sorted({*expected, *actual}) if expected.get(name) != actual.get(name)]
    if odd:
        name = odd[0]
        found = f"{len(odd)} weights differ, the first is {shown(name)}: {actual.get(name)}, not {expected.get(name)}."
        raise WeightsMismatch(f"{what} as {net.family}", found, "It is another network: it stays as it is.")


def _check_geometry(net: VocoderNet, module: nn.Module, what: str) -> None:
    """Strides and paddings leave no trace in the weights."""
    ours, theirs = dict(net.named_modules()), dict(module.named_modules())
    for name, conv in ours.items():
        other = theirs.get(name)
        if not isinstance(conv, CONVOLUTIONS) or not isinstance(other, CONVOLUTIONS):
            continue
        for field in GEOMETRY:
            mine, its = _tuple(getattr(conv, field)), _tuple(getattr(other, field))
            if mine != its:
                found = f"{field} of {name} is {its}, not {mine}."
                raise WeightsMismatch(f"{what} as {net.family}", found, "It is another network: it stays as it is.")


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)
