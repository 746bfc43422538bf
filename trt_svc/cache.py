"""Engines on disk. An entry is a folder with a manifest that a person can read and the files it vouches for.

What is read is verified first, byte by byte, and the verified bytes themselves are handed on: a runtime never
sees a file that the manifest does not vouch for. Entries appear whole by a rename. One process builds a key,
the others wait for it. Anything unreadable, foreign, older or damaged is a miss with one line in the log.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from trt_svc.build_config import parse_bytes
from trt_svc.engine_key import KEY_FIELDS, EngineKey, canonical
from trt_svc.errors import EngineError, OutputError, shown
from trt_svc.files import DIRECTORY_VARIABLE, engine_directory

log = logging.getLogger(__name__)

LIMIT_VARIABLE = "TRT_SVC_ENGINE_CACHE_BYTES"
DEFAULT_LIMIT_BYTES = 20 << 30
FORMAT = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 4 << 20
ABANDONED_AFTER_S = 3600.0
_PARTIAL = "partial-"
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]


class Rejected(Exception):
    """An entry that may not be used; the message is the reason."""


@dataclass(frozen=True)
class Entry:
    """A verified engine."""

    key: str
    folder: Path
    manifest: dict[str, Any]
    files: dict[str, bytes]

    @property
    def metadata(self) -> dict[str, Any]:
        """What the graph says about itself."""
        found: dict[str, Any] = self.manifest["metadata"]
        return found


class EngineCache:
    """The engines under one directory."""

    def __init__(self, root: Path | None = None, limit_bytes: int | None = None) -> None:
        self.root = root or engine_directory()
        asked = os.environ.get(LIMIT_VARIABLE)
        self.limit_bytes = limit_bytes or (parse_bytes(asked) if asked else DEFAULT_LIMIT_BYTES)

    def folder(self, key: str) -> Path:
        return self.root / key[:2] / key

    # Reading.

    def find(self, key: EngineKey | str) -> Entry | None:
        """The verified entry of a key, or None; finding it counts as use."""
        name = key if isinstance(key, str) else key.sha256
        folder = self.folder(name)
        if not folder.exists():
            return None
        try:
            entry = read_entry(folder)
            if isinstance(key, EngineKey) and canonical(entry.manifest["key"]) != canonical(key.fields):
                raise Rejected("it was built for other settings")
        except Rejected as reason:
            log.warning("engine %s… is not used: %s", name[:12], reason)
            return None
        with _tolerated():
            os.utime(folder / MANIFEST)
        return entry

    def keys(self) -> list[str]:
        """All entries, the most recently used first."""
        folders = [f for f in self.root.glob("[0-9a-f][0-9a-f]/*") if f.is_dir()]
        return [f.name for f in sorted(folders, key=_last_use, reverse=True)]

    # Writing.

    @contextmanager
    def building(self, key: EngineKey | str) -> Iterator[None]:
        """Held by the one process that builds a key; the others wait here and then find the entry."""
        locks = self.root / "locks"
        name = key if isinstance(key, str) else key.sha256
        try:
            locks.mkdir(parents=True, exist_ok=True)
            lock = FileLock(locks / f"{name}.lock")
            lock.acquire()
        except OSError as err:
            raise OutputError(
                f"writing engines to {self.root}", f"it cannot be done ({err.strerror or err}).",
                f"Choose another folder with {DIRECTORY_VARIABLE}.",
            ) from err  # fmt: skip
        try:
            yield
        finally:
            lock.release()

    def store(
        self, key: EngineKey, files: Mapping[str, bytes], metadata: Mapping[str, Any], notes: Mapping[str, Any]
    ) -> Entry:
        """Puts an engine into the cache, whole or not at all, and makes room for it."""
        partial = self.partial_folder()
        manifest = {
            "format": FORMAT,
            "key": key.fields,
            "key_sha256": key.sha256,
            "files": {name: {"bytes": len(data), "sha256": _sha256(data)} for name, data in files.items()},
            "metadata": dict(metadata),
            "notes": dict(notes),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        try:
            partial.mkdir(parents=True)
            for name, data in files.items():
                write_durably(partial / name, data)
            write_durably(partial / MANIFEST, encoded_manifest(manifest))
            self.publish(partial, key.sha256)
        except OSError as err:
            raise OutputError(
                f"storing an engine in {self.root}", f"it failed ({err.strerror or err}).",
                f"Make room, run `trt-svc engines prune`, or choose another folder with {DIRECTORY_VARIABLE}.",
            ) from err  # fmt: skip
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self.prune(self.limit_bytes, keep=key.sha256)
        sealed = json.loads(encoded_manifest(manifest))
        return Entry(key.sha256, self.folder(key.sha256), sealed, dict(files))

    def partial_folder(self) -> Path:
        """A name for a folder that is being written; what a killed process leaves there is swept away later."""
        return self.root / "partial" / _partial_name()

    def publish(self, partial: Path, key: str) -> None:
        """Gives a complete folder its place among the entries; the caller holds `building(key)`."""
        final = self.folder(key)
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            # A damaged or forced-over entry steps aside first: a rename cannot replace a folder with content.
            aside = self.partial_folder()
            aside.parent.mkdir(parents=True, exist_ok=True)
            final.rename(aside)
            partial.rename(final)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            partial.rename(final)
        _sync_folder(final.parent)

    def remove(self, key: str) -> None:
        """Deletes an entry."""
        aside = self.partial_folder()
        with _tolerated():
            aside.parent.mkdir(parents=True, exist_ok=True)
            self.folder(key).rename(aside)
        shutil.rmtree(aside, ignore_errors=True)

    def prune(self, limit_bytes: int, keep: str = "") -> list[str]:
        """Deletes the least recently used entries until the rest fits; returns what went."""
        self._sweep()
        used, gone = 0, []
        for key in self.keys():
            used += folder_bytes(self.folder(key))
            if used > limit_bytes and key != keep:
                self.remove(key)
                gone.append(key)
        return gone

    def _sweep(self) -> None:
        """Deletes what killed processes left behind."""
        for folder in self.root.glob(f"partial/{_PARTIAL}*"):
            with _tolerated():
                if time.time() - folder.stat().st_mtime > ABANDONED_AFTER_S or not _alive(folder.name):
                    shutil.rmtree(folder, ignore_errors=True)

    # Shortcuts from a request (checkpoint file, settings, versions) to a key, so that a hit needs no export.

    def remember(self, request: Mapping[str, Any], key: str) -> None:
        """Notes which engine a request led to."""
        body = {"request": dict(request), "key": key}
        path = self._request_path(request)
        with _tolerated():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{path.name}.{os.getpid()}.part")
            part.write_bytes(canonical({**body, "sha256": _sha256(canonical(body))}))
            part.replace(path)

    def recall(self, request: Mapping[str, Any]) -> Entry | None:
        """The verified entry that the same request led to before."""
        try:
            noted = json.loads(self._request_path(request).read_bytes())
            body = {"request": noted["request"], "key": noted["key"]}
            if _sha256(canonical(body)) != noted["sha256"] or canonical(noted["request"]) != canonical(dict(request)):
                return None
            return self.find(str(noted["key"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def forget_requests(self) -> None:
        """Deletes all shortcuts."""
        shutil.rmtree(self.root / "requests", ignore_errors=True)

    def _request_path(self, request: Mapping[str, Any]) -> Path:
        return self.root / "requests" / f"{_sha256(canonical(dict(request)))}.json"


def read_entry(folder: Path) -> Entry:
    """A folder as a verified entry; raises Rejected with the reason."""
    manifest = read_manifest(folder)
    files: dict[str, bytes] = {}
    for name, stated in manifest["files"].items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != stated["bytes"]:
                raise Rejected(f"{name} has {size} bytes instead of {stated['bytes']}")
            data = path.read_bytes()
        except OSError as err:
            raise Rejected(f"{name} cannot be read ({err.strerror or err})") from err
        if _sha256(data) != stated["sha256"]:
            raise Rejected(f"{name} is not the file that was stored")
        files[name] = data
    try:
        unknown = {path.name for path in folder.iterdir()} - set(files) - {MANIFEST}
    except OSError as err:
        raise Rejected(f"its folder cannot be read ({err.strerror or err})") from err
    if unknown:
        raise Rejected(f"it holds a file that was not stored with it ({shown(sorted(unknown)[0])})")
    return Entry(manifest["key_sha256"], folder, manifest, files)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The checked manifest of an entry folder; raises Rejected with the reason."""
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise Rejected("its manifest is absurdly large")
        raw = path.read_bytes()
        manifest = json.loads(raw)
    except OSError as err:
        raise Rejected(f"its manifest cannot be read ({err.strerror or err})") from err
    except (ValueError, RecursionError) as err:
        raise Rejected("its manifest is damaged") from err
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise Rejected("it was written by another version")
    try:
        # One spelling only, sealed by a hash of the rest: any changed byte shows.
        if encoded_manifest({k: v for k, v in manifest.items() if k != "seal"}) != raw:
            raise Rejected("its manifest was changed")
        if set(manifest["key"]) != set(KEY_FIELDS):
            raise Rejected("its key has other fields")
        if not manifest["key_sha256"] == EngineKey(manifest["key"]).sha256 == folder.name:
            raise Rejected("it lies under the name of another engine")
        if not manifest["files"] or not all(map(is_plain_name, manifest["files"])):
            raise Rejected("its file list is not usable")
        _check_shape(manifest)
    except (KeyError, TypeError, AttributeError) as err:
        raise Rejected("its manifest lacks a field") from err
    return manifest


