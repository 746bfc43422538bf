"""Writes a report's files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trt_svc.files import replacing


def write_files(folder: Path, texts: Mapping[str, str]) -> None:
    """Files of these names in a folder, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with replacing(folder / name) as part:
            part.write_text(text, "utf-8")
