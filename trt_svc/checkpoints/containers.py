"""The file formats that weights come in: torch's zip and pre-1.6 files, safetensors."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open

from trt_svc.checkpoints.unpickle import BadPickle, DataReader, Storage, StoredTensor, storage_type
from trt_svc.errors import CheckpointError, CheckpointNotFound, CorruptCheckpoint, UnsafeCheckpoint, shown

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
MAX_PICKLE_BYTES = 256 << 20
MAX_NESTING = 3
# Weights shared under several names are claimed several times; far more than that is a bomb.
MAX_CLAIMED_PER_BYTE = 16
# GPT-SoVITS marks the model version by overwriting the "PK" of the zip: restored before reading.
GPT_SOVITS_MARKS = tuple(f"{version:02d}".encode() for version in range(10))


@dataclass(frozen=True)
class LibraryTensor:
    """A tensor of a safetensors file, read on demand."""

    path: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes_claimed(self) -> int:
        return int(torch.Size(self.shape).numel()) * self.dtype.itemsize

    def load(self) -> torch.Tensor:
        with safe_open(self.path, framework="pt") as file:
            return torch.as_tensor(file.get_tensor(self.name)).clone()


LazyTensor = StoredTensor | LibraryTensor
_DAMAGE = (
    BadPickle, OSError, EOFError, ValueError, TypeError, KeyError, IndexError, OverflowError, RuntimeError,
    AttributeError, struct.error, zipfile.BadZipFile, SafetensorError,
)  # fmt: skip
"""What damaged files provoke in pickletools, zipfile, safetensors, struct and torch."""


@contextmanager
def opened_container(path: Path) -> Iterator[Any]:
    """Whatever object the file stores; its tensors can be loaded inside the block, nothing stays tied to the file."""
    what = f"checkpoint {path.name}"
    with reading(path, what):
        if not path.is_file():
            raise CheckpointNotFound(what, "it is not a regular file.", "Give the weights file.")
        with path.open("rb") as file:
            yield _read(file, path, what)


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turns whatever a damaged file provokes into one of our errors."""
    try:
        yield
    except CheckpointError:
        raise
    except PermissionError as err:
        raise CheckpointNotFound(what, f"it may not be read ({shown(str(path))}).", "Check the file's rights.") from err
    except RecursionError as err:
        raise CorruptCheckpoint(
            what, "its objects are nested without end.", "This is not a usable checkpoint."
        ) from err
    except MemoryError as err:
        raise CorruptCheckpoint(
            what, "reading it asks for more memory than there is.", "It is damaged or hostile."
        ) from err
    except _DAMAGE as err:
        raise _damaged(what, err) from err


def _damaged(what: str, err: Exception) -> CorruptCheckpoint:
    reason = shown(str(err).strip().partition("\n")[0]) or "no details"
    return CorruptCheckpoint(
        what, f"it cannot be read ({reason}).", "The file is truncated or damaged: download or copy it again."
    )


def _read(file: IO[bytes], path: Path, what: str) -> Any:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if size == 0:
        raise CorruptCheckpoint(what, "the file is empty (0 bytes).", "Download or copy it again.")
    head = file.read(16)
    file.seek(0)
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return _read_safetensors(path)
    return _read_stream(file, size, what, depth=0)


def _read_stream(file: IO[bytes], size: int, what: str, depth: int) -> Any:
    """A zip or a pickle; `depth` counts containers inside containers."""
    if depth > MAX_NESTING:
        raise BadPickle("it holds files inside files without end")

    def nested(data: bytes) -> Any:
        return _read_stream(io.BytesIO(data), len(data), what, depth + 1)

    head = file.read(16)
    file.seek(0)
    if head.startswith(b"PK") or (head[:2] in GPT_SOVITS_MARKS and head[2:4] == b"\x03\x04"):
        return _read_zip(file, what, nested)
    if head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return _read_legacy(file, size, what, nested)
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