def is_plain_name(name: str) -> bool:
    """A file name that means the same everywhere: no folders, drives, streams or devices."""
    return re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name) is not None and name.partition(".")[
        0
    ].upper() not in (
        "CON",
        "PRN",
        "AUX",
        "NUL",
    )


def _check_shape(manifest: Mapping[str, Any]) -> None:
    """Raises Rejected where a value that is read later has another type."""
    right = isinstance(manifest["metadata"], dict) and isinstance(manifest["notes"], dict)
    right = right and isinstance(manifest["created"], str) and isinstance(manifest["key"]["precision"], dict)
    for stated in manifest["files"].values():
        right = right and isinstance(stated["bytes"], int) and isinstance(stated["sha256"], str)
    if not right:
        raise Rejected("its manifest holds something else than expected")


def encoded_manifest(manifest: Mapping[str, Any]) -> bytes:
    """The manifest as it is written: readable, in one spelling, with a seal over itself."""
    plain = json.loads(canonical(dict(manifest)))
    sealed = {**plain, "seal": _sha256(canonical(plain))}
    return (json.dumps(sealed, indent=1, sort_keys=True, ensure_ascii=True) + "\n").encode()


def folder_bytes(folder: Path) -> int:
    """Size of an entry on disk."""
    total = 0
    with _tolerated():
        total = sum(path.stat().st_size for path in folder.iterdir())
    return total


