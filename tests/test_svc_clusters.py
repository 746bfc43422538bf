"""k-means and feature retrieval: upstream's results, exact searches, files that are odd, damaged or hostile."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.parity_svc.clusters import KMEANS, PICKLE, SPEAKERS, UNITS
from trt_svc.errors import CheckpointNotFound, CorruptCheckpoint, InputError, UnsafeCheckpoint
from trt_svc.graph.export import export
from trt_svc.graph.model import GraphInput
from trt_svc.svc.clusters import Clusters, read_clusters
from trt_svc.svc.faiss_file import IvfFlat, index_from_bytes
from trt_svc.svc.index_files import read_index, read_pickled_indexes
from trt_svc.svc.nearest import RowTable
from trt_svc.svc.networks.nearest import FeatureRetrieval, NearestCentre
from trt_svc.svc.retrieval import Retrieval, read_retrieval


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def assert_close(made: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=2e-5 * np.abs(expected).max())


# Nearest centre.


def brute_nearest(points: np.ndarray, rows: np.ndarray) -> np.ndarray:
    gaps = points[:, None].astype(np.float64) - rows[None]
    return (gaps**2).sum(2).argmin(1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 12), st.integers(1, 30), st.integers(0, 6))
def test_the_first_of_equally_near_centres_is_found(seed: int, rows: int, channels: int, points: int, exp: int) -> None:
    # Small whole numbers: many exact ties, and every distance is exact. The offset makes float32 products round.
    random = rng(seed)
    table = (random.integers(-2, 3, (rows, channels)) + 10**exp - 1).astype(np.float32)
    asked = (random.integers(-2, 3, (points, channels)) + 10**exp - 1).astype(np.float32)
    np.testing.assert_array_equal(Clusters(table).nearest(asked.T), brute_nearest(asked, table))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(1, 64), st.sampled_from([0.0, 1e-3, 30.0, 3e3, 1e8]))
def test_nearest_centre_equals_brute_force(seed: int, rows: int, channels: int, offset: float) -> None:
    random = rng(seed)
    table, asked = (random.normal(offset, 1, (n, channels)).astype(np.float32) for n in (rows, 9))
    np.testing.assert_array_equal(RowTable(table).nearest(asked), brute_nearest(asked, table))


def test_many_frames_and_centres_go_in_blocks() -> None:
    table, asked = (rng(n).normal(0, 1, (n, 5)).astype(np.float32) for n in (10000, 1000))
    clusters = Clusters(table)
    found = clusters.nearest(asked.T)
    np.testing.assert_array_equal(found[::50], brute_nearest(asked[::50], table))
    tracemalloc.start()
    clusters.nearest(np.tile(asked, (6, 1)).T)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20  # all distances at once would be 240 MB


def test_every_frame_is_on_its_own() -> None:
    clusters = read_clusters(KMEANS).of(SPEAKERS[0])
    for mixed in (clusters.mixed, read_retrieval(PICKLE).mixed):
        whole = mixed(UNITS, 0.4)
        np.testing.assert_array_equal(whole[:, :1], mixed(UNITS[:, :1], 0.4))
        np.testing.assert_array_equal(whole[:, 3:5], mixed(UNITS[:, 3:5], 0.4))
        np.testing.assert_array_equal(mixed(UNITS, 0), UNITS)
        assert not np.shares_memory(mixed(UNITS, 0), UNITS)


BAD_UNITS = {
    "turned": (UNITS.T, "Transpose"),
    "of another encoder": (np.zeros((256, 4), np.float32), "content encoder"),
    "in three axes": (UNITS[None], "expected floats"),
    "whole numbers": (np.zeros(UNITS.shape, np.int32), "expected floats"),
    "without frames": (UNITS[:, :0], "no frames"),
    "NaN": (np.where(np.arange(UNITS.shape[1]) == 3, np.nan, UNITS).astype(np.float32), "first is frame 3"),
    "infinite": (UNITS + np.float32(np.inf), "absurd"),
    "absurd": (UNITS + np.float32(1e30), "absurd"),
}


@pytest.mark.parametrize("name", BAD_UNITS)
def test_bad_units_are_refused(name: str) -> None:
    units, words = BAD_UNITS[name]
    for mixed in (read_clusters(KMEANS).of(SPEAKERS[0]).mixed, read_retrieval(PICKLE).mixed):
        with pytest.raises(InputError, match=words):
            mixed(units, 0.5)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan"), float("inf"), True, "0.5", None])
def test_bad_ratios_are_refused(ratio: Any) -> None:
    for mixed in (read_clusters(KMEANS).of(SPEAKERS[0]).mixed, read_retrieval(PICKLE).mixed):
        with pytest.raises(InputError, match="0 to 1"):
            mixed(UNITS, ratio)


def test_unknown_speakers_are_refused_with_a_hint() -> None:
    with pytest.raises(InputError, match=f"Did you mean {SPEAKERS[0]!r}"):
        read_clusters(KMEANS).of(SPEAKERS[0][:-1])
    with pytest.raises(InputError, match=r"number 77.*It holds: 0, 1"):
        read_retrieval(PICKLE, 77)
    with pytest.raises(InputError, match="at least 1"):
        read_retrieval(PICKLE).search(UNITS, 0)


# Cluster files.

CENTRES = rng(1).normal(0, 1, (7, 16)).astype(np.float32)


class KMeans:
    """Stands for scikit-learn's, stored whole."""

    def __init__(self, centres: np.ndarray) -> None:
        self.n_features_in_, self.cluster_centers_ = centres.shape[1], centres