def check_claims(tensors: Iterable[LazyTensor], size: int) -> None:
    """Refuses tensors that together claim far more than a file of this size can hold."""
    if sum(tensor.bytes_claimed for tensor in tensors) > size * MAX_CLAIMED_PER_BYTE + (1 << 20):
        raise BadPickle("its tensors together claim far more numbers than the file holds")


class _Restored(io.RawIOBase):
    """A zip whose first two bytes are "PK" again, without touching the file."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, count: int = -1) -> bytes:
        at = self._file.tell()
        data = self._file.read(count)
        return b"PK"[at : at + len(data)] + data[2 - at :] if at < 2 else data


def _read_zip(file: IO[bytes], what: str, nested: Callable[[bytes], Any]) -> Any:
    archive = zipfile.ZipFile(_Restored(file))
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
                what, "its entries are compressed, which torch never does.", "Unpack it and give the checkpoint inside."
            )
    order = entries.get(f"{folder}byteorder")
    if order is not None and archive.read(order) != b"little":
        raise CorruptCheckpoint(what, "it was written on a big-endian machine.", "Convert it to safetensors there.")
    if entries[pickles[0]].file_size > MAX_PICKLE_BYTES:
        raise CorruptCheckpoint(what, "its object tree alone is larger than 256 MB.", "The file is damaged or hostile.")

    def load_storage(pid: Any) -> Storage:
        kind, name, key, _, count = pid
        dtype = storage_type(name)
        info = entries.get(f"{folder}data/{key}")
        if (
            kind != "storage"
            or info is None
            or type(count) is not int
            or not 0 <= count * dtype.itemsize <= info.file_size
        ):
            raise BadPickle(f"storage {shown(str(key))} is not there or smaller than it claims")
        return Storage(dtype, count, lambda: archive.read(info))

    return DataReader(io.BytesIO(archive.read(pickles[0])), what, load_storage, nested).load()


def _read_legacy(file: IO[bytes], size: int, what: str, nested: Callable[[bytes], Any]) -> Any:
    """A plain pickle, or torch's format before 1.6: five pickles, then the storages."""
    first = DataReader(file, what, load_nested=nested).load()
    if first != LEGACY_MAGIC:
        return first
    protocol, system = DataReader(file, what).load(), DataReader(file, what).load()
    if protocol != 1001 or not isinstance(system, dict) or not system.get("little_endian", True):
        raise CorruptCheckpoint(
            what, "it was written by an unknown torch or on a big-endian machine.", "Convert it to safetensors there."
        )
    places: dict[str, tuple[int, int]] = {}
    claimed: dict[str, int] = {}

    def load_storage(pid: Any) -> Storage:
        kind, name, key, _, count, view = pid
        dtype = storage_type(name)
        if kind != "storage" or type(count) is not int or not 0 <= count * dtype.itemsize <= size:
            raise BadPickle(f"storage {shown(str(key))} claims more than the file holds")
        claimed[str(key)] = count * dtype.itemsize
        first, length = (0, count) if view is None else (int(view[1]), int(view[2]))
        if not 0 <= first <= first + length <= count:
            raise BadPickle("a view lies outside its storage")

        def read() -> bytes:
            start, held = places[str(key)]
            file.seek(start + first * dtype.itemsize)
            return file.read(min(length * dtype.itemsize, held))

        return Storage(dtype, length, read)

    tree = DataReader(file, what, load_storage, nested).load()
    # The bytes follow the object tree, each storage behind its count.
    for key in DataReader(file, what).load():
        file.read(8)
        held = claimed[str(key)]
        places[str(key)] = (file.tell(), held)
        if file.seek(held, io.SEEK_CUR) > size:
            raise BadPickle(f"storage {shown(str(key))} ends outside the file")
    return tree


def _read_safetensors(path: Path) -> dict[str, LibraryTensor]:
    types = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    with safe_open(path, framework="pt") as file:
        found = {}
        for name in file.keys():  # noqa: SIM118 - not a mapping
            part = file.get_slice(name)
            found[name] = LibraryTensor(path, name, types.get(part.get_dtype(), torch.uint8), tuple(part.get_shape()))
        return found
