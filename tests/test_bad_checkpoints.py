"""Nothing in a bad file runs, nothing ends in a traceback, and every message says what to do."""

from __future__ import annotations

import contextlib
import datetime
import functools
import io
import pickle
from collections import Counter, OrderedDict, deque
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from typer.testing import CliRunner

import trt_svc
from tests.bad_checkpoints import CORPUS, EXECUTED, HOSTILE, NET, Builder, saved
from tests.golden import SUBSET, GoldenNet
from trt_svc.checkpoints.containers import opened_container
from trt_svc.checkpoints.load import open_checkpoint
from trt_svc.checkpoints.unpickle import Inert
from trt_svc.cli.main import app
from trt_svc.errors import ConfigError, InputError, TrtSvcError, UnsafeCheckpoint


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) >= 40
    assert len(HOSTILE) >= 12


@pytest.mark.parametrize("build", CORPUS.values(), ids=CORPUS)
def test_refused_with_one_paragraph(build: Builder, tmp_path: Path) -> None:
    arguments = build(tmp_path)
    with pytest.raises(TrtSvcError) as caught:
        trt_svc.load_vocoder(**arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert 40 < len(message) < 900
    assert all(part.strip() for part in (caught.value.asked, caught.value.found, caught.value.advice))
    assert not (tmp_path / EXECUTED).exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_named_as_such(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafeCheckpoint):
        trt_svc.load_vocoder(**CORPUS[name](tmp_path))


@pytest.mark.parametrize("build", CORPUS.values(), ids=CORPUS)
def test_the_command_line_prints_no_traceback(build: Builder, tmp_path: Path) -> None:
    arguments = build(tmp_path)
    command = ["inspect", str(arguments["path"])]
    for option in ("config", "family"):
        if option in arguments and isinstance(arguments[option], str):
            command += [f"--{option}", arguments[option]]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "Traceback" not in result.output
    assert "internal error" not in result.output
    assert not (tmp_path / EXECUTED).exists()


def test_the_corpus_would_execute_elsewhere(tmp_path: Path) -> None:
    """The attacks are real: an ordinary unpickler does run them."""
    arguments = CORPUS["os_system"](tmp_path)
    torch.load(arguments["path"], weights_only=False)
    assert (tmp_path / EXECUTED).exists()


# What honest files carry beside their weights.


class AttrDict(dict):  # type: ignore[type-arg]
    pass


class Options:
    def __init__(self) -> None:
        self.rate = 44100
        self.names = ["a", "b"]


def test_foreign_objects_become_inert_data(tmp_path: Path) -> None:
    from argparse import Namespace

    tree = {
        "generator": NET.weights,
        "hps": AttrDict(a=1),
        "options": Options(),
        "args": Namespace(lr=1e-4),
        "numpy": np.arange(5.0),
        "scalar": np.float64(3.0),
        "objects": np.array([{"a": 1}, None], dtype=object),
        "ordered": OrderedDict(b=2),
        "counter": Counter(b=2),
        "deque": deque([1]),
        "partial": partial(int, base=2),
        "set": {1, 2},
        "dtype": torch.float16,
        "type": np.float32,
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "complex": 1j,
        "bytes": b"abc",
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "path": Path("x"),
        "now": datetime.datetime(2026, 1, 1),
        "sparse": torch.eye(3).to_sparse(),
    }
    torch.save(tree, tmp_path / "model.pt")
    with opened_container(tmp_path / "model.pt") as read:
        assert isinstance(read["hps"], Inert)
        assert read["hps"].items == {"a": 1}
        assert read["options"].state == {"rate": 44100, "names": ["a", "b"]}
        assert read["args"].state["lr"] == 1e-4
        assert read["ordered"] == {"b": 2}
        assert read["size"] == (1, 2)
        assert read["bytes"] == b"abc"
        assert read["parameter"].load().tolist() == [1, 1]
    assert trt_svc.load_vocoder(**saved(tmp_path, tree)).checkpoint.family == "hifigan"


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}])
def test_tensors_equal_torchs_own_reading(tmp_path: Path, options: dict[str, Any]) -> None:
    base = torch.arange(24, dtype=torch.float32)
    tree: dict[str, Any] = {
        "whole": base,
        "view": base[3:9].view(2, 3),
        "transposed": base.view(4, 6).t(),
        "half": base.half(),
        "brain": base.bfloat16(),
        "double": base.double(),
        "int": base.long(),
        "bool": base > 3,
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
    }
    torch.save(tree, tmp_path / "x.pt", **options)
    theirs = torch.load(tmp_path / "x.pt", weights_only=False)
    with opened_container(tmp_path / "x.pt") as ours:
        for name, tensor in theirs.items():
            assert ours[name].dtype == tensor.dtype
            assert torch.equal(ours[name].load(), tensor), name


