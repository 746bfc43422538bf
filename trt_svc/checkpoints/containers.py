"""The file formats that weights come in: torch's zip and pre-1.6 files, safetensors."""

from __future__ import annotations

import io
import mmap
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from trt_svc.checkpoints.unpickle import DataUnpickler, Resolver, Storage, StorageType, unpickle
from trt_svc.errors import CheckpointError, CorruptCheckpoint, UnsafeCheckpoint

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MAX_PICKLE_BYTES = 256 << 20
# GPT-SoVITS marks the model version by overwriting the "PK" of the zip: restored before reading.
GPT_SOVITS_MARKS = tuple(f"{version:02d}".encode() for version in range(10))


def read_container(path: Path, extra: Resolver | None = None) -> Any:
    """Whatever object the file stores, with tensors as views of the memory-mapped file."""
    what = f"checkpoint {path.name}"
    with path.open("rb") as file:
        size = path.stat().st_size
        if size == 0:
            raise CorruptCheckpoint(what, "the file is empty (0 bytes).", "Download or copy it again.")
        # Copy-on-write: torch needs writable memory, the file itself must never change.
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    try:
        head = mapped[:16]
        if path.suffix == ".safetensors" or head[8:9] == b"{":
            return _read_safetensors(path)
        return _reader_for(head, what)(mapped, what, extra)
    except CheckpointError:
        raise
    except RecursionError as err:
        raise CorruptCheckpoint(
            what, "its objects are nested without end.", "This is not a usable checkpoint."
        ) from err
    except MemoryError as err:
        raise CorruptCheckpoint(
            what, "reading it asks for more memory than there is.", "The file is damaged or hostile."
        ) from err
    except Exception as err:  # whatever a damaged file provokes in pickle, zip or struct
        raise CorruptCheckpoint(
            what,
            f"it cannot be read ({type(err).__name__}: {_first_line(err)}).",
            "The file is truncated or damaged: download or copy it again.",
        ) from err


Reader = Callable[[mmap.mmap, str, "Resolver | None"], Any]


def _reader_for(head: bytes, what: str) -> Reader:
    if head.startswith(b"PK") or (head[:2] in GPT_SOVITS_MARKS and head[2:4] == b"\x03\x04"):
        return _read_zip
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return _read_legacy
    raise CorruptCheckpoint(
        what, f"{_guess(head)}.", "Give a torch checkpoint (.pt, .pth, .ckpt, no suffix) or a .safetensors file."
    )


def _guess(head: bytes) -> str:
    if head.startswith(b"version https://"):
        return "it is a Git LFS pointer, not the weights themselves (run `git lfs pull`)"
    if head.lstrip()[:1] == b"<":
        return "it is a web page, not weights (the download was redirected)"
    if head.startswith((b"RIFF", b"fLaC", b"OggS", b"ID3")):
        return "it is an audio file"
    if head.startswith((b"Rar!", b"7z\xbc\xaf", b"\x1f\x8b")):
        return "it is an archive; unpack it first"
    if head.lstrip()[:1] in (b"{", b"["):
        return "it is JSON text, perhaps the config instead of the weights"
    return "its first bytes belong to no format that holds weights"


def _read_zip(data: mmap.mmap, what: str, extra: Resolver | None) -> Any:
    if data[:2] != b"PK":
        data[:2] = b"PK"  # our private copy, not the file
    with zipfile.ZipFile(_MappedFile(data)) as archive:
        entries = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            raise CorruptCheckpoint(
                what, "it is a zip archive, but not one that torch wrote.", "Unpack it and give the checkpoint inside."
            )
        folder = pickles[0][: -len("data.pkl")]
        if f"{folder}constants.pkl" in entries:
            raise UnsafeCheckpoint(
                what,
                "it is a TorchScript program, not plain weights.",
                "Give the checkpoint it was made from (a state dict).",
            )
        for info in entries.values():
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise CorruptCheckpoint(
                    what,
                    "its entries are compressed, which torch never does.",
                    "Unpack it and give the checkpoint inside.",
                )
        order = entries.get(f"{folder}byteorder")
        if order is not None and archive.read(order) != b"little":
            raise CorruptCheckpoint(what, "it was written on a big-endian machine.", "Convert it to safetensors there.")
        if entries[pickles[0]].file_size > MAX_PICKLE_BYTES:
            raise CorruptCheckpoint(
                what, "its object tree alone is larger than 256 MB.", "The file is damaged or hostile."
            )

        def load_storage(pid: Any) -> Storage:
            kind, storage_type, key, _, count = pid
            if kind != "storage" or not isinstance(storage_type, StorageType):
                raise pickle.UnpicklingError("an unknown storage reference")
            info = entries[f"{folder}data/{key}"]
            if int(count) * storage_type.dtype.itemsize > info.file_size:
                raise pickle.UnpicklingError(f"storage {key} claims {count} numbers, {info.file_size} bytes are there")
            return Storage(_stored_bytes(data, info), storage_type.dtype)

        return unpickle(archive.read(pickles[0]), what, load_storage, extra)


