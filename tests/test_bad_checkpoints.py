"""Nothing in a bad file runs, nothing ends in a traceback, and every message says what to do."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import trt_svc
from tests.bad_checkpoints import CORPUS, EXECUTED, NET, Builder, saved
from trt_svc.checkpoints.containers import read_container
from trt_svc.checkpoints.unpickle import Inert
from trt_svc.cli.main import app
from trt_svc.errors import ConfigError, InputError, TrtSvcError, UnsafeCheckpoint

HOSTILE = [name for name in CORPUS if list(CORPUS).index(name) <= list(CORPUS).index("torchscript")]


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
        "set": {1, 2},
        "dtype": torch.float16,
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "complex": 1j,
        "bytes": b"abc",
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "path": Path("x"),
    }
    torch.save(tree, tmp_path / "model.pt")
    read = read_container(tmp_path / "model.pt")
    assert isinstance(read["hps"], Inert)
    assert read["hps"]["a"] == 1
    assert read["options"].state["rate"] == 44100
    assert read["args"].state["lr"] == 1e-4
    assert np.array_equal(read["numpy"], np.arange(5.0))
    assert read["scalar"] == 3.0
    assert read["objects"][0] == {"a": 1}
    assert read["ordered"] == OrderedDict(b=2)
    assert read["parameter"].tolist() == [1, 1]
    assert trt_svc.load_vocoder(**saved(tmp_path, tree)).checkpoint.family == "hifigan"


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_equal_torchs_own_reading(tmp_path: Path, legacy: bool) -> None:
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
    torch.save(tree, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
    theirs, ours = torch.load(tmp_path / "x.pt", weights_only=True), read_container(tmp_path / "x.pt")
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype
        assert torch.equal(ours[name], tensor), name


def test_the_file_itself_is_never_changed(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(4)}, tmp_path / "x.pt")
    before = (tmp_path / "x.pt").read_bytes()
    read_container(tmp_path / "x.pt")["w"].zero_()
    assert (tmp_path / "x.pt").read_bytes() == before


def test_a_wrong_preset_name_suggests_the_right_one(tmp_path: Path) -> None:
    arguments = saved(tmp_path, {"generator": NET.weights})
    with pytest.raises(ConfigError, match="hifigan_v1"):
        trt_svc.load_vocoder(**{**arguments, "config": "hifigan_v11"})
    with pytest.raises(InputError, match="Did you mean 'hifigan'"):
        trt_svc.load_vocoder(**{**arguments, "family": "hifigann"})
