"""What was converted from what: `--resume` leaves out what would come out the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trt_svc.cli.convert_jobs import Job
from trt_svc.files import replacing
from trt_svc.svc.model_folder import ModelFiles

NAME = ".trt-svc-convert.json"


class Journal:
    """The file beside the results that remembers where they came from; a damaged one remembers nothing."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME

    def holds(self, job: Job, origin: str) -> bool:
        """Is the job's output there, and of this origin?"""
        return job.output.is_file() and self._entries().get(job.output.name) == _entry(job.output, origin)

    def names(self) -> set[str]:
        """What was made here."""
        return set(self._entries())

    def record(self, job: Job, origin: str) -> None:
        """Remembers a finished job."""
        entries = self._entries() | {job.output.name: _entry(job.output, origin)}
        with replacing(self._path) as part:
            part.write_text(json.dumps(entries, ensure_ascii=False, indent=1, sort_keys=True), "utf-8")

    def _entries(self) -> dict[str, Any]:
        try:
            entries = json.loads(self._path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return entries if isinstance(entries, dict) else {}


def origin_of(job: Job, model: Iterable[Path], how: Mapping[str, Any]) -> str:
    """A hash that changes with the recording, the options and the files of the model."""
    told = {
        "source": _stamp(job.source),
        "options": asdict(job.options),
        "model": [_stamp(path) for path in model],
        "how": dict(how),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def files_behind(job: Job, files: ModelFiles) -> list[Path]:
    """The files of the model that make a difference to a job."""
    options = job.options
    used = [files.voice, files.voice_config]
    if options.diffusion is not None:
        used += [files.diffusion, files.diffusion_config]
    if options.cluster_ratio:
        used.append(files.retrieval if options.retrieval else files.clusters)
    return [path for path in used if path is not None]


def _stamp(path: Path) -> list[str | int]:
    state = path.stat()
    return [str(path.resolve()), state.st_size, state.st_mtime_ns]


def _entry(output: Path, origin: str) -> dict[str, Any]:
    return {"origin": origin, "bytes": output.stat().st_size}
