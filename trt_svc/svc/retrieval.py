"""Feature retrieval: content units pulled towards what the voice itself said most like it (`-cr` with an index).

For every frame the cell with the nearest centroid is opened, its 8 nearest vectors are weighted by the square of
1 / distance², and their mean is mixed in. The same as a network: `networks.nearest.FeatureRetrieval`.

Where it differs from upstream, which does this with faiss:

* A vector found exactly (distance 0) makes upstream's frame NaN. Here it takes all the weight; several share it.
* A frame whose nearest cell is empty becomes NaN there. Here the nearest cell that holds anything is opened.
* A cell with fewer than 8 vectors yields ids of -1 there, which NumPy reads as the last vector; its distance is the
  largest float, so that its weight is exactly 0. Here such places are left out: the same frame comes out.
* Near ties are decided in float64.

`compat=True` weighs in upstream's float32 arithmetic, -1 included, and does the above only where that is not finite.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from trt_svc.errors import InputError
from trt_svc.svc.clusters import blended, checked_ratio, checked_units
from trt_svc.svc.faiss_file import IvfFlat, index_from_bytes
from trt_svc.svc.index_files import looks_like_an_index, read_index, read_pickled_indexes
from trt_svc.svc.nearest import Integers, RowTable
from trt_svc.types import Array, Doubles

NEIGHBOURS = 8
NOTHING = -1
POINTS_AT_ONCE = 1 << 9
VECTORS_AT_ONCE = 1 << 12


@dataclass(frozen=True)
class Neighbours:
    """The nearest vectors of every frame, nearest first; (frames, k) each."""

    scores: Array
    """Squared distances; infinity where a cell held fewer than k vectors."""
    ids: Integers
    """What the index calls the vectors; -1 where there is none."""
    places: Integers
    """Where they lie in `index.vectors`; -1 where there is none."""


@dataclass(frozen=True)
class Retrieval:
    """The feature index of one speaker."""

    index: IvfFlat

    @property
    def channels(self) -> int:
        return self.index.channels

    @cached_property
    def _cells(self) -> Integers:
        """Cells that hold anything."""
        return np.flatnonzero(self.index.cell_sizes)

    @cached_property
    def _centroids(self) -> RowTable:
        return RowTable(self.index.centroids[self._cells])

    def search(self, units: Array, neighbours: int = NEIGHBOURS) -> Neighbours:
        """What lies nearest to every frame of units (channels, frames), in the one cell that is opened."""
        points = np.ascontiguousarray(checked_units(units, self.channels).T)
        if neighbours < 1:
            raise InputError(f"{neighbours} neighbours", "there is nothing to mix in.", "Ask for at least 1.")
        scores = np.full((len(points), neighbours), np.inf, np.float32)
        places = np.full((len(points), neighbours), NOTHING, np.int64)
        cells = self._cells[self._centroids.nearest(points)]
        for cell, frames in _groups(cells):
            begin, end = (int(at) for at in self.index.starts[cell : cell + 2])
            near, distances = _nearest_of(points[frames], self.index.vectors[begin:end], neighbours)
            held = near.shape[1]
            places[frames, :held] = begin + near
            scores[frames, :held] = distances
        ids = np.where(places == NOTHING, NOTHING, self.index.ids[places])
        return Neighbours(scores, ids, places)

    def retrieved(self, units: Array, neighbours: int = NEIGHBOURS, compat: bool = False) -> Array:
        """(channels, frames) the weighted means of the nearest vectors."""
        near = self.search(units, neighbours)
        weights = _upstream_weights(near.scores) if compat else _weights(near.scores)
        made = np.empty((len(weights), self.channels), np.float32)
        for at in range(0, len(made), POINTS_AT_ONCE):
            block = slice(at, at + POINTS_AT_ONCE)
            # A place of -1 reads the last vector: its weight is 0.
            vectors = self.index.vectors[near.places[block]]
            np.einsum("fk,fkc->fc", weights[block], vectors, out=made[block])
        return np.ascontiguousarray(made.T)

    def mixed(self, units: Array, ratio: float, compat: bool = False) -> Array:
        """Units (channels, frames), each frame `ratio` of the way to what was retrieved for it."""
        units, ratio = checked_units(units, self.channels), checked_ratio(ratio)
        return blended(units, self.retrieved(units, compat=compat), ratio) if ratio else units.copy()


def read_retrieval(path: Path, speaker_id: int = 0) -> Retrieval:
    """One speaker of a `feature_and_index.pkl`, or the only one of an `added_*.index`; nothing in them is executed."""
    if looks_like_an_index(path):
        return Retrieval(read_index(path))
    stored = read_pickled_indexes(path)
    if speaker_id not in stored:
        raise InputError(
            f"the feature index of speaker number {speaker_id}",
            f"{path.name} holds none of that number.",
            f"It holds: {', '.join(str(known) for known in sorted(stored))}.",
        )
    return Retrieval(index_from_bytes(stored[speaker_id], f"feature index {path.name}, speaker {speaker_id}"))


def _groups(cells: Integers) -> Iterator[tuple[int, Integers]]:
    """Every cell with the frames that look into it."""
    order = np.argsort(cells, kind="stable")
    borders = np.flatnonzero(np.diff(cells[order])) + 1
    for frames in np.split(order, borders):
        yield int(cells[frames[0]]), frames


def _nearest_of(points: Array, vectors: Array, neighbours: int) -> tuple[Integers, Doubles]:
    """(points, at most `neighbours`) the nearest vectors and their distances, nearest first, of equals the first."""
    found = [
        _search(points[at : at + POINTS_AT_ONCE], vectors, neighbours) for at in range(0, len(points), POINTS_AT_ONCE)
    ]
    return np.concatenate([near for near, _ in found]), np.concatenate([distances for _, distances in found])


def _search(points: Array, vectors: Array, neighbours: int) -> tuple[Integers, Doubles]:
    wide = points.astype(np.float64)
    candidates, scores = [], []
    for at in range(0, len(vectors), VECTORS_AT_ONCE):
        block = vectors[at : at + VECTORS_AT_ONCE].astype(np.float64)
        halves = 0.5 * np.einsum("vc,vc->v", block, block) - wide @ block.T
        best = np.argsort(halves, axis=1, kind="stable")[:, :neighbours]
        candidates.append(at + best)
        scores.append(np.take_along_axis(halves, best, axis=1))
    best = np.argsort(np.concatenate(scores, axis=1), axis=1, kind="stable")[:, :neighbours]
    near = np.take_along_axis(np.concatenate(candidates, axis=1), best, axis=1)
    # From the differences: the form above leaves a rest where a vector is found exactly.
    gaps = vectors[near] - wide[:, None]
    distances = np.einsum("pkc,pkc->pk", gaps, gaps)
    order = np.lexsort((near, distances), axis=1)
    return np.take_along_axis(near, order, axis=1), np.take_along_axis(distances, order, axis=1)


def _weights(scores: Array) -> Array:
    """(frames, k) shares that add up to 1; relative to the nearest, so that nothing overflows."""
    exact: Doubles = scores.astype(np.float64)
    nearest = exact.min(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(nearest > 0, np.square(nearest / exact), exact == 0)
    shares: Array = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def _upstream_weights(scores: Array) -> Array:
    """The same in upstream's arithmetic, wherever that is finite."""
    with np.errstate(divide="ignore", over="ignore", under="ignore", invalid="ignore"):
        weights: Array = np.square(1 / scores)
        weights /= weights.sum(axis=1, keepdims=True)
    finite = np.isfinite(weights).all(axis=1)
    weights[~finite] = _weights(scores[~finite])
    return weights
