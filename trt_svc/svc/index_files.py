"""The files that hold feature indexes, opened without running anything.

RVC's `added_*.index` is the bytes of `faiss.write_index`; so-vits-svc's `feature_and_index.pkl` is a pickle of one
faiss index per speaker, each stored as the same bytes.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from trt_svc.checkpoints.containers import reading
from trt_svc.checkpoints.unpickle import DataReader, Inert
from trt_svc.errors import CheckpointNotFound, CorruptCheckpoint, UnsafeCheckpoint, shown
from trt_svc.svc.faiss_file import IvfFlat, corrupt, index_from_bytes


def read_index(path: Path) -> IvfFlat:
    """The index of an `added_*.index` file."""
    what = f"feature index {path.name}"
    with reading(path, what):
        return index_from_bytes(_file_bytes(path, what), what)


def read_pickled_indexes(path: Path) -> dict[int, bytes]:
    """Speaker id -> the bytes of that speaker's index, for `index_from_bytes`, of a `feature_and_index.pkl`."""
    what = f"feature index {path.name}"
    with reading(path, what):
        tree = _IndexPickle(io.BytesIO(_file_bytes(path, what)), what).load()
        if not isinstance(tree, dict) or not tree:
            raise corrupt(what, "it holds no dictionary of speakers")
        return {_speaker_id(key, what): _bytes_of(value, key, what) for key, value in tree.items()}


def looks_like_an_index(path: Path) -> bool:
    """Are these the bytes of a faiss index, not a pickle? faiss' marks are an I and a letter."""
    what = f"feature index {path.name}"
    with reading(path, what):
        _require_file(path, what)
        with path.open("rb") as file:
            head = file.read(4)
    return head[:1] == b"I" and head[1:2].isalpha()


def _require_file(path: Path, what: str) -> None:
    if not path.is_file():
        raise CheckpointNotFound(
            what, f"there is no file {shown(str(path))}.", "Give feature_and_index.pkl or an added_*.index file."
        )


def _file_bytes(path: Path, what: str) -> bytes:
    _require_file(path, what)
    data = path.read_bytes()
    if not data:
        raise CorruptCheckpoint(what, "the file is empty (0 bytes).", "Copy it again.")
    return data


class _IndexPickle(DataReader):
    """Knows the names that a pickle of faiss indexes has a use for; any other makes the file refused."""

    def _named(self, module: str, name: str) -> Any:
        found = super()._named(module, name)
        # A dotted name would reach from the class to anything else.
        is_class = name.startswith("Index") and name.isidentifier()
        is_index = is_class and (module == "faiss" or module.startswith("faiss.swigfaiss"))
        if is_index or (module, name) == ("_codecs", "encode"):
            return found
        raise UnsafeCheckpoint(
            self._what,
            f"it names {shown(f'{module}.{name}')}, which no feature index has a use for; nothing was run.",
            "Do not open this file with other tools; get the index from a source you trust, or train it again.",
        )


def _speaker_id(key: Any, what: str) -> int:
    if type(key) is not int:
        raise corrupt(what, f"{shown(key)} stands where a speaker's number should")
    return key


def _bytes_of(value: Any, speaker: Any, what: str) -> bytes:
    data = value.state.get("this") if isinstance(value, Inert) else None
    if not isinstance(data, (bytes, bytearray)):
        raise corrupt(what, f"it holds no index for speaker {shown(speaker)}")
    return bytes(data)
