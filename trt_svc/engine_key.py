"""What makes one engine another: the fields of its key, all in this place.

In the key: the weights' content, the graph's content, precision, profiles, backend with its versions, CUDA
driver, GPU and compute capability (or the list of ahead-of-time targets), compiler options, operating system
and architecture, and BUILD_REVISION. An engine file's own bytes are never part of it: compilers do not write the
same bytes twice.

Not in the key, because they do not change the engine: the checkpoint's file name and layout, the quality gate,
progress, output file, cache location, device number, and this package's version as long as BUILD_REVISION stays.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from typing import Any

from trt_svc.build_config import OPTION_FIELDS, BuildConfig

BUILD_REVISION = 4
"""Raised when the same settings would yield another engine, or an engine must not be trusted any more."""
KEY_FIELDS = (
    "weights_sha256",
    "graph_sha256",
    "precision",
    "profiles",
    "backend",
    "identity",
    "options",
    "system",
    "build_revision",
)
NOT_IN_KEY = ("gate_db", "rewrites", "device")
"""Fields of BuildConfig that leave the engine as it is; rewrites show in the graph, the device in the backend."""


@dataclass(frozen=True)
class EngineKey:
    """The fields and their hash."""

    fields: dict[str, Any]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(canonical(self.fields)).hexdigest()


def engine_key(weights_sha256: str, graph_sha256: str, config: BuildConfig, identity: dict[str, str]) -> EngineKey:
    """The key of the engine that these settings would make."""
    settings = config.as_dict()
    return EngineKey(
        {
            "weights_sha256": weights_sha256,
            "graph_sha256": graph_sha256,
            "precision": settings["precision"],
            "profiles": [str(profile) for profile in config.profiles],
            "backend": config.backend,
            "identity": dict(identity),
            "options": {name: settings[name] for name in OPTION_FIELDS},
            "system": {"os": platform.system(), "machine": platform.machine()},
            "build_revision": BUILD_REVISION,
        }
    )


def canonical(value: Any) -> bytes:
    """One spelling for equal values."""
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=str).encode()