CLUSTER_LAYOUTS: dict[str, Callable[[Path], None]] = {
    "float64": lambda p: torch.save({"nen": {"cluster_centers_": CENTRES.astype(np.float64)}}, p),
    "big-endian": lambda p: torch.save({"nen": {"cluster_centers_": CENTRES.astype(">f4")}}, p),
    "by columns": lambda p: torch.save({"nen": {"cluster_centers_": np.asfortranarray(CENTRES)}}, p),
    "tensor": lambda p: torch.save({"nen": {"cluster_centers_": torch.from_numpy(CENTRES)}}, p),
    "before torch 1.6": lambda p: torch.save(
        {"nen": {"cluster_centers_": CENTRES}}, p, _use_new_zipfile_serialization=False
    ),
    "protocol 5": lambda p: torch.save({"nen": {"cluster_centers_": CENTRES}}, p, pickle_protocol=5),
    "protocol 5 by columns": lambda p: torch.save(
        {"nen": {"cluster_centers_": np.asfortranarray(CENTRES)}}, p, pickle_protocol=5
    ),
    "whole object": lambda p: torch.save({"nen": KMeans(CENTRES)}, p),
    "plain pickle": lambda p: p.write_bytes(pickle.dumps({"nen": {"cluster_centers_": CENTRES}})) and None,
}


@pytest.mark.parametrize("layout", CLUSTER_LAYOUTS)
def test_centres_are_read_from_every_layout(layout: str, tmp_path: Path) -> None:
    CLUSTER_LAYOUTS[layout](tmp_path / "kmeans.pt")
    np.testing.assert_array_equal(read_clusters(tmp_path / "kmeans.pt").of("nen").centres, CENTRES)


NOT_CLUSTERS: dict[str, Any] = {
    "empty": {},
    "list": [1, 2],
    "weights": {"model": {"dec.conv.weight": torch.zeros(2)}},
    "no centres": {"nen": {"n_features_in_": 16}},
    "one number": {"nen": {"cluster_centers_": 3.0}},
    "text": {"nen": {"cluster_centers_": "centres"}},
    "one axis": {"nen": {"cluster_centers_": CENTRES[0]}},
    "zero centres": {"nen": {"cluster_centers_": CENTRES[:0]}},
    "whole numbers": {"nen": {"cluster_centers_": CENTRES.astype(np.int64)}},
    "objects": {"nen": {"cluster_centers_": CENTRES.astype(object)}},
    "NaN": {"nen": {"cluster_centers_": CENTRES * np.float32(np.nan)}},
    "other width": {"nen": {"cluster_centers_": CENTRES, "n_features_in_": 768}},
}


@pytest.mark.parametrize("name", NOT_CLUSTERS)
def test_what_are_no_clusters_is_refused(name: str, tmp_path: Path) -> None:
    torch.save(NOT_CLUSTERS[name], tmp_path / "kmeans.pt")
    with pytest.raises(CorruptCheckpoint, match="train the clusters again"):
        read_clusters(tmp_path / "kmeans.pt")


