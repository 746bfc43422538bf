"""Where a checkpoint and its config are: a path, a folder, or an alias."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trt_svc.checkpoints.presets import preset, presets
from trt_svc.errors import CheckpointNotFound, ConfigError, shown
from trt_svc.registry import did_you_mean

MODEL_PATH_VARIABLE = "TRT_SVC_MODELS"
"""Folders (separated like PATH) in which a bare name is looked up."""
USUAL_FOLDERS = ("pretrain", "checkpoints", "models", "weights")
USUAL_NAMES = ("model.safetensors", "model", "model.pt", "model.ckpt", "bigvgan_generator.pt", "vocoder.pth")
SUFFIXES = {".safetensors", ".pt", ".pth", ".ckpt", ".bin", ""}
NOT_WEIGHTS = ("do_", "D_", "optimizer", "events.")
MAX_CONFIG_BYTES = 4 << 20
DEMO_ALIAS = "demo"
"""The voice that ships with the package; for a folder of that name write ./demo."""
DEMO_FOLDER = Path(__file__).parents[1] / "assets" / "demo_voice"


@dataclass(frozen=True)
class Found:
    """The two files of a checkpoint."""

    weights: Path
    config: Path | None


def locate(where: str | Path) -> Found:
    """The weights (and the config beside them) behind a path, a folder or an alias."""
    try:
        path = Path(where).expanduser()
        if str(where) == DEMO_ALIAS or not path.exists():
            path = _resolve_alias(str(where))
        weights = _weights_in(path) if path.is_dir() else path
        return Found(weights, _config_beside(weights))
    except (OSError, RuntimeError, ValueError) as err:  # rights, names too long, unknown ~users, NUL bytes
        if isinstance(err, CheckpointNotFound):
            raise
        found = f"it cannot be looked up ({shown(str(err))})."
        raise CheckpointNotFound(
            f"checkpoint {shown(str(where))!r}", found, "Check the name and the folder's rights."
        ) from err


def _resolve_alias(name: str) -> Path:
    if name == DEMO_ALIAS:
        return DEMO_FOLDER
    roots = [Path(p) for p in os.environ.get(MODEL_PATH_VARIABLE, "").split(os.pathsep) if p]
    roots += [Path(folder) for folder in USUAL_FOLDERS]
    for root in roots:
        if (root / name).exists():
            return root / name
    known = [DEMO_ALIAS, *sorted({entry.name for root in roots if root.is_dir() for entry in root.iterdir()})]
    searched = ", ".join(str(root) for root in roots)
    advice = (
        f"Give a path, or put it under one of: {searched} (or set {MODEL_PATH_VARIABLE}). {did_you_mean(name, known)}"
    )
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        download = f"hf download {name} --local-dir models/{name.partition('/')[2]}"
        advice = f"Nothing is downloaded here; if this is a hub id, run: {download}. {advice}"
    raise CheckpointNotFound(f"checkpoint {shown(name)!r}", "there is no such file, folder or alias.", advice)


def _weights_in(folder: Path) -> Path:
    """The one generator file of a folder; of numbered ones the newest."""
    for name in USUAL_NAMES:
        if (folder / name).is_file():
            return folder / name
    files = [
        f
        for f in sorted(folder.iterdir())
        if f.is_file() and f.suffix in SUFFIXES and not f.name.startswith((".", *NOT_WEIGHTS))
    ]
    files = [f for f in files if f.suffix or re.search(r"\d", f.name) or f.name.startswith("generator")]
    numbered = [
        (int(m[2]), f)
        for f in files
        if (m := re.fullmatch(r"([gG]_|generator_v?|model_|model_ckpt_steps_)(\d+)(\.\w+)?", f.name))
    ]
    if numbered:
        return max(numbered)[1]
    if len(files) == 1:
        return files[0]
    found = (
        "no weights file is in it."
        if not files
        else f"{len(files)} could be meant: {', '.join(f.name for f in files[:6])}."
    )
    raise CheckpointNotFound(f"checkpoint folder {folder.name}", found, "Give the weights file itself.")


def _config_beside(weights: Path) -> Path | None:
    names = (f"{weights.stem}.json", f"{weights.name}.json", "config.json", "config.yaml", "config.yml")
    return next((weights.parent / name for name in names if (weights.parent / name).is_file()), None)


def read_config(config: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    """Upstream's config dictionary from a dictionary, a JSON or YAML file, or the name of a preset."""
    if isinstance(config, Mapping):
        return config
    try:
        path = Path(config).expanduser()
        exists = path.exists()
    except (OSError, RuntimeError, ValueError):
        exists = False
    if not exists:
        if str(config) in presets():
            return preset(str(config)).config
        raise ConfigError(
            f"config {str(config)!r}",
            "there is no such file and no preset of that name.",
            did_you_mean(str(config), list(presets())),
        )
    if path.is_dir():
        path = path / "config.json"
    what = f"config {path.name}"
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ConfigError(
                what, "it is larger than 4 MB.", "This is not a config file: give the config.json beside the weights."
            )
        text = path.read_text("utf-8-sig")
        data = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, yaml.YAMLError, RecursionError) as err:
        raise ConfigError(
            what,
            f"it cannot be read ({str(err).splitlines()[0][:160]}).",
            "Get the config.json that came with the weights.",
        ) from err
    if not isinstance(data, Mapping):
        raise ConfigError(
            what,
            f"it holds a {type(data).__name__}, not a dictionary.",
            "Get the config.json that came with the weights.",
        )
    config_of_preset = data.get("config")
    return (
        config_of_preset if {"family", "published_as"} <= set(data) and isinstance(config_of_preset, Mapping) else data
    )
