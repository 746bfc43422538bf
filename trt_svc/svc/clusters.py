"""k-means of a voice: content units pulled towards the nearest of its cluster centres (`-cr`).

`kmeans_10000.pt` holds one table of centres per speaker. The same as a network: `networks.nearest.NearestCentre`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_svc.errors import CorruptCheckpoint, InputError, shown
from trt_svc.registry import did_you_mean
from trt_svc.svc.nearest import LARGEST, Integers, RowTable, is_plausible
from trt_svc.types import Array


@dataclass(frozen=True)
class Clusters:
    """The cluster centres of one speaker."""

    centres: Array
    """(centres, channels)"""

    def __post_init__(self) -> None:
        found = np.asarray(self.centres)
        if found.ndim != 2 or found.dtype.kind != "f" or 0 in found.shape or not is_plausible(found):
            asked = f"cluster centres {found.shape} ({found.dtype})"
            raise InputError(asked, "they are no table of plausible numbers.", "Give (centres, channels) as floats.")
        object.__setattr__(self, "centres", np.ascontiguousarray(found, np.float32))

    @property
    def channels(self) -> int:
        return int(self.centres.shape[1])

    @cached_property
    def _table(self) -> RowTable:
        return RowTable(self.centres)

    def nearest(self, units: Array) -> Integers:
        """(frames,) the centre with the smallest squared distance to every frame of units (channels, frames)."""
        return self._table.nearest(checked_units(units, self.channels).T)

    def mixed(self, units: Array, ratio: float) -> Array:
        """Units (channels, frames), each frame `ratio` of the way to its nearest centre."""
        units, ratio = checked_units(units, self.channels), checked_ratio(ratio)
        if ratio == 0:
            return units.copy()
        return blended(units, self.centres[self._table.nearest(units.T)].T, ratio)


@dataclass(frozen=True)
class SpeakerClusters:
    """The clusters of every speaker of a file."""

    speakers: Mapping[str, Clusters]

    def of(self, speaker: str) -> Clusters:
        """One speaker's clusters, or an InputError that suggests the closest name."""
        if speaker not in self.speakers:
            raise InputError(
                f"clusters of speaker {shown(speaker)!r}",
                "the cluster file does not know that speaker.",
                did_you_mean(str(speaker), list(self.speakers)),
            )
        return self.speakers[speaker]


# What cluster and retrieval mixing share.


def checked_units(units: Any, channels: int) -> Array:
    """Units (channels, frames) as float32, or an InputError."""
    given = np.asarray(units)
    asked = f"units {given.shape} ({given.dtype})"
    if given.ndim != 2 or given.dtype.kind != "f" or given.shape[0] != channels:
        turned = given.ndim == 2 and given.shape[1] == channels
        raise InputError(
            asked,
            f"expected floats of the shape ({channels}, frames).",
            "Transpose them." if turned else "Use the file that was made for this model's content encoder.",
        )
    if given.shape[1] == 0:
        raise InputError(asked, "there are no frames in them.", "Give at least one frame.")
    good = (np.abs(given) < LARGEST).all(axis=0)  # false for NaN
    if not good.all():
        found = f"{int((~good).sum())} frames hold NaN or absurd numbers (the first is frame {int(good.argmin())})."
        raise InputError(asked, found, "Look at the content encoder and the recording.")
    return given.astype(np.float32, copy=False)


def checked_ratio(ratio: float) -> float:
    """A share between 0 and 1, or an InputError."""
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float, np.number)) or not 0 <= ratio <= 1:
        raise InputError(
            f"cluster ratio {shown(ratio)}", "it is not within 0 to 1.", "0 keeps the units, 1 replaces them."
        )
    return float(ratio)


def blended(units: Array, towards: Array, ratio: float) -> Array:
    """`ratio` of one, the rest of the other, float32."""
    return np.ascontiguousarray(np.float32(ratio) * towards + np.float32(1 - ratio) * units)


# The file.