def test_an_array_that_claims_more_than_there_is_is_refused(tmp_path: Path) -> None:
    data = pickle.dumps({"nen": {"cluster_centers_": CENTRES}}, protocol=2)
    (tmp_path / "kmeans.pt").write_bytes(data.replace(b"K\x07K\x10\x86", b"J\xff\xff\xff\x7fK\x10\x86"))
    with pytest.raises(CorruptCheckpoint, match="claims the shape"):
        read_clusters(tmp_path / "kmeans.pt")


def test_impossible_centres_are_refused() -> None:
    for centres in (CENTRES[0], CENTRES[:0], CENTRES.astype(int), CENTRES * np.float32(np.nan)):
        with pytest.raises(InputError, match="cluster centres"):
            Clusters(centres)


# Retrieval against brute force.


def random_index(seed: int, count: int, cells: int, channels: int = 6, whole: bool = False) -> IvfFlat:
    """An index whose vectors lie in arbitrary cells, some of which are empty."""
    random = rng(seed)
    draw = (lambda *shape: random.integers(-3, 4, shape)) if whole else (lambda *shape: random.normal(0, 1, shape))
    cell = np.sort(random.integers(0, cells, count))
    starts = np.searchsorted(cell, np.arange(cells + 1))
    ids = random.permutation(count)
    for begin, end in pairwise(starts):
        ids[begin:end].sort()
    return IvfFlat(draw(cells, channels).astype(np.float32), draw(count, channels).astype(np.float32), ids, starts)


