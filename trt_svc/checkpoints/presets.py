"""The published vocoder configs that ship in `configs/vocoders`, one JSON file each, in upstream's keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from trt_svc.errors import InputError
from trt_svc.files import config_folder
from trt_svc.registry import did_you_mean


@dataclass(frozen=True)
class Preset:
    name: str
    family: str
    published_as: tuple[str, ...]
    """File or folder names under which such checkpoints are passed around."""
    config: Mapping[str, Any]
    source: str | None = None


@lru_cache(maxsize=1)
def presets() -> dict[str, Preset]:
    """All presets by name."""
    found = {}
    for path in sorted((config_folder() / "vocoders").glob("*.json")):
        data = json.loads(path.read_text("utf-8"))
        found[path.stem] = Preset(
            path.stem, data["family"], tuple(data["published_as"]), data["config"], data.get("source")
        )
    return found


def preset(name: str) -> Preset:
    """The preset called `name`, or an InputError that suggests the closest one."""
    if name not in presets():
        raise InputError(f"preset {name!r}", "there is none of that name.", did_you_mean(name, list(presets())))
    return presets()[name]
