"""Keys for engines in GPT-SoVITS's own settings (configs/tts_infer.yaml, or the dictionary in its place)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from trt_svc.build_config import BuildConfig, Precision, ShapeRange, parse_bytes
from trt_svc.errors import ConfigError, TrtSvcError, shown

log = logging.getLogger(__name__)

SWITCH = "use_tensorrt"
PRECISION, WORKSPACE, MAX_BATCH = "tensorrt_precision", "tensorrt_workspace_size", "tensorrt_max_batch_size"
KEYS = (SWITCH, PRECISION, WORKSPACE, MAX_BATCH)
OWN_SECTION = "custom"
"""The section of that file that GPT-SoVITS writes anew, with its own keys only, whenever it loads a model."""
TENSORRTS = ("tensorrt", "tensorrt-rtx")
WORDS = {"true": True, "false": False}


def stated(config: Any) -> dict[str, Any]:
    """Our keys in a live TTS_Config; those of the section in use win over those of the whole file."""
    whole = getattr(config, "default_configs", None)
    if not isinstance(whole, Mapping):
        return {}
    section = whole.get(OWN_SECTION)
    section = section if isinstance(section, Mapping) else {}
    found = {key: value for part in (whole, section) for key, value in part.items() if key in KEYS}
    lost = [key for key in KEYS if key in section]
    if lost:
        log.warning(
            "GPT-SoVITS drops %s from `%s` whenever it saves its settings: write such keys outside of that section",
            ", ".join(lost), OWN_SECTION,
        )  # fmt: skip
    return {key: value for key, value in found.items() if value is not None}


def wishes(keys: Mapping[str, Any], on_gpu: bool) -> dict[str, Any]:
    """What `Host.settings` gives for these keys. A wrong value turns all of it off: the host's user decides, not we."""
    try:
        return _wishes(keys, on_gpu)
    except TrtSvcError as err:
        log.warning("GPT-SoVITS runs as before: %s", err)
        return {"off": str(err)}


def _wishes(keys: Mapping[str, Any], on_gpu: bool) -> dict[str, Any]:
    wanted = _switch(keys[SWITCH]) if SWITCH in keys else None
    found: dict[str, Any] = {}
    if PRECISION in keys:
        found["precision"] = _precision(keys[PRECISION])
    if MAX_BATCH in keys:
        found["max_batch"] = _count(keys[MAX_BATCH])
    workspace_bytes = _size(keys[WORKSPACE]) if WORKSPACE in keys else None
    if wanted is None:
        return found
    if not wanted:
        return {"off": f"{SWITCH} is false in GPT-SoVITS's settings"}
    backend, reason = _tensorrt(on_gpu)
    if reason:
        log.warning("%s: %s; the fastest other backend is taken", SWITCH, reason)
    elif workspace_bytes is not None:  # other backends have no such limit
        found["workspace_bytes"] = workspace_bytes
    return {**found, "backend": backend}


def _tensorrt(on_gpu: bool) -> tuple[str, str]:
    """A TensorRT that runs here; else auto, and why."""
    from trt_svc.backends.base import backends

    if not on_gpu:
        return "auto", "TensorRT runs on NVIDIA's GPUs, and this model is not on one"
    reasons = []
    for name in TENSORRTS:
        reason = backends.get(name)().why_not_here(BuildConfig(name))
        if not reason:
            return name, ""
        reasons.append(f"{name}: {reason.rstrip('.')}")
    return "auto", "; ".join(reasons)


def _switch(value: Any) -> bool:
    word = value if isinstance(value, bool) else WORDS.get(str(value).strip().lower())
    if word is None:
        raise ConfigError(f"{SWITCH} {shown(value)}", "it is neither true nor false.", "Write one of them.")
    return word


def _precision(value: Any) -> str:
    try:
        return Precision(str(value).strip().lower()).name
    except ConfigError as err:
        raise ConfigError(f"{PRECISION} {shown(value)}", err.found, "Use fp16, fp32, mixed or auto.") from None


def _count(value: Any) -> int:
    whole = str(value).strip()
    if isinstance(value, bool) or not (whole.isascii() and whole.isdigit() and 1 <= int(whole) <= 64):
        found, advice = "it is no whole number from 1 to 64.", "GPT-SoVITS calls its vocoders with 1."
        raise ConfigError(f"{MAX_BATCH} {shown(value)}", found, advice)
    return ShapeRange(1, 1, int(whole)).max


def _size(value: Any) -> int:
    """Bytes, as TensorRT itself counts them, or a text with a unit."""
    what = f"{WORKSPACE} {shown(value)}"
    try:
        size_bytes = parse_bytes("-" if isinstance(value, bool) else str(value))
        assert BuildConfig(workspace_bytes=size_bytes)
    except ConfigError as err:
        advice = "A number alone is bytes; write 1GiB or 512MiB."
        raise ConfigError(what, err.found, advice) from None
    return size_bytes
