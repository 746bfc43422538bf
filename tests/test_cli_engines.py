"""build-engine, engines and precision-report as people use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from trt_svc.cli.main import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def said(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(autouse=True)
def engine_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path / "引擎"))
    return tmp_path / "引擎"


SHAPES = ("--frames", "1:32:64", "--batch", "1:1:2")


def test_build_engine_and_its_cache(engine_folder: Path, tmp_path: Path) -> None:
    result = run("build-engine", "demo", "--backend", "onnxruntime", *SHAPES)
    assert result.exit_code == 0, result.output
    for word in ("built now", "SNR", "MAE", "compiling for onnxruntime", "measuring quality", "frames 1:32:64"):
        assert word in result.output, word
    second = run("build-engine", "demo", "--backend", "onnxruntime", *SHAPES)
    assert "from the cache" in second.output
    assert "compiling" not in second.output
    listed = said("engines", "ls")["engines"]
    assert [e["backend"] for e in listed] == ["onnxruntime"]
    key = listed[0]["key"]
    assert key[:12] in run("engines", "ls").output
    assert said("engines", "show", key[:10])["key_sha256"] == key
    assert said("engines", "verify") == {"engines": {key: "sound"}, "bad": 0}
    archive = tmp_path / "声.zip"
    assert said("engines", "export", key, "-o", archive)["bytes"] == archive.stat().st_size
    assert said("engines", "prune", "--all") == {"deleted": [key], "kept": []}
    assert said("engines", "import", archive)["key"] == key
    assert said("build-engine", "demo", "--backend", "onnxruntime", *SHAPES)["cache_hit"] is True
    (next(engine_folder.glob(f"*/{key}")) / "model.onnx").write_bytes(b"noise")
    assert run("engines", "verify").exit_code == 2
    assert "model.onnx" in run("engines", "verify").output
    assert said("build-engine", "demo", "--backend", "onnxruntime", *SHAPES)["cache_hit"] is False


def test_build_engine_from_a_recipe_with_options_on_top(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("backend: openvino\nprecision: fp32\nframes: '1:16:32'\nbatch: 2\nrewrites: [fold-mean]\n")
    made = said("build-engine", "demo", "--recipe", recipe, "--batch", "1:1:3", "-o", tmp_path / "声.blob")
    assert made["backend"] == "openvino"
    assert made["profiles"] == ["frames 1:16:32, batch 1:1:3"]
    assert made["rewrites"] == ["fold-mean"]
    assert (tmp_path / "声.blob").stat().st_size == made["files"]["model.blob"]
    assert json.loads((tmp_path / "声.blob.json").read_text())["key_sha256"] == made["key"]
    assert said("build-engine", "demo", "--recipe", recipe, "--rewrites", "none")["rewrites"] == []


BAD = {
    "no such backend": (["demo", "--backend", "onxruntime"], "Did you mean 'onnxruntime'"),
    "not here": (["demo", "--backend", "tensorrt"], 'pip install "trt-svc[tensorrt]"'),
    "bf16": (["demo", "--precision", "bf16"], "40 dB"),
    "range": (["demo", "--frames", "9:1:1"], "must rise"),
    "gate": (["demo", "--backend", "onnxruntime", "--precision", "fp16", "--min-snr", "99", *SHAPES], "gate asks for 99"),
    "no checkpoint": (["nothing.pth"], "no such file"),
    "recipe": (["demo", "--recipe", "no.yaml"], "cannot be read"),
    "rewrite": (["demo", "--backend", "onnxruntime", "--rewrites", "fold"], "Did you mean"),
    "gpu": (["demo", "--backend", "tensorrt-rtx", "--gpu", "rtx4090"], "no such GPU generation"),
    "data centre": (["demo", "--backend", "tensorrt-rtx", "--gpu", "sm90", *SHAPES], "data-centre"),
    "output": (["demo", "--backend", "onnxruntime", *SHAPES, "-o", "/proc/x/engine"], "cannot be created there"),
}  # fmt: skip


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_bad_calls_of_build_engine(name: str, as_json: bool) -> None:
    words, message = BAD[name]
    result = run("build-engine", *words, *(["--json"] if as_json else []))
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    text = " ".join(json.loads(result.stdout).values()) if as_json else result.output
    assert message in " ".join(text.split())


@pytest.mark.parametrize(
    "words", [["show", "abc"], ["verify", "abc"], ["export", "abc", "-o", "x.zip"], ["import", "no.zip"]]
)
def test_bad_calls_of_engines(words: list[str]) -> None:
    result = run("engines", *words)
    assert result.exit_code == 2
    assert "EngineError" in result.output


def test_an_empty_cache() -> None:
    assert said("engines", "ls")["engines"] == []
    assert said("engines", "verify") == {"engines": {}, "bad": 0}
    assert said("engines", "prune") == {"deleted": [], "kept": []}


def test_precision_report_writes_a_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "protected.yaml"
    result = run("precision-report", "demo", "--frames", "8", "--target", "75", "--top", "3", "-o", recipe)
    assert result.exit_code == 0, result.output
    for word in ("layer alone in fp16", "rounding one layer at a time", "float32 for"):
        assert word in result.output, word
    keys = yaml.safe_load(recipe.read_text())
    assert keys["precision"] == "fp16" and keys["protected"]
    made = said("build-engine", "demo", "--backend", "onnxruntime", "--recipe", recipe, *SHAPES)
    assert made["precision"]["protected"] == keys["protected"]


def test_precision_report_on_a_file_that_is_no_audio(tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"no")
    result = run("precision-report", "demo", "-r", tmp_path / "x.wav")
    assert result.exit_code == 2
    assert "AudioFileError" in result.output
