"""The weights of a so-vits-svc voice out of its file, and what they say about the network they belong to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trt_svc.checkpoints.containers import LazyTensor, check_claims, opened_container
from trt_svc.checkpoints.layouts import FLOATS, WRAPPERS, fold_weight_norm
from trt_svc.checkpoints.load import shapes_of
from trt_svc.errors import ConfigError, UnknownFamily, WeightsMismatch, shown
from trt_svc.svc.networks.stored_filters import SUFFIX, keep_filters
from trt_svc.svc.networks.synthesizer import Synthesizer
from trt_svc.vocoders.base import Shapes
from trt_svc.vocoders.sovits_dec import SovitsDec

TRAINING_ONLY = "enc_q."
"""Posterior encoder: in training files, dropped from released ones."""
PITCH_DECODER = "f0_decoder."
DEC = "dec."
FOREIGN = {
    "enc_p.emb_phone.": ("an RVC voice", "Only so-vits-svc voices (G_*.pth) can be used here."),
    "ssl_proj.": ("a GPT-SoVITS voice", "Only so-vits-svc voices (G_*.pth) can be used here."),
    "unit_embed.": ("a diffusion model", "Give it as the diffusion model, and a G_*.pth as the voice."),
    "discriminators.": ("a discriminator, used in training only", "Give the G_*.pth beside this D_*.pth."),
    "conv_pre.": ("a vocoder alone", "Give the whole voice (G_*.pth)."),
}
"""What other files that lie about in a model folder begin their keys with."""


@dataclass(frozen=True)
class VoiceWeights:
    """What a file holds of a voice."""

    weights: dict[str, Tensor]
    """In float32, without weight norm."""
    filters: dict[str, Tensor]
    """Anti-aliasing filters of a snake decoder, by the decoder's own names."""
    left_out: tuple[str, ...]
    """Names that inference does not need."""
    dtype: str
    """What the file stores."""

    def without(self, start: str) -> VoiceWeights:
        """The same, all that begins so left out."""
        kept = {name: value for name, value in self.weights.items() if not name.startswith(start)}
        gone = tuple(name for name in self.weights if name not in kept)
        return replace(self, weights=kept, left_out=self.left_out + gone)


def read_weights(path: Path, what: str) -> VoiceWeights:
    """The weights of the voice in a file."""
    with opened_container(path) as tree:
        stored = _state_dict(tree, what)
        _refuse_foreign(stored, what)
        left_out = tuple(name for name, value in stored.items() if _needless(name, value))
        stored = {name: value for name, value in stored.items() if not _needless(name, value)}
        check_claims(stored.values(), path.stat().st_size)
        weights = {name: value.load().float() for name, value in stored.items()}
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            found = f"weight {shown(name)} contains NaN or Inf."
            raise WeightsMismatch(what, found, "The training diverged or the file is damaged: use an earlier G_*.pth.")
    folded = fold_weight_norm(weights, what)
    dec = SovitsDec.adapt(of_dec(folded))
    return VoiceWeights(
        weights={
            **{name: value for name, value in folded.items() if not name.startswith(DEC)},
            **{DEC + name: value for name, value in dec.items()},
        },
        filters={name: value for name, value in of_dec(folded).items() if name.endswith(SUFFIX)},
        left_out=left_out,
        dtype=str(stored["pre.weight"].dtype).removeprefix("torch."),
    )


def _needless(name: str, value: LazyTensor) -> bool:
    return name.startswith(TRAINING_ONLY) or value.dtype not in FLOATS