def brute_frame(index: IvfFlat, point: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(ids, distances, mean) of one frame, in the plainest words."""
    point = point.astype(np.float64)
    held = np.flatnonzero(np.diff(index.starts))
    cell = held[((index.centroids[held] - point) ** 2).sum(1).argmin()]
    begin, end = index.starts[cell : cell + 2]
    distances = ((index.vectors[begin:end] - point) ** 2).sum(1)
    best = np.argsort(distances, kind="stable")[:8]
    exact = distances[best] == 0
    weights = exact.astype(float) if exact.any() else 1 / distances[best] ** 2
    mean = (weights[:, None] * index.vectors[begin:end][best]).sum(0) / weights.sum()
    return index.ids[begin:end][best], distances[best], mean


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 120), st.integers(1, 12), st.booleans())
def test_retrieval_equals_brute_force(seed: int, count: int, cells: int, whole: bool) -> None:
    index = random_index(seed, count, cells, whole=whole)
    random = rng(seed + 1)
    units = (random.integers(-3, 4, (6, 7)) if whole else random.normal(0, 1, (6, 7))).astype(np.float32)
    units[:, 0] = index.vectors[0]  # found exactly, if its cell is the nearest
    retrieval = Retrieval(index)
    near = retrieval.search(units)
    made = {compat: retrieval.retrieved(units, compat=compat) for compat in (False, True)}
    for frame, point in enumerate(units.T):
        ids, distances, mean = brute_frame(index, point)
        missing = 8 - len(ids)
        np.testing.assert_array_equal(near.ids[frame], [*ids, *[-1] * missing])
        np.testing.assert_allclose(near.scores[frame], [*distances, *[np.inf] * missing], rtol=1e-6)
        for retrieved in made.values():
            np.testing.assert_allclose(retrieved[:, frame], mean, rtol=1e-5, atol=1e-5)


def test_a_large_cell_and_many_frames_go_in_blocks() -> None:
    index = random_index(3, 5000, 1)
    units = rng(4).normal(0, 1, (6, 600)).astype(np.float32)
    near = Retrieval(index).search(units)
    for frame in (0, 511, 512, 599):
        np.testing.assert_array_equal(near.ids[frame], brute_frame(index, units[:, frame])[0])


@pytest.mark.parametrize("compat", [False, True])
def test_a_vector_found_exactly_takes_all_the_weight(compat: bool) -> None:
    vectors = rng(5).normal(0, 1, (20, 6)).astype(np.float32)
    vectors[7] = vectors[3]
    retrieval = Retrieval(IvfFlat(np.zeros((1, 6), np.float32), vectors, np.arange(20), np.array([0, 20])))
    np.testing.assert_array_equal(retrieval.search(vectors[3:4].T).ids[0, :2], [3, 7])
    for close in (0, 1e-30, 1e-22):  # at 0 and where float32 has no room for the square, upstream's frame is NaN
        near = vectors[3:4].T + np.float32(close)
        np.testing.assert_array_equal(retrieval.retrieved(near, compat=compat)[:, 0], vectors[3])


def test_missing_neighbours_weigh_nothing_as_upstream() -> None:
    """An id of -1 makes NumPy take the last vector, whose weight (1 / the largest float)² is 0."""
    index = random_index(6, 3, 1)
    units = rng(7).normal(0, 1, (6, 4)).astype(np.float32)
    near = Retrieval(index).search(units)
    assert (near.ids[:, 3:] == -1).all() and (near.places[:, 3:] == -1).all() and np.isinf(near.scores[:, 3:]).all()
    scores = np.where(np.isinf(near.scores), np.finfo(np.float32).max, near.scores)
    with np.errstate(under="ignore"):
        weights = np.square(1 / scores)
    weights /= weights.sum(axis=1, keepdims=True)
    upstream = (index.in_id_order()[near.ids] * weights[:, :, None]).sum(1)
    np.testing.assert_allclose(Retrieval(index).retrieved(units, compat=True).T, upstream, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(Retrieval(index).retrieved(units).T, upstream, rtol=1e-5, atol=1e-6)


# Index files.


def header(channels: int, count: int, metric: int = 1, trained: int = 1) -> bytes:
    return struct.pack("<iqqqBi", channels, count, 1 << 20, 1 << 20, trained, metric)


def flat_bytes(rows: np.ndarray, kind: bytes = b"IxF2", metric: int = 1) -> bytes:
    return kind + header(rows.shape[1], len(rows), metric) + struct.pack("<Q", rows.size) + rows.tobytes()


NO_MAP = struct.pack("<BQ", 0, 0)


def index_bytes(index: IvfFlat, sparse: bool = False, direct_map: bytes = NO_MAP, **changed: Any) -> bytes:
    """What faiss would write."""
    channels, sizes = index.channels, index.cell_sizes.astype(np.uint64)
    head = b"IwFl" + changed.get("header", header(channels, index.count)) + struct.pack("<QQ", len(sizes), 1)
    if sparse:
        held = np.flatnonzero(sizes).astype(np.uint64)
        layout, stored = b"sprs", np.stack([held, sizes[held.astype(int)]], axis=1).ravel()
    else:
        layout, stored = b"full", sizes
    stored = changed.get("sizes", stored)
    lists = b"ilar" + struct.pack("<QQ", len(sizes), channels * 4) + layout
    lists += struct.pack("<Q", len(stored)) + stored.astype(np.uint64).tobytes()
    for begin, end in pairwise(index.starts):
        lists += index.vectors[begin:end].tobytes() + index.ids[begin:end].astype(np.int64).tobytes()
    quantizer = changed.get("quantizer", flat_bytes(index.centroids))
    return head + quantizer + direct_map + changed.get("lists", lists)


SMALL = random_index(11, 9, 5, channels=3)
EMPTY = IvfFlat(SMALL.centroids, SMALL.vectors[:0], SMALL.ids[:0], np.zeros(6, np.int64))


def assert_same(made: IvfFlat, expected: IvfFlat) -> None:
    for name in ("centroids", "vectors", "ids", "starts"):
        np.testing.assert_array_equal(getattr(made, name), getattr(expected, name))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 40), st.booleans(), st.sampled_from([0, 1, 2]))
def test_full_and_sparse_lists_are_read(seed: int, count: int, cells: int, sparse: bool, mapping: int) -> None:
    index = random_index(seed, count, cells)
    direct = {0: 0, 1: count, 2: 0}[mapping]
    direct_map = struct.pack("<BQ", mapping, direct) + bytes(8 * direct)
    if mapping == 2:
        direct_map += struct.pack("<Q", count) + bytes(16 * count)
    assert_same(index_from_bytes(index_bytes(index, sparse, direct_map), "index"), index)


def test_the_writer_of_these_tests_writes_what_faiss_writes() -> None:
    for data in read_pickled_indexes(PICKLE).values():
        assert index_bytes(index_from_bytes(data, "index")) == data


IMPOSSIBLE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "claims 4 bytes"),
    "text": (b"not an index", "first bytes"),
    "other kind": (b"IwPQ" + index_bytes(SMALL)[4:], "kind 'IwPQ'"),
    "flat index": (flat_bytes(SMALL.vectors), "kind 'IxF2'"),
    "inner product": (index_bytes(SMALL, header=header(3, 9, metric=0)), "metric 0"),
    "other metric": (index_bytes(SMALL, header=header(3, 9, metric=22)), "metric 22"),
    "untrained": (index_bytes(SMALL, header=header(3, 9, trained=0)), "never trained"),
    "no channels": (index_bytes(SMALL, header=header(0, 9)), "claims 9 vectors of 0 channels"),
    "minus channels": (index_bytes(SMALL, header=header(-3, 9)), "of -3 channels"),
    "minus vectors": (index_bytes(SMALL, header=header(3, -9)), "claims -9 vectors"),
    "more vectors": (index_bytes(SMALL, header=header(3, 2**40)), "do not hold"),
    "other quantizer": (index_bytes(SMALL, quantizer=flat_bytes(SMALL.centroids, b"IxFI", 0)), "found by 'IxFI'"),
    "quantizer by inner product": (index_bytes(SMALL, quantizer=flat_bytes(SMALL.centroids, metric=0)), "metric 0"),
    "fewer centroids": (index_bytes(SMALL, quantizer=flat_bytes(SMALL.centroids[:-1])), "5 cells of 3 channels"),
    "other centroids": (index_bytes(SMALL, quantizer=flat_bytes(SMALL.centroids[:, :2])), "5 cells of 3 channels"),
    "unknown map": (index_bytes(SMALL, direct_map=struct.pack("<BQ", 9, 0)), "unknown kind 9"),
    "huge map": (index_bytes(SMALL, direct_map=struct.pack("<BQ", 1, 2**64 - 1)), "claims"),
    "on disk": (index_bytes(SMALL, lists=b"ilod" + bytes(64)), "another file"),
    "without lists": (index_bytes(SMALL, lists=b"il00"), "only cells"),
    "trained only": (index_bytes(EMPTY), "added_.*not trained_"),
    "trained only, sparse": (index_bytes(EMPTY, sparse=True), "added_.*not trained_"),
    "wrapping sizes": (index_bytes(SMALL, sizes=np.array([2**63, 2**63, 9, 0, 0], np.uint64)), "do not hold"),
    "too many sizes": (index_bytes(SMALL, sizes=np.ones(9, np.uint64)), "9 sizes"),
    "cell twice": (index_bytes(SMALL, sparse=True, sizes=np.array([1, 4, 1, 5], np.uint64)), "twice"),
    "no such cell": (index_bytes(SMALL, sparse=True, sizes=np.array([5, 9], np.uint64)), "not there"),
    "half a pair": (index_bytes(SMALL, sparse=True, sizes=np.array([1, 4, 1], np.uint64)), "3 sizes"),
    "id twice": (index_bytes(IvfFlat(SMALL.centroids, SMALL.vectors, SMALL.ids * 0, SMALL.starts)), "each once"),
    "id outside": (index_bytes(IvfFlat(SMALL.centroids, SMALL.vectors, SMALL.ids - 1, SMALL.starts)), "each once"),
    "NaN": (index_bytes(IvfFlat(SMALL.centroids, SMALL.vectors * np.float32("nan"), SMALL.ids, SMALL.starts)), "NaN"),
    "absurd": (index_bytes(IvfFlat(SMALL.centroids * np.float32(1e20), SMALL.vectors, SMALL.ids, SMALL.starts)), "NaN"),
    "bytes behind": (index_bytes(SMALL) + b"\0", "1 bytes follow"),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_indexes_are_refused(name: str) -> None:
    data, words = IMPOSSIBLE[name]
    with pytest.raises(CorruptCheckpoint, match=words):
        index_from_bytes(data, "index")


def test_every_cut_index_is_refused() -> None:
    data = index_bytes(SMALL)
    for length in range(len(data)):
        with pytest.raises(CorruptCheckpoint):
            index_from_bytes(data[:length], "index")


def test_claims_are_checked_before_memory_is_asked_for() -> None:
    data = index_bytes(SMALL)
    tracemalloc.start()
    for at in range(len(data) - 8):
        for claim in (2**31 - 1, 2**40, 2**63 - 1, 2**64 - 1):
            with suppress(CorruptCheckpoint):
                index_from_bytes(data[:at] + struct.pack("<Q", claim) + data[at + 8 :], "index")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 400))
def test_random_bytes_are_read_or_refused(data: bytes, at: int) -> None:
    whole = index_bytes(SMALL)
    try:
        index_from_bytes(whole[:at] + data + whole[at + len(data) :], "index")
    except CorruptCheckpoint as err:
        assert err.found.endswith(".") and err.advice


# Pickled indexes.


def dumped(indexes: dict[Any, Any], module: str = "faiss.swigfaiss", protocol: int = 4) -> bytes:
    """A pickle of faiss' own objects, made without faiss."""
    kind = type("IndexIVFFlat", (), {"__module__": module})
    modules = {name: types.ModuleType(name) for name in ("faiss", module)}
    modules[module].__dict__["IndexIVFFlat"] = kind
    objects = {}
    for key, data in indexes.items():
        objects[key] = kind()
        objects[key].__dict__["this"] = data
    sys.modules.update(modules)
    try:
        return pickle.dumps(objects, protocol=protocol)
    finally:
        for name in modules:
            del sys.modules[name]


@pytest.mark.parametrize("module", ["faiss", "faiss.swigfaiss", "faiss.swigfaiss_avx2", "faiss.swigfaiss_avx512"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_indexes_are_read_however_they_were_pickled(module: str, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "feature_and_index.pkl"
    path.write_bytes(dumped({4: index_bytes(SMALL), 0: index_bytes(SMALL, sparse=True)}, module, protocol))
    assert sorted(read_pickled_indexes(path)) == [0, 4]
    for speaker in (0, 4):
        assert_same(read_retrieval(path, speaker).index, SMALL)


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


class Stranger:
    """Some class that an index has no use for."""

    x: int


def _inner(tree: Any) -> bytes:
    stored = io.BytesIO()
    torch.save(tree, stored)
    return stored.getvalue()


def attacks(mark: Path) -> dict[str, bytes]:
    """Files that create `mark` when they are opened the usual way, or at least name what could."""
    touch, code = f"touch '{mark}'", f"open({str(mark)!r}, 'w')"
    system = Calls(os.system, touch)
    line = touch.encode()
    return {
        "os.system": pickle.dumps(system),
        "os.system beside an index": dumped({0: index_bytes(SMALL), 1: system}),
        "os.system as the bytes": dumped({0: system}),
        "os.system, oldest protocol": b"cos\nsystem\n(S" + repr(touch).encode() + b"\ntR.",
        "os.system, old instance": b"(S" + repr(touch).encode() + b"\nios\nsystem\n.",
        "os.system, old object": b"\x80\x02(cos\nsystem\nX" + struct.pack("<I", len(line)) + line + b"o.",
        "os.system, thrown away": b"\x80\x02cposix\nsystem\nX" + struct.pack("<I", len(line)) + line + b"\x85R0}.",
        "eval": pickle.dumps({0: Calls(eval, code)}),
        "exec": pickle.dumps([Calls(exec, code)]),
        "subprocess": pickle.dumps({0: Calls(subprocess.Popen, ["touch", str(mark)])}),
        "getattr": pickle.dumps({0: Calls(getattr, "x", "upper")}),
        "open": pickle.dumps({0: Calls(open, str(mark), "w")}),
        "import": pickle.dumps({0: Calls(__import__, "os")}),
        "torch inside": pickle.dumps({0: Calls(torch.storage._load_from_bytes, _inner(system))}),
        "numpy array": pickle.dumps({0: np.zeros(3)}),
        "numpy memmap": b"\x80\x02cnumpy\nmemmap\n(X\x01\x00\x00\x00xtR.",
        "a call of faiss": b"\x80\x02cfaiss.swigfaiss\nread_index\nX\x05\x00\x00\x00/dev/\x85R.",
        "a loader of faiss": b"\x80\x02cfaiss.contrib.datasets\nIndexLoader\n)R.",
        "a name that looks like faiss": b"\x80\x02cfaissx.swigfaiss\nIndexIVFFlat\n)\x81.",
        "a class of its own": pickle.dumps({0: Stranger()}),
        "a copy register": pickle.dumps({0: Stranger()}, protocol=0),
        "a dotted way out": b"\x80\x04\x8c\x05faiss\x8c\x11Index.__class__.x\x93.",
    }


@pytest.mark.parametrize("name", attacks(Path("mark")))
def test_pickles_that_want_to_run_something_are_refused(name: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "executed", tmp_path / "feature_and_index.pkl"
    path.write_bytes(attacks(mark)[name])
    with pytest.raises(UnsafeCheckpoint, match="nothing was run"):
        read_retrieval(path)
    assert not mark.exists()


def _chain(length: int) -> bytes:
    """A list that holds itself twice over, `length` times: endless if anything walked it."""
    return b"\x80\x04]\x94" + b"".join(b"]\x94(h" + bytes([n]) + b"h" + bytes([n]) + b"e" for n in range(length)) + b"."


ODD_PICKLES: dict[str, bytes] = {
    "empty dictionary": pickle.dumps({}),
    "list": pickle.dumps([index_bytes(SMALL)]),
    "bare bytes": pickle.dumps({0: index_bytes(SMALL)}),
    "speakers by name": dumped({"nen": index_bytes(SMALL)}),
    "text for bytes": dumped({0: "IwFl"}),
    "damaged index": dumped({0: index_bytes(SMALL)[:-1]}),
    "other index": dumped({0: flat_bytes(SMALL.vectors)}),
    "cut": dumped({0: index_bytes(SMALL)})[:-20],
    "claims 4 GB": b"\x80\x04B\xff\xff\xff\xffabc",
    "claims everything": b"\x80\x04\x8e" + struct.pack("<Q", 2**63 - 1) + b"abc",
    "persistent": b"\x80\x02X\x01\x00\x00\x00xQ.",
    "extension": b"\x80\x02\x82\x01.",
    "lists without end": _chain(200),
    "nesting without end": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "text": b"hello",
    "nothing but a stop": b".",
}


@pytest.mark.parametrize("name", ODD_PICKLES)
def test_odd_pickles_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "index.pkl").write_bytes(ODD_PICKLES[name])
    with pytest.raises(CorruptCheckpoint):
        read_retrieval(tmp_path / "index.pkl")


def test_files_that_are_not_there_or_empty_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.pkl").touch()
    for read in (read_retrieval, read_index):
        with pytest.raises(CheckpointNotFound, match=r"none\.pkl"):
            read(tmp_path / "none.pkl")
        with pytest.raises(CheckpointNotFound):
            read(tmp_path)
        with pytest.raises(CorruptCheckpoint, match="0 bytes"):
            read(tmp_path / "empty.pkl")
    with pytest.raises(CheckpointNotFound):
        read_clusters(tmp_path / "none.pt")


# As networks.


def in_network(net: torch.nn.Module, units: Sequence[np.ndarray], ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(by torch, by onnxruntime from the exported graph)"""
    stacked, shares = np.stack(units), np.broadcast_to(ratio, (len(units), 1, ratio.shape[-1])).astype(np.float32)
    specs = [GraphInput("units", stacked.shape[1]), GraphInput("ratio", 1)]
    graph = export(net, specs, "mixed", ("batch", "channels", "frames"), {})
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    (made,) = session.run(None, {"units": stacked, "ratio": np.ascontiguousarray(shares)})
    with torch.inference_mode():
        return net(torch.from_numpy(stacked), torch.from_numpy(shares.copy())).numpy(), made


@pytest.mark.parametrize("frames", [1, 2, 25])
@pytest.mark.parametrize("speaker", range(len(SPEAKERS)))
def test_networks_equal_the_numpy_forms(speaker: int, frames: int) -> None:
    clusters, retrieval = read_clusters(KMEANS).of(SPEAKERS[speaker]), read_retrieval(PICKLE, speaker)
    units = [UNITS[:, :frames], UNITS[:, ::-1][:, :frames].copy()]
    ratio = np.linspace(1.0, 0.3, frames)  # a share per frame
    for net, mixed in ((NearestCentre(clusters), clusters.mixed), (FeatureRetrieval(retrieval), retrieval.mixed)):
        expected = np.stack([
            np.concatenate([mixed(one[:, i : i + 1], float(np.float32(ratio[i]))) for i in range(frames)], axis=1)
            for one in units
        ])  # fmt: skip
        for made in in_network(net, units, ratio):
            assert_close(made, expected)


def test_the_retrieval_network_knows_small_cells_empty_cells_and_exact_hits() -> None:
    for seed in range(6):
        index = random_index(seed, 30, 9)
        retrieval = Retrieval(index)
        units = np.concatenate([index.vectors[:4].T, rng(seed).normal(0, 1, (6, 20)).astype(np.float32)], axis=1)
        for made in in_network(FeatureRetrieval(retrieval), [units], np.ones(24)):
            assert_close(made[0], retrieval.mixed(units, 1.0))
    tiny = Retrieval(random_index(1, 3, 2))
    units = rng(8).normal(0, 1, (6, 5)).astype(np.float32)
    for made in in_network(FeatureRetrieval(tiny), [units], np.ones(5)):
        assert_close(made[0], tiny.mixed(units, 1.0))
