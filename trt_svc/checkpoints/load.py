"""A checkpoint opened: family and config recognised, weights folded, checked and put into the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trt_svc.checkpoints.containers import opened_container
from trt_svc.checkpoints.layouts import Unwrapped, unwrap
from trt_svc.checkpoints.locate import locate, read_config
from trt_svc.checkpoints.presets import Preset, presets
from trt_svc.errors import ConfigError, TrtSvcError, UnknownFamily, WeightsMismatch, shown
from trt_svc.vocoders.base import Shapes, VocoderNet, families

HINT_KEY = "trt_svc"
"""In a config that `convert_checkpoint` wrote: what upstream's own keys do not say. Upstream ignores unknown keys."""


@dataclass
class Checkpoint:
    """A network described by its config, the weights found for it, and how well the two agree."""

    path: Path
    net: VocoderNet
    config: Mapping[str, Any]
    config_origin: str
    unwrapped: Unwrapped
    weights: dict[str, Tensor]
    """Under the network's own names."""
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    @property
    def family(self) -> str:
        return self.net.family

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.net.parameters())

    @property
    def complete(self) -> bool:
        return not (self.missing or self.extra or self.misshapen)

    def fill(self) -> None:
        """Puts the weights into the network; refuses gaps, which upstream loaders fill with random numbers."""
        kinds = (
            ("are missing", self.missing),
            ("are unknown to it", self.extra),
            ("have another shape", self.misshapen),
        )
        faults = [f"{len(names)} weights {kind} ({_some(names)})" for kind, names in kinds if names]
        if faults:
            raise WeightsMismatch(
                f"checkpoint {self.path.name} as {self.family} with the config {self.config_origin}",
                f"{'; '.join(faults)}.",
                "Weights and config do not belong together: give the config.json that came with these weights "
                "(--config), or another family (--family).",
            )
        self.net.load_state_dict(self.weights, assign=True)
        self.net.eval().requires_grad_(False)


def _some(names: list[str]) -> str:
    return ", ".join(shown(name) for name in names[:3]) + (" …" if len(names) > 3 else "")


def open_checkpoint(
    where: str | Path,
    config: str | Path | Mapping[str, Any] | None = None,
    family: str | None = None,
    source: str | None = None,
) -> Checkpoint:
    """The vocoder stored at a path, in a folder or under an alias, ready to run."""
    checkpoint = examine(where, config, family, source)
    checkpoint.fill()
    return checkpoint


def examine(
    where: str | Path,
    config: str | Path | Mapping[str, Any] | None = None,
    family: str | None = None,
    source: str | None = None,
) -> Checkpoint:
    """Reads a checkpoint and compares it with the network its config describes."""
    found = locate(where)
    what = f"checkpoint {found.weights.name}"
    with opened_container(found.weights) as tree:
        unwrapped = unwrap(tree, what, found.weights.stat().st_size)
    given, origin = _config_for(config, found.config, unwrapped)
    hint = _hint(given)
    shapes = shapes_of(unwrapped.weights)
    net_class = families.get(family or hint.get("family") or recognise(shapes, given, what))
    weights = _adapted(net_class, unwrapped.weights, what)
    source = source or hint.get("source")
    if given is None:
        match = _matching_preset(net_class, shapes_of(weights), found.weights, what)
        given, origin, source = match.config, f"preset {match.name}", source or match.source
    with torch.device("meta"):
        net = net_class.from_config(given, shapes, source)
    expected, actual = shapes_of(net.state_dict()), shapes_of(weights)
    return Checkpoint(
        path=found.weights,
        net=net,
        config=given,
        config_origin=origin,
        unwrapped=unwrapped,
        weights=weights,
        missing=sorted(set(expected) - set(actual)),
        extra=sorted(set(actual) - set(expected)),
        misshapen=[
            f"{name} is {actual[name]}, expected {shape}"
            for name, shape in expected.items()
            if actual.get(name, shape) != shape
        ],
    )


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in weights.items()}


def _config_for(
    asked: str | Path | Mapping[str, Any] | None, beside: Path | None, unwrapped: Unwrapped
) -> tuple[Mapping[str, Any] | None, str]:
    """The config and where it came from."""
    if asked is not None:
        return read_config(asked), "given"
    if beside is not None:
        return read_config(beside), beside.name
    if unwrapped.embedded_config:
        return unwrapped.embedded_config, "inside the checkpoint"
    return None, ""


def _hint(config: Mapping[str, Any] | None) -> dict[str, str]:
    hint = (config or {}).get(HINT_KEY)
    return {str(k): v for k, v in hint.items() if isinstance(v, str)} if isinstance(hint, Mapping) else {}


def _adapted(net_class: type[VocoderNet], weights: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    try:
        return net_class.adapt(weights)
    except (RuntimeError, ValueError, IndexError) as err:  # singular matrices, odd names
        raise WeightsMismatch(
            what, f"its weights cannot be used ({shown(str(err))}).", "Get the whole, undamaged file."
        ) from err


def recognise(shapes: Shapes, config: Mapping[str, Any] | None, what: str) -> str:
    """The family whose keys these are."""
    claims = [name for name, net_class in families if net_class.claims(shapes, config)]
    if len(claims) == 1:
        return claims[0]
    if claims:
        raise UnknownFamily(what, f"its keys fit {' and '.join(claims)}.", "Say which it is (family=…, --family).")
    if any(name.startswith(("discriminators.", "mpd.", "msd.", "mrd.")) for name in shapes):
        found = "these are a discriminator's weights, used in training only."
        raise UnknownFamily(what, found, "Give the generator file (g_…) beside it.")
    raise UnknownFamily(
        what,
        f"its keys ({_some(list(shapes))}) belong to no known vocoder.",
        f"Known families: {', '.join(families.names())}. If it is one of them, say which (family=…, --family).",
    )


def _matching_preset(net_class: type[VocoderNet], shapes: Shapes, path: Path, what: str) -> Preset:
    """The published config whose network has exactly these weights; file and folder names settle ties."""
    fitting = [p for p in presets().values() if p.family == net_class.family and _fits(net_class, p, shapes)]
    parts = {Path(part).stem.lower() for part in path.absolute().parts} | {
        part.lower() for part in path.absolute().parts
    }
    named = [p for p in fitting if parts & {name.lower() for name in (p.name, *p.published_as)}]
    for choice in (fitting, named):
        if len(choice) == 1:
            return choice[0]
    if fitting:
        found = f"none lies beside it, and several published ones fit: {', '.join(p.name for p in fitting)}."
        raise ConfigError(f"config for {what}", found, "Name one (config=…, --config).")
    raise ConfigError(
        f"config for {what}",
        "no config.json lies beside it, and its shapes fit no published config.",
        "Put the config.json that came with the weights beside them, or give it (config=…, --config).",
    )


def _fits(net_class: type[VocoderNet], candidate: Preset, shapes: Shapes) -> bool:
    try:
        with torch.device("meta"):
            net = net_class.from_config(candidate.config, {}, candidate.source)
    except TrtSvcError:
        return False
    return shapes_of(net.state_dict()) == dict(shapes)
