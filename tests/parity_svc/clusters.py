"""k-means and feature retrieval, from upstream's files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests import golden_svc
from tests.parity_svc.base import EXACT, Comparison, Subject, Tolerance
from trt_svc.svc.clusters import read_clusters
from trt_svc.svc.faiss_file import index_from_bytes
from trt_svc.svc.index_files import read_index, read_pickled_indexes
from trt_svc.svc.retrieval import read_retrieval

GOLDEN = golden_svc.arrays("retrieval_utils")
KMEANS = golden_svc.FOLDER / "kmeans_10000.pt"
PICKLE = golden_svc.FOLDER / "feature_and_index.pkl"
UNITS = np.ascontiguousarray(GOLDEN["feat"].T)
SPEAKERS = sorted({key.split(".")[1] for key in GOLDEN if key.startswith("kmeans.")})
INDEXES = sorted(golden_svc.FOLDER.glob("added_*.index"))


def ratios_of(prefix: str) -> list[float]:
    return [float(found[1]) for key in GOLDEN if (found := re.fullmatch(re.escape(prefix) + r"mix([\d.]+)", key))]


def kmeans(_: Path) -> Iterator[Comparison]:
    for speaker in SPEAKERS:
        clusters, prefix, case = read_clusters(KMEANS).of(speaker), f"kmeans.{speaker}.", f"k-means, {speaker}"
        found = clusters.nearest(UNITS)
        yield Comparison(case, f"{prefix}idx", found, GOLDEN[f"{prefix}idx"], EXACT)
        yield Comparison(case, f"{prefix}center", clusters.centres[found], GOLDEN[f"{prefix}center"], EXACT)
        for ratio in ratios_of(prefix):
            key = f"{prefix}mix{ratio}"
            yield Comparison(case, key, clusters.mixed(UNITS, ratio).T, GOLDEN[key])


def retrieval(_: Path) -> Iterator[Comparison]:
    for number, speaker in enumerate(SPEAKERS):
        prefix, case = f"fr.{speaker}.", f"retrieval, {speaker}"
        index = index_from_bytes(read_pickled_indexes(PICKLE)[number], "index")
        cells = np.empty(index.count, np.int64)
        cells[index.ids] = index.cell_of_vector()
        found = read_retrieval(PICKLE, number)
        near = found.search(UNITS)
        exact = {
            "vectors": index.in_id_order(),
            "centroids": index.centroids,
            "list_of_vector": cells,
            "ix": near.ids,
        }
        for name, made in exact.items():
            yield Comparison(case, prefix + name, made, GOLDEN[prefix + name], EXACT)
        yield Comparison(case, f"{prefix}score", near.scores, GOLDEN[f"{prefix}score"], Tolerance(1e-5, 0))
        for compat in (False, True):
            form = f"{case}, {'upstream' if compat else 'safe'} weights"
            made = found.retrieved(UNITS, compat=compat).T
            yield Comparison(form, f"{prefix}retrieved", made, GOLDEN[f"{prefix}retrieved"])
            for ratio in ratios_of(prefix):
                key = f"{prefix}mix{ratio}"
                yield Comparison(form, key, found.mixed(UNITS, ratio, compat=compat).T, GOLDEN[key])


def rvc_index(_: Path) -> Iterator[Comparison]:
    for path in INDEXES:
        prefix, case = f"fr.{path.stem.removeprefix('added_')}.", f"{path.name}, read directly"
        vectors, ids = read_index(path).in_id_order(), read_retrieval(path).search(UNITS).ids
        yield Comparison(case, f"{prefix}vectors", vectors, GOLDEN[f"{prefix}vectors"], EXACT)
        yield Comparison(case, f"{prefix}ix", ids, GOLDEN[f"{prefix}ix"], EXACT)


SUBJECTS = [
    Subject("k-means", "retrieval_utils", kmeans, {"feat": "units"}),
    Subject("retrieval", "retrieval_utils", retrieval),
    Subject("RVC's index", "retrieval_utils", rvc_index),
]