def of_dec(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The decoder's weights under its own names."""
    return {name[len(DEC) :]: value for name, value in weights.items() if name.startswith(DEC)}


def _state_dict(tree: Any, what: str) -> dict[str, LazyTensor]:
    """The flat dictionary of tensors in the file, without a `module.` in front of every name."""
    candidates = [tree.get(key) for key in WRAPPERS] + [tree] if isinstance(tree, dict) else []
    for candidate in candidates:
        if isinstance(candidate, dict):
            found = {str(name): value for name, value in candidate.items() if isinstance(value, LazyTensor)}
            if found and all(name.startswith("module.") for name in found):
                return {name.removeprefix("module."): value for name, value in found.items()}
            if found:
                return found
    raise UnknownFamily(what, "there are no weights in it.", "Give the G_*.pth of a so-vits-svc voice.")


def _refuse_foreign(stored: Mapping[str, Any], what: str) -> None:
    if "emb_g.weight" in stored and "pre.weight" in stored and any(name.startswith(DEC) for name in stored):
        return
    for start, (kind, advice) in FOREIGN.items():
        if any(name.startswith(start) for name in stored):
            raise UnknownFamily(what, f"it is {kind}.", advice)
    names = ", ".join(shown(name) for name in list(stored)[:3])
    raise UnknownFamily(
        what, f"its keys ({names} …) are not those of a voice.", "Give the G_*.pth of a so-vits-svc 4.0 or 4.1 voice."
    )


# What they say.


def settled(model: Mapping[str, Any], shapes: Shapes, what: str, origin: str) -> dict[str, Any]:
    """`model` of the config, completed by what the weights say; refuses a config that says otherwise."""
    if model.get("type_") not in (None, "hifi-gan"):
        found = f"its decoder is of type {shown(str(model['type_']))}."
        raise ConfigError(f"{origin} for {what}", found, "Only voices with the hifi-gan decoder can be used.")
    told = sizes_in(shapes, what)
    gaps = {key: value for key, value in model.items() if value is not None}
    differing = [key for key, value in told.items() if gaps.get(key, value) != value]
    if differing:
        faults = ", ".join(f"{key} {shown(gaps[key])} (the weights have {told[key]})" for key in differing[:4])
        raise WeightsMismatch(
            f"{what} with {origin}",
            f"the config is that of another model: it says {faults}.",
            "Give the config.json that came with these weights (config=…, --config_path).",
        )
    has_pitch = any(name.startswith(PITCH_DECODER) for name in shapes)
    wants_pitch = gaps.get("use_automatic_f0_prediction", True)
    return {**gaps, **told, "use_automatic_f0_prediction": has_pitch and wants_pitch is not False}


def sizes_in(shapes: Shapes, what: str) -> dict[str, int | bool]:
    """The keys of `model` that the weights themselves answer."""
    try:
        hidden, ssl_dim, _ = shapes["pre.weight"]
        n_speakers, gin = shapes["emb_g.weight"]
        filter_channels, _, kernel = shapes["enc_p.enc_.ffn_layers.0.conv_1.weight"]
        _, _, head_channels = shapes["enc_p.enc_.attn_layers.0.emb_rel_k"]
        latent_statistics, *_ = shapes["enc_p.proj.weight"]
    except (KeyError, ValueError) as err:
        found = f"it lacks what every voice has ({shown(str(err))})."
        raise WeightsMismatch(what, found, "The file is incomplete: get the whole G_*.pth.") from err
    return {
        "ssl_dim": ssl_dim,
        "gin_channels": gin,
        "n_speakers": n_speakers,
        "hidden_channels": hidden,
        "inter_channels": latent_statistics // 2,
        "filter_channels": filter_channels,
        "kernel_size": kernel,
        "n_heads": hidden // max(1, head_channels),
        "vol_embedding": "emb_vol.weight" in shapes,
        **_counted("n_layers", r"enc_p\.enc_\.attn_layers\.(\d+)\.conv_q\.weight", shapes),
        **_flow_in(shapes),
    }


def _flow_in(shapes: Shapes) -> dict[str, int | bool]:
    transformer = "flow.flows.0.enc.cond_pre.weight" in shapes
    told: dict[str, int | bool] = {
        "use_transformer_flow": transformer,
        "flow_share_parameter": any(name.startswith("flow.wn.") for name in shapes),
    }
    if transformer:
        layers = _counted(
            "n_layers_trans_flow", r"flow\.flows\.0\.enc\.self_attn_layers\.(\d+)\.conv_q\.weight", shapes
        )
        # Every second module of the flow is a flip without weights.
        return told | layers | _counted("n_flow_layer", r"flow\.flows\.(\d+)\.pre\.weight", shapes, step=2)
    told["use_depthwise_conv"] = "flow.flows.0.enc.in_layers.0.depth_conv.weight" in shapes
    return told | _counted("n_flow_layer", r"flow\.flows\.0\.enc\.res_skip_layers\.(\d+)\.weight", shapes)


def _counted(key: str, pattern: str, shapes: Shapes, step: int = 1) -> dict[str, int]:
    """How many parts of that name there are, judged by the last (a gap is then a missing weight); nothing if none."""
    numbers = [int(found[1]) for name in shapes if (found := re.fullmatch(pattern, name))]
    return {key: max(numbers) // step + 1} if numbers else {}


# Into the network.


def fill(net: Synthesizer, voice: VoiceWeights, what: str, origin: str) -> None:
    """Puts the weights into the network, all of them and no others."""
    weights = voice.weights
    expected, actual = shapes_of(net.state_dict()), shapes_of(weights)
    misshapen = [
        f"{name} is {actual[name]}, expected {expected[name]}"
        for name in expected
        if actual.get(name, expected[name]) != expected[name]
    ]
    kinds = (
        ("are missing", sorted(set(expected) - set(actual))),
        ("are unknown to it", sorted(set(actual) - set(expected))),
        ("have another shape", misshapen),
    )
    faults = [f"{len(names)} weights {kind} ({', '.join(map(shown, names[:3]))})" for kind, names in kinds if names]
    if faults:
        raise WeightsMismatch(
            f"{what} as the network of {origin}",
            f"{'; '.join(faults)}.",
            "Weights and config do not belong together, or the file is incomplete: give the config.json that came "
            "with these weights (config=…, --config_path), or get the whole file.",
        )
    _refuse_torn(net, weights, what)
    net.load_state_dict(weights, assign=True)
    keep_filters(net.dec, voice.filters, what)
    net.eval().requires_grad_(False)


def _refuse_torn(net: Synthesizer, weights: Mapping[str, Tensor], what: str) -> None:
    """A flow that shares its network is stored under several names: the copies must be one."""
    if not net.flow.shape.shares:
        return
    for name, value in weights.items():
        _, _, leaf = name.partition(".enc.")
        if name.startswith("flow.flows.") and leaf and not torch.equal(value, weights[f"flow.wn.{leaf}"]):
            found = f"{shown(name)} differs from the weight it shares (flow.wn.{leaf})."
            raise WeightsMismatch(what, found, "The file is damaged: use another G_*.pth.")
