"""The bytes of a faiss `IVF…,Flat` index, read without faiss: its vectors and the cells they lie in.

Every length the bytes claim is compared with what is there before anything is made of it.

The bytes, all little-endian: the fourcc `IwFl`; a header (dimension, vector count, two fillers, a flag, the metric);
counts of cells and probes; the cells' centroids as an index of their own (`IxF2`); a direct map; and the lists
(`ilar`): the size of every cell, then the vectors and ids of one cell after the other.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_svc.errors import CorruptCheckpoint, shown
from trt_svc.svc.nearest import Integers, is_plausible
from trt_svc.types import Array

MAX_CHANNELS = 1 << 16
SQUARED_L2 = 1
"""faiss' number for the metric; 0 is the inner product, which these searches do not use."""
_ADVICE = "The file is truncated or damaged, or not a feature index: copy it again, or train the index again."


@dataclass(frozen=True)
class IvfFlat:
    """Vectors of one voice, sorted into cells; a search looks into the cell with the nearest centroid."""

    centroids: Array
    """(cells, channels)"""
    vectors: Array
    """(count, channels), cell after cell."""
    ids: Integers
    """(count,) what a search calls these vectors: 0 to count - 1, each once."""
    starts: Integers
    """(cells + 1,) where in `vectors` each cell begins, and the end."""

    @property
    def channels(self) -> int:
        return int(self.centroids.shape[1])

    @property
    def count(self) -> int:
        return len(self.vectors)

    @property
    def cell_sizes(self) -> Integers:
        return np.diff(self.starts)

    def cell_of_vector(self) -> Integers:
        """(count,) the cell of every vector, in the order of `vectors`."""
        return np.repeat(np.arange(len(self.centroids), dtype=np.int64), self.cell_sizes)

    def in_id_order(self) -> Array:
        """(count, channels) the vectors as they were added; a copy."""
        sorted_vectors = np.empty_like(self.vectors)
        sorted_vectors[self.ids] = self.vectors
        return sorted_vectors


def corrupt(what: str, found: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(what, f"{found}.", _ADVICE)


class _Cursor:
    """Takes values off a file's bytes, never more than there are."""

    def __init__(self, data: bytes | memoryview, what: str) -> None:
        self._rest = memoryview(data)
        self.what = what

    def take(self, count: int) -> memoryview:
        if not 0 <= count <= len(self._rest):
            raise self.corrupt(f"it claims {count} bytes where {len(self._rest)} are left")
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def values(self, layout: str) -> tuple[Any, ...]:
        layout = f"<{layout}"
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def count(self) -> int:
        return int(self.values("Q")[0])

    def fourcc(self) -> str:
        return bytes(self.take(4)).decode("latin1")

    def array(self, dtype: str, count: int) -> npt.NDArray[Any]:
        """A view of the file's bytes."""
        return np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype)

    def vector(self, dtype: str) -> npt.NDArray[Any]:
        """Values behind their count."""
        return self.array(dtype, self.count())

    def finish(self) -> None:
        if self._rest:
            raise self.corrupt(f"{len(self._rest)} bytes follow its end")

    def corrupt(self, found: str) -> CorruptCheckpoint:
        return corrupt(self.what, found)


def index_from_bytes(data: bytes, what: str) -> IvfFlat:
    """The index that `faiss.serialize_index` or `write_index` made these bytes of; `what` names it in messages."""
    cursor = _Cursor(data, what)
    kind = cursor.fourcc()
    if kind != "IwFl":
        raise cursor.corrupt(_foreign(kind))
    channels, count = _header(cursor)
    cells, _probes = cursor.values("QQ")
    centroids = _centroids(cursor, channels, cells)
    _skip_direct_map(cursor)
    sizes = _cell_sizes(cursor, channels, cells, count)
    if count == 0:
        raise CorruptCheckpoint(
            what, "it holds no vectors, only cells.", "Give the added_*.index file, not trained_*.index."
        )
    index = _lists(cursor, centroids, sizes, count)
    cursor.finish()
    _check_values(index, what)
    return index


def _foreign(kind: str) -> str:
    if kind[:1] == "I" and kind.isalnum():
        return f"it is a faiss index of the kind {kind!r}; only IVF indexes of whole vectors ('IVF…,Flat') are read"
    return "its first bytes are not those of a faiss index"