def test_a_plain_pickle_of_tensors(tmp_path: Path) -> None:
    """Each tensor is a torch file of its own inside the pickle."""
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"w": torch.arange(3.0)}, protocol=4))
    with opened_container(tmp_path / "x.pkl") as tree:
        assert tree["w"].load().tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_a_loaded_voice_does_not_depend_on_its_file_any_more(tmp_path: Path, kind: str) -> None:
    net = GoldenNet("gptsovits-v4", SUBSET)  # its weights need no folding
    path = tmp_path / f"model.{kind}"
    if kind == "pt":
        torch.save(net.weights, path)
    else:
        save_file(net.weights, path)
    vocoder = trt_svc.load_vocoder(path, config=net.meta["config"], family=net.family)
    before = vocoder(**net.inputs)
    path.write_bytes(b"\xff" * 100)
    assert np.array_equal(vocoder(**net.inputs), before)


def test_one_file_cannot_change_how_another_is_read(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(4.0)}, tmp_path / "good.pt")
    poison = b"\x80\x02ctorch\nFloatStorage\n}X\x05\x00\x00\x00dtypectorch\nint32\nsb}."
    (tmp_path / "poison.pt").write_bytes(poison)
    with contextlib.suppress(TrtSvcError), opened_container(tmp_path / "poison.pt"):
        pass
    with opened_container(tmp_path / "good.pt") as tree:
        assert tree["w"].load().tolist() == [0, 1, 2, 3]


def test_the_file_itself_is_never_changed(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(4)}, tmp_path / "x.pt")
    before = (tmp_path / "x.pt").read_bytes()
    with opened_container(tmp_path / "x.pt") as tree:
        tree["w"].load().zero_()
    assert (tmp_path / "x.pt").read_bytes() == before


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_never_escape_the_error_tree(data: Any, tmp_path: Path) -> None:
    """Any byte of a real checkpoint changed, cut or repeated: it loads or is refused, nothing else."""
    legacy = data.draw(st.booleans())
    good = _small_checkpoint(legacy)
    at = data.draw(st.integers(0, len(good) - 1))
    change = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    piece = data.draw(st.binary(min_size=1, max_size=8))
    bad = {
        "flip": good[:at] + piece + good[at + len(piece) :],
        "cut": good[:at],
        "insert": good[:at] + piece + good[at:],
    }
    (tmp_path / "x.pt").write_bytes(bad[change])
    with contextlib.suppress(TrtSvcError):
        open_checkpoint(tmp_path / "x.pt", config=NET.meta["config"])


@functools.cache
def _small_checkpoint(legacy: bool) -> bytes:
    buffer = io.BytesIO()
    weights = {name: value[:1] for name, value in list(NET.weights.items())[:6]}
    torch.save({"generator": weights, "hps": Options()}, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def test_a_wrong_preset_name_suggests_the_right_one(tmp_path: Path) -> None:
    arguments = saved(tmp_path, {"generator": NET.weights})
    with pytest.raises(ConfigError, match="hifigan_v1"):
        trt_svc.load_vocoder(**{**arguments, "config": "hifigan_v11"})
    with pytest.raises(InputError, match="Did you mean 'hifigan'"):
        trt_svc.load_vocoder(**{**arguments, "family": "hifigann"})
