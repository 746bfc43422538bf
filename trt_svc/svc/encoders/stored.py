"""Weights of encoders as files store them: names and options read first, numbers only of what is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trt_svc.checkpoints.containers import LazyTensor, check_claims, opened_container
from trt_svc.checkpoints.layouts import FLOATS
from trt_svc.checkpoints.unpickle import Inert
from trt_svc.errors import CorruptCheckpoint, WeightsMismatch, shown

WRAPPERS = ("model", "state_dict", "model_state_dict", "hubert")
PREFIXES = ("module.", "hubert.", "wavlm.")
MAX_OPTION_NODES = 20_000


@dataclass(frozen=True)
class StoredWeights:
    """The weights of a file by name, still in the file, and the object tree around them."""

    what: str
    tensors: Mapping[str, LazyTensor]
    tree: Any

    def load(self, new_name: Callable[[str], str | None]) -> dict[str, Tensor]:
        """The weights that get a new name, under it, float32 and finite."""
        loaded: dict[str, Tensor] = {}
        for old, stored in self.tensors.items():
            new = new_name(old)
            if new is None:
                continue
            if new in loaded:
                found = f"it holds {new} twice, once as {shown(old)}."
                raise WeightsMismatch(self.what, found, "Give the encoder's own file, as it was published.")
            value = stored.load().float()
            if not torch.isfinite(value).all():
                found = f"weight {shown(old)} contains NaN or Inf."
                raise WeightsMismatch(self.what, found, "The file is damaged: get it again.")
            loaded[new] = value
        return loaded

    def option(self, *names: str) -> Any:
        """The first value stored under one of these names outside of the weights; None where there is none."""
        return option(self.tree, *names)


@contextmanager
def opened_weights(path: Path) -> Iterator[StoredWeights]:
    """The weights stored in a file; they can be loaded inside the block."""
    with opened_container(path) as tree:
        what = f"checkpoint {path.name}"
        if isinstance(tree, Inert):
            tree = {**tree.items, **tree.state}
        tensors = {name: value for name, value in _weights_in(tree).items() if value.dtype in FLOATS}
        if not tensors:
            held = ", ".join(shown(str(name)) for name in list(tree)[:6]) if isinstance(tree, dict) else ""
            raise CorruptCheckpoint(
                what, f"there are no weights in it; it holds: {held or 'nothing'}.", "Give the encoder's checkpoint."
            )
        check_claims(tensors.values(), path.stat().st_size)
        yield StoredWeights(what, _without_prefix(tensors), tree)


def _weights_in(tree: Any) -> dict[str, LazyTensor]:
    if not isinstance(tree, dict):
        return {}
    for wrapper in WRAPPERS:
        inner = tree.get(wrapper)
        found = _tensors(inner.items if isinstance(inner, Inert) else inner)
        if found:
            return found
    return _tensors(tree)


def _tensors(mapping: Any) -> dict[str, LazyTensor]:
    if not isinstance(mapping, dict):
        return {}
    return {str(name): value for name, value in mapping.items() if isinstance(value, LazyTensor)}


def _without_prefix(tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def option(tree: Any, *names: str) -> Any:
    """Breadth first through dictionaries and objects: plain ones, Namespaces, omegaconf's nodes."""
    todo, seen = [tree], set[int]()
    while todo and len(seen) < MAX_OPTION_NODES:
        node = todo.pop(0)
        if isinstance(node, Inert):
            node = {**node.items, **node.state}
        if not isinstance(node, dict):
            continue
        for name in names:
            if name in node:
                return _plain(node[name])
        # omegaconf's nodes point back at their parents.
        inner = [value for key, value in node.items() if isinstance(value, (dict, Inert)) and key != "_parent"]
        todo += [value for value in inner if id(value) not in seen]
        seen.update(id(value) for value in inner)
    return None


def _plain(value: Any) -> Any:
    """The value itself, where omegaconf wrapped it in a node."""
    return value.state["_val"] if isinstance(value, Inert) and "_val" in value.state else value


def fill(net: nn.Module, weights: Mapping[str, Tensor], what: str, network: str) -> None:
    """Puts the weights into the network and freezes it; gaps and strangers are errors."""
    expected = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    misshapen = [
        f"{name} is {tuple(weights[name].shape)}, expected {shape}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    kinds = (
        ("are missing", sorted(set(expected) - set(weights))),
        ("are unknown to it", sorted(set(weights) - set(expected))),
        ("have another shape", misshapen),
    )
    faults = [f"{len(names)} weights {kind} ({some(names)})" for kind, names in kinds if names]
    if faults:
        raise WeightsMismatch(f"{what} as {network}", f"{'; '.join(faults)}.", "Give the whole file of that network.")
    net.load_state_dict(dict(weights), assign=True)
    net.eval().requires_grad_(False)


def some(names: list[str]) -> str:
    """The first three of many names."""
    return ", ".join(shown(name) for name in names[:3]) + (" …" if len(names) > 3 else "")
