"""Any checkpoint as safetensors plus config.json: smaller, quick to load, and nothing in it can run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

import trt_svc
from trt_svc.checkpoints.load import HINT_KEY, open_checkpoint
from trt_svc.errors import InputError
from trt_svc.files import replacing


def convert_checkpoint(
    where: str | Path,
    output: Path,
    config: str | Path | Mapping[str, Any] | None = None,
    family: str | None = None,
    source: str | None = None,
    overwrite: bool = False,
) -> tuple[Path, Path]:
    """Writes `output`/model.safetensors and `output`/config.json; returns both paths."""
    weights_path, config_path = output / "model.safetensors", output / "config.json"
    taken = [path.name for path in (weights_path, config_path) if path.exists()]
    if taken and not overwrite:
        raise InputError(
            f"writing to {output}",
            f"it already holds {' and '.join(taken)}.",
            "Give another folder, or --force to replace them.",
        )
    seen = open_checkpoint(where, config, family, source)
    chosen = getattr(seen.net, "source", None)
    hint = {"family": seen.family, **({"source": chosen} if chosen else {})}
    metadata = {"format": "pt", "family": seen.family, "written_by": f"trt_svc {trt_svc.__version__}"}
    with replacing(weights_path) as part:
        save_file({name: value.contiguous() for name, value in seen.unwrapped.weights.items()}, part, metadata)
    with replacing(config_path) as part:
        part.write_text(
            json.dumps({**seen.config, HINT_KEY: hint}, indent=2, ensure_ascii=False, default=str) + "\n", "utf-8"
        )
    return weights_path, config_path
