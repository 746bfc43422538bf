"""A checkpoint opened: family and config recognised, weights folded, checked and put into the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trt_svc.checkpoints.containers import read_container
from trt_svc.checkpoints.layouts import Unwrapped, unwrap
from trt_svc.checkpoints.locate import locate, read_config
from trt_svc.checkpoints.presets import Preset, presets
from trt_svc.errors import ConfigError, TrtSvcError, UnknownFamily, WeightsMismatch
from trt_svc.vocoders.base import Shapes, VocoderNet, families


@dataclass
class Checkpoint:
    """A vocoder ready to run, and where it came from."""

    path: Path
    net: VocoderNet
    family: str
    config: Mapping[str, Any]
    config_origin: str
    layout: str
    left_out: list[str]
    stored_dtype: str
    norm_folded: bool

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.net.parameters())


@dataclass
class Examined:
    """A checkpoint as far as it could be understood; `missing` and `extra` are empty for a usable one."""

    path: Path
    unwrapped: Unwrapped
    net: VocoderNet
    weights: dict[str, Tensor]
    family: str
    config: Mapping[str, Any]
    config_origin: str
    missing: list[str]
    extra: list[str]
    misshapen: list[str]


def open_checkpoint(
    where: str | Path,
    config: str | Path | Mapping[str, Any] | None = None,
    family: str | None = None,
    source: str | None = None,
) -> Checkpoint:
    """The vocoder stored at a path, in a folder or under an alias."""
    seen = examine(where, config, family, source)
    refuse_mismatch(seen)
    seen.net.load_state_dict(seen.weights, assign=True)
    seen.net.eval().requires_grad_(False)
    return Checkpoint(
        seen.path,
        seen.net,
        seen.family,
        seen.config,
        seen.config_origin,
        seen.unwrapped.layout,
        seen.unwrapped.left_out,
        seen.unwrapped.dtype,
        seen.unwrapped.norm_folded,
    )


def examine(
    where: str | Path,
    config: str | Path | Mapping[str, Any] | None = None,
    family: str | None = None,
    source: str | None = None,
) -> Examined:
    """Reads a checkpoint and compares it with the network its config describes."""
    found = locate(where)
    what = f"checkpoint {found.weights.name}"
    unwrapped = unwrap(read_container(found.weights), what)
    shapes = {name: tuple(value.shape) for name, value in unwrapped.weights.items()}
    given: Mapping[str, Any] | None = None
    origin = ""
    if config is not None:
        given, origin = read_config(config), "given"
    elif found.config is not None:
        given, origin = read_config(found.config), found.config.name
    elif unwrapped.embedded_config:
        given, origin = unwrapped.embedded_config, "inside the checkpoint"
    hint = (given or {}).get("trt_svc")  # written by convert_checkpoint
    hint = hint if isinstance(hint, Mapping) else {}
    name = family or hint.get("family") or recognise(shapes, given, what)
    source = source or hint.get("source")
    net_class = families.get(name)
    if given is None:
        match = _matching_preset(name, unwrapped.weights, found.weights, what)
        given, origin = match.config, f"preset {match.name}"
        source = source or match.source
    with torch.device("meta"):
        net = net_class.from_config(given, shapes, source)
    weights = _adapted(net_class, unwrapped.weights, what)
    expected = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    return Examined(
        found.weights,
        unwrapped,
        net,
        weights,
        name,
        given,
        origin,
        missing=sorted(set(expected) - set(weights)),
        extra=sorted(set(weights) - set(expected)),
        misshapen=[
            f"{key} is {tuple(weights[key].shape)}, expected {shape}"
            for key, shape in expected.items()
            if key in weights and tuple(weights[key].shape) != shape
        ],
    )


def _adapted(net_class: type[VocoderNet], weights: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    try:
        return net_class.adapt(weights)
    except (RuntimeError, ValueError, IndexError) as err:  # singular matrices, odd names
        raise WeightsMismatch(
            what, f"its weights cannot be used ({str(err).splitlines()[0][:160]}).", "Get the whole, undamaged file."
        ) from err


def recognise(shapes: Shapes, config: Mapping[str, Any] | None, what: str) -> str:
    """The family whose keys these are."""
    claims = [name for name, net_class in families if net_class.claims(shapes, config)]
    if len(claims) == 1:
        return claims[0]
    sample = ", ".join(list(shapes)[:4])
    if claims:
        raise UnknownFamily(what, f"its keys fit {' and '.join(claims)}.", "Say which it is (family=…, --family).")
    if any(name.startswith(("discriminators.", "mpd.", "msd.", "mrd.")) for name in shapes):
        raise UnknownFamily(
            what,
            "these are a discriminator's weights, used in training only.",
            "Give the generator file (g_…) beside it.",
        )
    known = ", ".join(families.names())
    raise UnknownFamily(
        what,
        f"its keys ({sample} …) belong to no known vocoder.",
        f"Known families: {known}. If it is one of them, say which (family=…, --family).",
    )


def _matching_preset(family: str, weights: dict[str, Tensor], path: Path, what: str) -> Preset:
    """The published config whose network has exactly these weights; file and folder names settle ties."""
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    net_class = families.get(family)
    adapted = {name: tuple(value.shape) for name, value in _adapted(net_class, weights, what).items()}
    fitting = [p for p in presets().values() if p.family == family and _fits(p, shapes, adapted)]
    named = [p for p in fitting if any(name.lower() in str(path).lower() for name in (p.name, *p.published_as))]
    for choice in (fitting, named):
        if len(choice) == 1:
            return choice[0]
    if fitting:
        names = ", ".join(p.name for p in fitting)
        raise ConfigError(
            f"config for {what}",
            f"none lies beside it, and several published ones fit: {names}.",
            "Name one (config=…, --config).",
        )
    raise ConfigError(
        f"config for {what}",
        "no config.json lies beside it, and its shapes fit no published config.",
        "Put the config.json that came with the weights beside them, or give it (config=…, --config).",
    )


def _fits(candidate: Preset, shapes: Shapes, adapted: Shapes) -> bool:
    try:
        with torch.device("meta"):
            net = families.get(candidate.family).from_config(candidate.config, shapes, None)
    except TrtSvcError:
        return False
    return {key: tuple(value.shape) for key, value in net.state_dict().items()} == dict(adapted)


def refuse_mismatch(seen: Examined) -> None:
    """Upstream loaders fill gaps with random numbers; here every weight must be there and fit."""
    kinds = (("are missing", seen.missing), ("are unknown to it", seen.extra), ("have another shape", seen.misshapen))
    faults = [f"{len(names)} weights {kind} ({_some(names)})" for kind, names in kinds if names]
    if faults:
        raise WeightsMismatch(
            f"checkpoint {seen.path.name} as {seen.family} with the config {seen.config_origin}",
            f"{'; '.join(faults)}.",
            "Weights and config do not belong together: give the config.json that came with these weights (--config), "
            "or another family (--family).",
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
