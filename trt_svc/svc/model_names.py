"""Which file of a model folder is what, by its name: the names of so-vits-svc 4.1 and of the folders people share."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

VOICE_CONFIG = "config.json"
DIFFUSION_CONFIGS = ("config.yaml", "diffusion.yaml")
CLUSTERS = "kmeans_10000.pt"
RETRIEVAL = "feature_and_index.pkl"

_VOICE = re.compile(r"G_(\d+)(?:\D.*)?\.(?:pth|pt|safetensors)", re.IGNORECASE)
_DIFFUSION = re.compile(r"model_(\d+)(?:\D.*)?\.(?:pt|safetensors)", re.IGNORECASE)
_CLUSTERS = re.compile(r".*(kmeans|cluster).*\.pt", re.IGNORECASE)
_NO_MODEL = re.compile(
    r"^D_|^do_|kmeans|cluster|rmvpe|fcpe|crepe|hubert|contentvec|wavlm|whisper|hifigan|checkpoint_best_legacy"
    r"|^medium\.|^large-v2\.|^\.",
    re.IGNORECASE,
)
"""Discriminators, clusters, and what belongs into pretrain/ but often lies beside a voice."""
_SHOWN_NAMES = 4


@dataclass(frozen=True)
class Choice:
    """The file that is meant, or why none can be told."""

    path: Path | None
    unclear: str = ""
    """Names of several that could be meant."""

    @classmethod
    def only(cls, found: list[Path]) -> Choice:
        """The one of a list."""
        if len(found) <= 1:
            return cls(found[0] if found else None)
        names = ", ".join(path.name for path in found[:_SHOWN_NAMES])
        return cls(None, names + (" …" if len(found) > _SHOWN_NAMES else ""))

    def __bool__(self) -> bool:
        return self.path is not None or bool(self.unclear)


def files_in(folder: Path) -> list[Path]:
    """Its files in order; none where there is no such folder."""
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def voice_among(files: list[Path]) -> Choice:
    """The newest G_*.pth, by its number; else the only file that can be a voice under a name of its own."""
    newest = _newest(_VOICE, files)
    if newest is not None:
        return Choice(newest)
    for suffix in (".pth", ".safetensors"):
        found = [path for path in files if path.suffix.lower() == suffix and _may_be_a_model(path)]
        if found:
            return Choice.only(found)
    return Choice(None)


def diffusion_among(files: list[Path]) -> Choice:
    """The newest model_*.pt; else, beside a YAML file, the only .pt that can be a diffusion model."""
    newest = _newest(_DIFFUSION, files)
    if newest is not None or not _of_kinds(files, ".yaml", ".yml"):
        return Choice(newest)
    return Choice.only([path for path in _of_kinds(files, ".pt") if _may_be_a_model(path) and not _is_voice(path)])


def clusters_among(files: list[Path]) -> Choice:
    """kmeans_10000.pt, or the only file with such a name."""
    return _usual_or_only(files, CLUSTERS, [path for path in files if _CLUSTERS.fullmatch(path.name)])


def retrieval_among(files: list[Path]) -> Choice:
    """feature_and_index.pkl, or the only pickle or faiss index; `trained_*.index` holds no vectors."""
    indexes = [path for path in _of_kinds(files, ".index") if not path.name.startswith("trained_")]
    return _usual_or_only(files, RETRIEVAL, _of_kinds(files, ".pkl") or indexes)


def config_beside(weights: Path, usual: Iterable[str], kinds: tuple[str, ...]) -> Path | None:
    """The config named like the weights, or usually, or else the only one of its kind beside them."""
    beside = _of_kinds(files_in(weights.parent), *kinds)
    own = [stem + kind for stem in (weights.stem, weights.name) for kind in kinds]
    by_name = {path.name: path for path in beside if not path.name.startswith(".")}
    named = next((by_name[name] for name in (*own, *usual) if name in by_name), None)
    return named or (next(iter(by_name.values())) if len(by_name) == 1 else None)


def _usual_or_only(files: list[Path], usual: str, found: list[Path]) -> Choice:
    named = next((path for path in files if path.name == usual), None)
    return Choice(named) if named else Choice.only(found)


def _newest(pattern: re.Pattern[str], files: list[Path]) -> Path | None:
    numbered = [(int(match[1]), -len(path.name), path) for path in files if (match := pattern.fullmatch(path.name))]
    return max(numbered)[2] if numbered else None


def _of_kinds(files: list[Path], *suffixes: str) -> list[Path]:
    return [path for path in files if path.suffix.lower() in suffixes]


def _is_voice(path: Path) -> bool:
    return _VOICE.fullmatch(path.name) is not None


def _may_be_a_model(path: Path) -> bool:
    return _NO_MODEL.search(path.name) is None
