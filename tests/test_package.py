"""Promises of the package itself: names, import time, and nothing heavy imported early."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import trt_svc
from trt_svc import errors

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "onnxruntime", "onnx", "numpy", "soundfile", "pydantic", "openvino", "tensorrt")


def test_public_names_exist() -> None:
    for name in trt_svc.__all__:
        assert getattr(trt_svc, name) is not None
    assert set(trt_svc.__all__) <= set(dir(trt_svc))
    with pytest.raises(AttributeError):
        _ = trt_svc.nothing  # type: ignore[attr-defined]


def _python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout


def test_import_brings_nothing_heavy() -> None:
    loaded = json.loads(_python("import json, sys, trt_svc; print(json.dumps(sorted(sys.modules)))"))
    assert not set(HEAVY) & set(loaded)


def test_help_brings_nothing_heavy() -> None:
    code = "import json, sys, trt_svc.cli.main; print(json.dumps(sorted(sys.modules)))"
    assert not {"torch", "onnxruntime", "onnx"} & set(json.loads(_python(code)))


def test_the_error_tree_is_drawn_as_it_is() -> None:
    drawn = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")
    defined = [
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.TrtSvcError)
    ]
    assert sorted(["TrtSvcError", *drawn]) == sorted(defined)
    for name in drawn:
        error = getattr(errors, name)("asked", "found", "advice")
        assert str(error) == "asked: found advice"
        assert error.as_dict()["error"] == name


def test_version_and_changelog_agree() -> None:
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert newest is not None
    assert newest[1] == trt_svc.__version__
    assert metadata.version("trt-svc") == trt_svc.__version__


def test_folders_that_must_be_there() -> None:
    for folder in ("trt_svc", "engines", "benchmarks", "configs", "notebooks", "tests"):
        assert (ROOT / folder).is_dir(), folder
