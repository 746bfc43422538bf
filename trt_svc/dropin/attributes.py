"""Generators that lie some attributes deep in a host's plain objects."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from trt_svc.dropin.host import Place, class_path
from trt_svc.errors import shown

log = logging.getLogger(__name__)


def place_at(obj: Any, path: str, empty: Mapping[str, str]) -> Place:
    """The module at "vocoder.model" of an object; `empty` says by attribute what it means that one is None."""
    import torch
    from torch import nn

    here = obj
    for name in path.split("."):
        if name == "model":
            load_now(here)
        if not hasattr(here, name):
            changed = f"{shown(class_path(here))} has no {name} here; it may be another version of the host"
            return Place(path, None, changed)
        here = getattr(here, name)
        if here is None:
            return Place(path, None, empty.get(name, f"its {name} is None"))
    if not isinstance(here, nn.Module):
        return Place(path, None, f"it is a {shown(class_path(here))}, not a module of PyTorch")
    if isinstance(here, torch.jit.ScriptModule):
        return Place(path, None, "it is a TorchScript program, not layers that an engine could be made from")
    return Place(path, here)


def load_now(wrapper: Any) -> None:
    """A wrapper that loads its network at its first call does so now, as the host does it, and draws nothing."""
    load = getattr(getattr(type(wrapper), "forward", None), "__globals__", {}).get("load_model")
    if load is None or getattr(wrapper, "model", wrapper) is not None or not hasattr(wrapper, "model_path"):
        return
    import torch

    from trt_svc.dropin.draws import Draws
    from trt_svc.dropin.trial import said

    before = Draws.now(torch.device(wrapper.device))
    try:
        wrapper.model, wrapper.h = load(wrapper.model_path, device=wrapper.device)
    except Exception as err:  # the host will tell at its first call
        log.debug("not loaded: %s", said(err))
    finally:
        before.again()