def _stored_bytes(data: mmap.mmap, info: zipfile.ZipInfo) -> memoryview:
    """The bytes of an uncompressed entry, in place."""
    header = data[info.header_offset : info.header_offset + 30]
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    start = info.header_offset + 30 + name_length + extra_length
    if header[:4] != b"PK\x03\x04" or start + info.file_size > len(data):
        raise zipfile.BadZipFile("an entry lies outside the file")
    return memoryview(data)[start : start + info.file_size]


class _MappedFile(io.RawIOBase):
    """A file over the mapping. It has no `peek`, so an unpickler stops exactly behind its last byte."""

    def __init__(self, data: mmap.mmap) -> None:
        super().__init__()
        self._data = data
        self._at = 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, len(self._data))[whence]
        if self._at < 0:
            raise OSError("a seek in front of the file")
        return self._at

    def tell(self) -> int:
        return self._at

    def readline(self, size: int | None = -1) -> bytes:
        end = self._data.find(b"\n", self._at)
        return self.read(len(self._data) - self._at if end < 0 else end + 1 - self._at)

    def read(self, count: int = -1) -> bytes:
        stop = len(self._data) if count is None or count < 0 else self._at + count
        chunk = self._data[self._at : stop]
        self._at += len(chunk)
        return chunk


def _read_legacy(data: mmap.mmap, what: str, extra: Resolver | None) -> Any:
    """A plain pickle, or torch's format before 1.6: five pickles, then the storages."""
    file = _MappedFile(data)
    first = DataUnpickler(file, what, extra=extra).load()
    if first != LEGACY_MAGIC:
        return first
    protocol = DataUnpickler(file, what).load()
    system = DataUnpickler(file, what).load()
    if protocol != 1001 or not system.get("little_endian", True):
        raise CorruptCheckpoint(
            what, "it was written by an unknown torch or on a big-endian machine.", "Convert it to safetensors there."
        )
    storages: dict[str, bytearray] = {}

    def load_storage(pid: Any) -> Storage:
        kind, storage_type, key, _, count, view = pid
        if kind != "storage" or not isinstance(storage_type, StorageType):
            raise pickle.UnpicklingError("an unknown storage reference")
        size, item = int(count) * storage_type.dtype.itemsize, storage_type.dtype.itemsize
        if key not in storages and not 0 <= sum(map(len, storages.values())) + size <= len(data):
            raise pickle.UnpicklingError(f"storage {key} claims {count} numbers, more than the file holds")
        root = memoryview(storages.setdefault(key, bytearray(size)))
        if view is not None:
            root = root[int(view[1]) * item : (int(view[1]) + int(view[2])) * item]
        return Storage(root, storage_type.dtype)

    # The bytes follow the object tree: tensors are views of buffers that are filled afterwards.
    tree = DataUnpickler(file, what, load_storage, extra).load()
    for key in DataUnpickler(file, what).load():
        file.read(8)  # the count once more
        content = file.read(len(storages[key]))
        if len(content) != len(storages[key]):
            raise pickle.UnpicklingError(f"storage {key} ends outside the file")
        storages[key][:] = content
    return tree


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def _first_line(err: Exception) -> str:
    text = str(err).strip().splitlines()
    return text[0][:160] if text else "no details"
