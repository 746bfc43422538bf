"""Engines outside the cache: a bare engine file for other programs, or an archive that another cache can take in."""

from __future__ import annotations

import shutil
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from trt_svc.cache import (
    MANIFEST,
    EngineCache,
    Entry,
    Rejected,
    encoded_manifest,
    is_plain_name,
    read_entry,
    write_durably,
)
from trt_svc.errors import EngineError, OutputError, shown
from trt_svc.files import replacing

SIDE_FILES = ("sentinel.npz", "weights.onnx")
MAX_ARCHIVE_BYTES = 16 << 30
MAX_FILES = 64


def write_engine_file(entry: Entry, path: Path) -> None:
    """The engine's own file (plan, ONNX, blob) with its manifest beside it; a .zip gets the whole entry."""
    if path.suffix.lower() == ".zip":
        write_archive(entry, path)
        return
    (data,) = [data for name, data in entry.files.items() if name not in SIDE_FILES]
    if "weights.onnx" in entry.files:
        with replacing(path.with_name(f"{path.name}.weights.onnx")) as part:
            part.write_bytes(entry.files["weights.onnx"])
    with replacing(path) as part:
        part.write_bytes(data)
    with replacing(path.with_name(f"{path.name}.json")) as part:
        part.write_bytes(manifest_bytes(entry))


def write_archive(entry: Entry, path: Path) -> None:
    """The entry as one file that `import_archive` takes on another machine."""
    with replacing(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{entry.key}/{MANIFEST}", manifest_bytes(entry))
        for name, data in entry.files.items():
            archive.writestr(f"{entry.key}/{name}", data)


def manifest_bytes(entry: Entry) -> bytes:
    return encoded_manifest({name: value for name, value in entry.manifest.items() if name != "seal"})


def import_archive(path: Path, cache: EngineCache) -> Entry:
    """Takes an archive into the cache; every byte is verified against the manifest first."""
    asked = f"engine archive {shown(path.name)}"
    advice = "Export it again with `trt-svc engines export`."
    partial = cache.partial_folder()
    try:
        with zipfile.ZipFile(path) as archive:
            key = _unpack(archive, partial)
        entry = read_entry(partial / key)
        with cache.building(key):
            cache.publish(partial / key, key)
    except Rejected as reason:
        raise EngineError(asked, f"{reason}.", advice) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as err:
        raise EngineError(asked, f"it is no engine archive ({shown(str(err))}).", advice) from err
    except OSError as err:
        if isinstance(err, OutputError):
            raise
        what = f"it cannot be read, or its engine not be stored in {cache.root} ({err.strerror or err})."
        raise EngineError(asked, what, "Check the path, and room and rights in the cache.") from err
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    cache.prune(cache.limit_bytes, keep=key)
    return Entry(entry.key, cache.folder(key), entry.manifest, entry.files)


def _unpack(archive: zipfile.ZipFile, into: Path) -> str:
    """Writes the members below `into`; returns the one folder they are in."""
    members = [info for info in archive.infolist() if not info.is_dir()]
    if not members or len(members) > MAX_FILES or sum(info.file_size for info in members) > MAX_ARCHIVE_BYTES:
        raise Rejected("its list of files is not that of an engine")
    parts = {PurePosixPath(info.filename).parts for info in members}
    keys = {names[0] for names in parts}
    plain = all(len(names) == 2 and is_plain_name(names[1]) for names in parts)
    (key,) = keys if len(keys) == 1 else ("",)
    if not plain or len(key) != 64 or not set(key) <= set("0123456789abcdef") or len(parts) != len(members):
        raise Rejected("its list of files is not that of an engine")
    (into / key).mkdir(parents=True)
    for info in members:
        write_durably(into / key / PurePosixPath(info.filename).name, archive.read(info))
    return key