def read_clusters(path: Path) -> SpeakerClusters:
    """The clusters of a `kmeans_10000.pt`; nothing in the file is executed."""
    from trt_svc.checkpoints.containers import opened_container

    what = f"cluster file {path.name}"
    with opened_container(path) as tree:
        if not isinstance(tree, dict) or not tree:
            raise _corrupt(what, "it holds no dictionary of speakers")
        return SpeakerClusters({str(name): _clusters(record, str(name), what) for name, record in tree.items()})


def _corrupt(what: str, found: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(what, f"{found}.", "Give the kmeans_10000.pt of this model, or train the clusters again.")


def _clusters(record: Any, speaker: str, what: str) -> Clusters:
    from trt_svc.checkpoints.unpickle import Inert

    fields = record.state if isinstance(record, Inert) else record  # a whole KMeans object, or a dictionary of it
    stored = fields.get("cluster_centers_") if isinstance(fields, dict) else None
    if stored is None:
        raise _corrupt(what, f"there are no cluster centres of speaker {shown(speaker)!r}")
    centres = stored_array(stored, f"{what}, speaker {shown(speaker)}")
    told = fields.get("n_features_in_")
    if centres.ndim != 2 or 0 in centres.shape or (type(told) is int and told != centres.shape[1]):
        raise _corrupt(what, f"speaker {shown(speaker)!r} has centres {centres.shape} of {shown(told)} features")
    if not is_plausible(centres):
        raise _corrupt(what, f"the centres of speaker {shown(speaker)!r} hold NaN or absurd numbers")
    return Clusters(centres)


def stored_array(stored: Any, what: str) -> npt.NDArray[Any]:
    """The floats of an array or tensor as the inert reader leaves it."""
    from trt_svc.checkpoints.containers import LibraryTensor
    from trt_svc.checkpoints.unpickle import Inert, StoredTensor

    if isinstance(stored, (StoredTensor, LibraryTensor)):
        return np.asarray(stored.load().float().numpy())
    if not isinstance(stored, Inert):
        raise _corrupt(what, f"a {type(stored).__name__} stands where an array should")
    shape, dtype, data, order = _array_parts(stored, what)
    if not all(type(n) is int and n >= 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(data):
        raise _corrupt(what, f"an array claims the shape {shown(shape)} for {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _array_parts(stored: Any, what: str) -> tuple[tuple[int, ...], np.dtype[Any], bytes, Any]:
    """(shape, type, bytes, memory order) of a pickled NumPy array, which pickles in one of two ways."""
    if stored.kind.name == "_reconstruct" and stored.members and isinstance(stored.members[-1], tuple):
        _, shape, dtype, by_columns, data = _exactly(stored.members[-1], 5, what)
        order = "F" if by_columns else "C"
    elif stored.kind.name == "_frombuffer":
        data, dtype, shape, order = _exactly(stored.arguments, 4, what)
    else:
        raise _corrupt(what, f"{shown(str(stored.kind))} stands where an array should")
    if not isinstance(shape, tuple) or not isinstance(data, (bytes, bytearray)) or order not in ("C", "F"):
        raise _corrupt(what, "an array is stored in an unknown way")
    return shape, _float_type(dtype, what), bytes(data), order


def _exactly(values: Any, count: int, what: str) -> tuple[Any, ...]:
    if not isinstance(values, tuple) or len(values) != count:
        raise _corrupt(what, "an array is stored in an unknown way")
    return values


def _float_type(stored: Any, what: str) -> np.dtype[Any]:
    """float16, float32 or float64, from `numpy.dtype('f4')` and its byte order."""
    code = stored.arguments[0] if getattr(stored, "arguments", None) else None
    state = stored.members[-1] if getattr(stored, "members", None) else ()
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else "<"
    if code not in ("f2", "f4", "f8") or order not in ("<", ">", "=", "|"):
        raise _corrupt(what, f"an array holds {shown(code)} where floats should be")
    return np.dtype(f"{order}{code}")