def _header(cursor: _Cursor) -> tuple[int, int]:
    """(channels, vector count)"""
    channels, count, _, _, trained, metric = cursor.values("iqqqBi")
    if not 1 <= channels <= MAX_CHANNELS or count < 0:
        raise cursor.corrupt(f"it claims {count} vectors of {channels} channels")
    if metric != SQUARED_L2:
        raise cursor.corrupt(f"it measures by faiss' metric {metric}; only squared distances (1) are read")
    if trained != 1:
        raise cursor.corrupt("it was never trained")
    return channels, count


def _centroids(cursor: _Cursor, channels: int, cells: int) -> Array:
    kind = cursor.fourcc()
    if kind not in ("IxF2", "IxFl"):
        raise cursor.corrupt(f"its cells are found by {shown(kind)!r}; only plain distances ('IxF2') are read")
    found = _header(cursor)
    values = cursor.vector("<f4")
    if found != (channels, cells) or len(values) != channels * cells or cells == 0:
        raise cursor.corrupt(
            f"its {cells} cells of {channels} channels have {found[0]} x {found[1]} centroids in {len(values)} numbers"
        )
    return np.ascontiguousarray(values.reshape(cells, channels), np.float32)


def _skip_direct_map(cursor: _Cursor) -> None:
    """Where each id lies: nothing, a list or pairs; the lists say it too."""
    kind = cursor.values("B")[0]
    if kind > 2:
        raise cursor.corrupt(f"its direct map is of the unknown kind {kind}")
    cursor.vector("<i8")
    if kind == 2:
        cursor.take(cursor.count() * 16)


def _cell_sizes(cursor: _Cursor, channels: int, cells: int, count: int) -> Integers:
    """(cells,) vectors per cell."""
    kind = cursor.fourcc()
    if kind == "il00":
        raise CorruptCheckpoint(
            cursor.what, "it holds no vectors, only cells.", "Give the added_*.index file, not trained_*.index."
        )
    if kind != "ilar":
        raise cursor.corrupt(f"its vectors are stored as {shown(kind)!r}, or in another file; only 'ilar' is read")
    lists, vector_bytes = cursor.values("QQ")
    if (lists, vector_bytes) != (cells, channels * 4):
        raise cursor.corrupt(f"it has {lists} lists of {vector_bytes} bytes per vector for {cells} cells")
    layout = cursor.fourcc()
    stored = cursor.vector("<u8")
    if layout == "full" and len(stored) == cells:
        sizes = stored
    elif layout == "sprs" and len(stored) % 2 == 0:
        sizes = _spread(cursor, stored.reshape(-1, 2), cells)
    else:
        raise cursor.corrupt(f"its list of {len(stored)} sizes ({shown(layout)!r}) does not fit {cells} cells")
    # Each size first: a sum of huge ones could wrap around to the right total.
    if (sizes > count).any() or sum(sizes.tolist()) != count:
        raise cursor.corrupt(f"its cells together do not hold the {count} vectors it claims")
    return sizes.astype(np.int64)


def _spread(cursor: _Cursor, pairs: npt.NDArray[np.uint64], cells: int) -> npt.NDArray[np.uint64]:
    """Sizes of all cells from (cell, size) pairs of those that hold something."""
    where = pairs[:, 0]
    if (where >= cells).any() or len(np.unique(where)) != len(where):
        raise cursor.corrupt("its sizes name a cell twice, or one that is not there")
    sizes = np.zeros(cells, np.uint64)
    sizes[where.astype(np.int64)] = pairs[:, 1]
    return sizes


def _lists(cursor: _Cursor, centroids: Array, sizes: Integers, count: int) -> IvfFlat:
    channels = centroids.shape[1]
    # Before memory is asked for: all vectors and ids must be there.
    body = _Cursor(cursor.take(count * (channels * 4 + 8)), cursor.what)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    vectors = np.empty((count, channels), np.float32)
    ids = np.empty(count, np.int64)
    for begin, size in zip(starts, sizes, strict=False):
        if size:
            vectors[begin : begin + size] = body.array("<f4", int(size) * channels).reshape(-1, channels)
            ids[begin : begin + size] = body.array("<i8", int(size))
    return IvfFlat(centroids, vectors, ids, starts)


def _check_values(index: IvfFlat, what: str) -> None:
    if not (is_plausible(index.centroids) and is_plausible(index.vectors)):
        raise corrupt(what, "its vectors hold NaN or absurd numbers")
    if index.ids.min() < 0 or index.ids.max() >= index.count or len(np.unique(index.ids)) != index.count:
        raise corrupt(what, f"its ids are not 0 to {index.count - 1}, each once")