def require_entry(cache: EngineCache, prefix: str) -> str:
    """The full key that starts with `prefix`, or an EngineError."""
    matches = [key for key in cache.keys() if key.startswith(prefix.lower())] if prefix else []  # noqa: SIM118
    if len(matches) == 1:
        return matches[0]
    found = f"{len(matches)} entries start so." if matches else f"there is no such entry in {cache.root}."
    raise EngineError(f"engine {shown(prefix)!r}", found, "See `trt-svc engines ls`.")


def verified_entry(cache: EngineCache, key: str) -> Entry:
    """The entry of a key, or an EngineError with the reason why it is not sound."""
    try:
        return read_entry(cache.folder(key))
    except Rejected as reason:
        raise EngineError(f"engine {key[:12]}", f"{reason}.", "Build it again with --force.") from None


def verified_manifest(cache: EngineCache, key: str) -> dict[str, Any]:
    """The manifest of a sound entry."""
    return verified_entry(cache, key).manifest


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_durably(path: Path, data: bytes) -> None:
    """A file that is on the disk when this returns."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    with _tolerated():
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _last_use(folder: Path) -> float:
    try:
        return (folder / MANIFEST).stat().st_mtime
    except OSError:
        return 0.0


def _partial_name() -> str:
    return f"{_PARTIAL}{_HOST}-{os.getpid()}-{uuid.uuid4().hex}"


def _alive(name: str) -> bool:
    """Does the process that is writing this folder still run, as far as this machine can know?"""
    host, _, rest = name.removeprefix(_PARTIAL).partition("-")
    if host != _HOST or platform.system() == "Windows":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(int(rest.partition("-")[0]), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, OSError):
        return True
    return True


@contextmanager
def _tolerated() -> Iterator[None]:
    """Housekeeping may fail: another process may have been faster, or the disk may be read-only."""
    try:
        yield
    except OSError as err:
        log.debug("engine cache housekeeping: %s", err)
