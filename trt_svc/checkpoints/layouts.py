"""From the object a file stores to a flat dictionary of float32 weights without weight norm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trt_svc.checkpoints.unpickle import Inert
from trt_svc.errors import CorruptCheckpoint, UnknownFamily, WeightsMismatch

WRAPPERS = ("generator", "model", "weight", "model_state_dict", "state_dict", "model_g", "net_g")
PREFIXES = ("module.", "generator.", "vocoder.")
DEC = "dec."
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_WEIGHT_NORM = (
    (".weight_g", ".weight_v"),
    (".parametrizations.weight.original0", ".parametrizations.weight.original1"),
)


@dataclass
class Unwrapped:
    """The weights of one network and what lay around them."""

    weights: dict[str, Tensor]
    layout: str
    """Where the weights were: "generator", "model.dec", "flat" ..."""
    embedded_config: Mapping[str, Any] | None = None
    left_out: list[str] = field(default_factory=list)
    """Names beside the vocoder's weights in the same file (the rest of a VITS, optimisers ...)."""
    norm_folded: bool = False
    dtype: str = "float32"


def unwrap(tree: Any, what: str) -> Unwrapped:
    """The vocoder's weights out of any layout seen in the wild."""
    weights, layout = _state_dict(tree, what)
    weights = _without_common_prefix(weights)
    left_out: list[str] = []
    if any(name.startswith(DEC) for name in weights):
        left_out = [name for name in weights if not name.startswith(DEC)]
        weights = {name[len(DEC) :]: value for name, value in weights.items() if name.startswith(DEC)}
        layout += ".dec"
    config = tree.get("config") if isinstance(tree, Mapping) else None
    folded = {name: value for name, value in weights.items() if not isinstance(value, Tensor) or value.dtype in FLOATS}
    dtype = str(next(iter(folded.values())).dtype).removeprefix("torch.") if folded else "none"
    folded = {name: value.detach().float() for name, value in folded.items()}
    has_norm = any(name.endswith(tuple(ending for pair in _WEIGHT_NORM for ending in pair)) for name in folded)
    _check_finite(folded, what)
    return Unwrapped(fold_weight_norm(folded, what), layout, _plain_mapping(config), left_out, has_norm, dtype)


def _state_dict(tree: Any, what: str) -> tuple[dict[str, Tensor], str]:
    if isinstance(tree, Inert):
        return module_weights(tree), "module"
    if not isinstance(tree, Mapping):
        raise CorruptCheckpoint(
            what, f"it stores a {type(tree).__name__}, not weights.", "Give a checkpoint with a state dict."
        )
    for key in WRAPPERS:
        inner = tree.get(key)
        if isinstance(inner, Inert) and not isinstance(inner, Tensor):
            found = module_weights(inner) or _tensors(inner)
            if found:
                return found, f"{key} (pickled module)" if module_weights(inner) else key
        elif isinstance(inner, Mapping) and _tensors(inner):
            return _tensors(inner), key
    flat = _tensors(tree)
    if flat:
        return flat, "flat"
    names = ", ".join(map(str, list(tree)[:8])) or "nothing"
    raise UnknownFamily(what, f"there are no weights in it; its top level holds: {names}.", _advice_for(tree))


def _advice_for(tree: Mapping[Any, Any]) -> str:
    if {"mpd", "msd", "mrd", "optim_d"} & set(map(str, tree)):
        return "This is the training file of the discriminators (do_...): give the generator file (g_...) beside it."
    return "Give the generator's checkpoint."


def _tensors(mapping: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(name): value for name, value in mapping.items() if isinstance(value, Tensor)}


def module_weights(module: Inert) -> dict[str, Tensor]:
    """Parameters and buffers of a pickled module by dotted name.

    Plain attributes are not weights: a weight-normed convolution leaves a stale `weight` among them.
    """
    out: dict[str, Tensor] = {}
    todo: list[tuple[str, Inert, int]] = [("", module, 0)]
    while todo:
        prefix, node, depth = todo.pop()
        for kind in ("_parameters", "_buffers"):
            held = node.state.get(kind)
            if isinstance(held, Mapping):
                out.update({prefix + str(name): value for name, value in held.items() if isinstance(value, Tensor)})
        children = node.state.get("_modules")
        if isinstance(children, Mapping) and depth < 16 and len(out) < 100_000:
            todo += [
                (f"{prefix}{name}.", child, depth + 1) for name, child in children.items() if isinstance(child, Inert)
            ]
    return out


def _without_common_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if weights and all(name.startswith(prefix) for name in weights):
            return {name[len(prefix) :]: value for name, value in weights.items()}
    return weights


def _check_finite(weights: Mapping[str, Tensor], what: str) -> None:
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise WeightsMismatch(
                what,
                f"weight {name} contains NaN or Inf.",
                "The training diverged or the file is damaged: use an earlier checkpoint.",
            )


def fold_weight_norm(weights: dict[str, Tensor], what: str) -> dict[str, Tensor]:
    """Every g, v pair replaced by w = g * v / ||v||; the norm runs over the axes where g has length 1."""
    out = dict(weights)
    for g_end, v_end in _WEIGHT_NORM:
        for g_name in [name for name in weights if name.endswith(g_end)]:
            base = g_name[: -len(g_end)]
            v_name = base + v_end
            if v_name not in weights:
                raise WeightsMismatch(
                    what, f"{g_name} has no {v_name} beside it.", "The checkpoint is incomplete: get the whole file."
                )
            out[base + ".weight"] = _folded(out.pop(g_name), out.pop(v_name), g_name, what)
        orphans = [name for name in out if name.endswith(v_end)]
        if orphans:
            raise WeightsMismatch(
                what, f"{orphans[0]} has no g beside it.", "The checkpoint is incomplete: get the whole file."
            )
    return out


def _folded(g: Tensor, v: Tensor, name: str, what: str) -> Tensor:
    if g.ndim != v.ndim or any(n not in (1, m) for n, m in zip(g.shape, v.shape, strict=True)):
        raise WeightsMismatch(
            what,
            f"{name} is shaped {tuple(g.shape)} for a weight of {tuple(v.shape)}.",
            "The checkpoint is damaged: get the whole file.",
        )
    axes = [axis for axis in range(v.ndim) if g.shape[axis] == 1]
    folded: Tensor = v * (g / torch.linalg.vector_norm(v, dim=axes, keepdim=True))
    if not torch.isfinite(folded).all():
        raise WeightsMismatch(
            what, f"{name} belongs to a weight whose norm is zero.", "The checkpoint is damaged: get the whole file."
        )
    return folded


def _plain_mapping(value: object, depth: int = 0) -> Mapping[str, Any] | None:
    """A config stored inside the checkpoint, as plain dictionaries."""
    if isinstance(value, Inert):
        value = {**value, **value.state}
    if not isinstance(value, Mapping) or depth > 4:
        return None
    return {
        str(name): inner
        for name, content in value.items()
        if (inner := _plain_mapping(content, depth + 1) if isinstance(content, Mapping) else content) is not None
        and re.fullmatch(r"\w{1,64}", str(name))
    }
