"""From the object a file stores to a flat dictionary of float32 weights without weight norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trt_svc.checkpoints.containers import LazyTensor, check_claims
from trt_svc.checkpoints.unpickle import BadPickle, Inert
from trt_svc.errors import CorruptCheckpoint, UnknownFamily, WeightsMismatch, shown

WRAPPERS = ("generator", "model", "weight", "model_state_dict", "state_dict", "model_g", "net_g")
PREFIXES = ("module.", "generator.", "vocoder.")
DEC = "dec."
MAX_MODULES = 20_000
MAX_MODULE_DEPTH = 16
MAX_CONFIG_VALUES = 2_000
RVC_CONFIG = (
    *("spec_channels", "segment_size", "inter_channels", "hidden_channels", "filter_channels", "n_heads", "n_layers"),
    *("kernel_size", "p_dropout", "resblock", "resblock_kernel_sizes", "resblock_dilation_sizes", "upsample_rates"),
    *("upsample_initial_channel", "upsample_kernel_sizes", "spk_embed_dim", "gin_channels", "sampling_rate"),
)
"""What the entries of an RVC voice's `config` list are."""
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


def unwrap(tree: Any, what: str, file_bytes: int) -> Unwrapped:
    """The vocoder's weights out of any layout seen in the wild, in memory of their own."""
    stored, layout = _state_dict(tree, what)
    stored = _without_common_prefix(stored)
    left_out: list[str] = []
    if any(name.startswith(DEC) for name in stored):
        left_out = [name for name in stored if not name.startswith(DEC)]
        stored = {name[len(DEC) :]: value for name, value in stored.items() if name.startswith(DEC)}
        layout += ".dec"
    stored = {name: value for name, value in stored.items() if value.dtype in FLOATS}
    check_claims(stored.values(), file_bytes)
    weights = {name: value.load().float() for name, value in stored.items()}
    _check_finite(weights, what)
    return Unwrapped(
        weights=fold_weight_norm(weights, what),
        layout=layout,
        embedded_config=_plain_config(tree.get("config") if isinstance(tree, dict) else None),
        left_out=left_out,
        norm_folded=any(name.endswith(tuple(end for pair in _WEIGHT_NORM for end in pair)) for name in weights),
        dtype=str(next(iter(stored.values())).dtype).removeprefix("torch.") if stored else "none",
    )


def _state_dict(tree: Any, what: str) -> tuple[dict[str, LazyTensor], str]:
    if isinstance(tree, Inert):
        tree = {**tree.items, **tree.state} if not module_weights(tree) else {"module": tree}
    if not isinstance(tree, dict):
        raise CorruptCheckpoint(
            what, f"it stores a {type(tree).__name__}, not weights.", "Give a checkpoint with a state dict."
        )
    for key in WRAPPERS:
        inner = tree.get(key)
        if isinstance(inner, Inert) and module_weights(inner):
            return module_weights(inner), f"{key} (pickled module)"
        found = _tensors(inner.items if isinstance(inner, Inert) else inner)
        if found:
            return found, key
    flat = _tensors(tree)
    if flat:
        return flat, "flat"
    names = ", ".join(shown(str(name)) for name in list(tree)[:8]) or "nothing"
    raise UnknownFamily(what, f"there are no weights in it; its top level holds: {names}.", _advice_for(tree))


def _advice_for(tree: dict[Any, Any]) -> str:
    if {"mpd", "msd", "mrd", "optim_d"} & {name for name in tree if isinstance(name, str)}:
        return "This is the training file of the discriminators (do_...): give the generator file (g_...) beside it."
    return "Give the generator's checkpoint."


def _tensors(mapping: Any) -> dict[str, LazyTensor]:
    if not isinstance(mapping, dict):
        return {}
    return {str(name): value for name, value in mapping.items() if isinstance(value, LazyTensor)}


def module_weights(module: Inert) -> dict[str, LazyTensor]:
    """Parameters and buffers of a pickled module by dotted name.

    Plain attributes are not weights: a weight-normed convolution leaves a stale `weight` among them.
    """
    out: dict[str, LazyTensor] = {}
    todo: list[tuple[str, Inert, int]] = [("", module, 0)]
    visited = 0
    while todo:
        prefix, node, depth = todo.pop()
        visited += 1
        if visited > MAX_MODULES:
            raise BadPickle("it holds more modules than any network")
        for kind in ("_parameters", "_buffers"):
            out.update({prefix + name: value for name, value in _tensors(node.state.get(kind)).items()})
        children = node.state.get("_modules")
        if isinstance(children, dict) and depth < MAX_MODULE_DEPTH:
            todo += [
                (f"{prefix}{name}.", child, depth + 1) for name, child in children.items() if isinstance(child, Inert)
            ]
    return out


def _without_common_prefix(weights: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    for prefix in PREFIXES:
        if weights and all(name.startswith(prefix) for name in weights):
            return {name[len(prefix) :]: value for name, value in weights.items()}
    return weights


def _check_finite(weights: dict[str, Tensor], what: str) -> None:
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise WeightsMismatch(
                what,
                f"weight {shown(name)} contains NaN or Inf.",
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
                    what,
                    f"{shown(g_name)} has no {shown(v_name)} beside it.",
                    "The checkpoint is incomplete: get the whole file.",
                )
            out[base + ".weight"] = _folded(out.pop(g_name), out.pop(v_name), g_name, what)
        orphans = [name for name in out if name.endswith(v_end)]
        if orphans:
            raise WeightsMismatch(
                what, f"{shown(orphans[0])} has no g beside it.", "The checkpoint is incomplete: get the whole file."
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


def _plain_config(value: Any) -> dict[str, Any] | None:
    """A config stored inside the checkpoint (dictionaries, HParams, Namespaces, RVC's list) as plain dictionaries."""
    budget = [MAX_CONFIG_VALUES]
    plain = _plain(value, 0, budget)
    if isinstance(plain, list) and len(plain) == len(RVC_CONFIG):
        plain = _rvc_config(plain)
    return plain if isinstance(plain, dict) and plain else None


def _rvc_config(values: list[Any]) -> dict[str, Any]:
    """The list in upstream's key words; voices without pitch have a generator that says `initial_channel`."""
    named = dict(zip(RVC_CONFIG, values, strict=True))
    return {**named, "initial_channel": named["inter_channels"]}


def _plain(value: Any, depth: int, budget: list[int]) -> Any:
    budget[0] -= 1
    if budget[0] < 0 or depth > 6:
        return None
    if isinstance(value, Inert):
        value = {**value.items, **value.state}
    if isinstance(value, dict):
        return {str(name): _plain(inner, depth + 1, budget) for name, inner in list(value.items())[:MAX_CONFIG_VALUES]}
    if isinstance(value, (list, tuple)):
        return [_plain(inner, depth + 1, budget) for inner in value[:MAX_CONFIG_VALUES]]
    return value if isinstance(value, (str, int, float, bool)) else None
