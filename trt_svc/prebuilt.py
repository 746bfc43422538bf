"""Engines that are already there, found from the request alone: no torch, no export, a fraction of a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_svc.build_config import BuildConfig
from trt_svc.cache import EngineCache, Entry
from trt_svc.checkpoints.locate import locate, read_config
from trt_svc.request import request_of


@dataclass(frozen=True)
class Engine:
    """An engine in the cache."""

    entry: Entry
    cache_hit: bool

    @property
    def key(self) -> str:
        return self.entry.key

    @property
    def backend(self) -> str:
        return str(self.entry.manifest["key"]["backend"])

    @property
    def family(self) -> str:
        return str(self.entry.metadata["family"])

    @property
    def notes(self) -> dict[str, Any]:
        """What was seen while it was built: quality, seconds, forms, the compiler's own words."""
        found: dict[str, Any] = self.entry.manifest["notes"]
        return found

    @property
    def quality(self) -> dict[str, float]:
        """MSE, MAE, largest difference and SNR against torch float32."""
        found: dict[str, float] = self.notes["quality"]
        return found

    @property
    def bytes(self) -> int:
        return sum(len(data) for data in self.entry.files.values())

    def as_dict(self) -> dict[str, Any]:
        """Everything but the engine's bytes."""
        key = self.entry.manifest["key"]
        return {
            "key": self.key,
            "cache_hit": self.cache_hit,
            "family": self.family,
            "backend": self.backend,
            "precision": key["precision"],
            "profiles": key["profiles"],
            "identity": key["identity"],
            "bytes": self.bytes,
            "folder": str(self.entry.folder),
            "files": {name: stated["bytes"] for name, stated in self.entry.manifest["files"].items()},
            "created": self.entry.manifest["created"],
            **self.notes,
        }


def request_for(
    checkpoint: str | Path,
    settings: BuildConfig,
    config: str | Path | Mapping[str, Any] | None = None,
    family: str | None = None,
    source: str | None = None,
) -> dict[str, Any] | None:
    """The fingerprint of a call of `build_engine`, or None where none can be taken."""
    found = locate(checkpoint)
    stated = found.config if config is None else read_config(config)
    try:
        return request_of(found.weights, stated, family, source, settings)
    except (OSError, TypeError, ValueError):
        return None  # the readers will say what is wrong with the file or the config


def find_built(cache: EngineCache, request: Mapping[str, Any] | None) -> Engine | None:
    """The engine that the same request led to before."""
    entry = None if request is None else cache.recall(request)
    return None if entry is None else Engine(entry, True)
