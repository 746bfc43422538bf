"""A race from the command to its report: files, schema, errors, interruption."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from trt_svc.bench.listen import slug
from trt_svc.bench.publish import publish
from trt_svc.bench.recipe import NetworkCase, Recipe
from trt_svc.bench.report import MARKDOWN, PAGE, REPORT, read_report
from trt_svc.bench.run import run_recipe
from trt_svc.checkpoints.locate import DEMO_FOLDER
from trt_svc.cli.main import app
from trt_svc.errors import BackendUnavailable, CheckpointError, InputError
from trt_svc.progress import Quiet

RUNNER = CliRunner()
LENIENT = {"max_spread": 1e6, "peak_slack": 1e6, "min_rounds": 3, "max_rounds": 3, "listen_s": 0.5, "judge": False}
"""Nothing is refused for being unsteady: these machines are shared."""


@pytest.fixture(scope="module", autouse=True)
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path_factory.mktemp("engines")))
        yield


def recipe(*networks: str, **changes: Any) -> Recipe:
    cases = tuple(NetworkCase(network=name, frames=(24,)) for name in networks)
    return Recipe(**{**LENIENT, "networks": cases, "contenders": ("onnxruntime",), "device": "cpu", **changes})


@pytest.fixture(scope="module")
def raced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    cases = (NetworkCase(network="demo", frames=(24, 40), batch=(1, 2)),)
    publish(run_recipe(recipe(networks=cases, listen_s=1.2, judge=True), folder, "a command"), folder)
    return folder


def test_a_report_is_whole(raced: Path) -> None:
    report = read_report(raced)
    assert {(cell.frames, cell.batch) for cell in report.cells} == {(24, 1), (40, 1), (24, 2), (40, 2)}
    for cell in report.cells:
        assert {row.contender for row in cell.rows} == {"torch", "onnxruntime"}
        assert all(row.status == "measured" and row.latency is not None for row in cell.rows)
        assert all(row.waveform is not None and row.waveform.snr_db > 90 for row in cell.rows)
        assert cell.audio_s == pytest.approx(cell.batch * cell.frames * 512 / 44100)
    origin = report.provenance
    assert origin.command == "a command"
    assert origin.packages["torch"] and origin.cores and origin.created
    (network,) = report.networks
    assert network.trained and len(network.weights_sha256) == 64
    for name in (network.reference, network.recording, network.listening[0].audio):
        assert name is not None and (raced / name).stat().st_size > 1000
    assert (raced / MARKDOWN).read_text("utf-8").startswith("#")
    assert "<audio" in (raced / PAGE).read_text("utf-8")


def test_every_metric_answers_for_a_trained_voice(raced: Path) -> None:
    (heard,) = read_report(raced).networks[0].listening
    assert not heard.notes
    assert heard.metrics["pesq_wb"] == pytest.approx(4.64, abs=0.01)
    assert heard.metrics["vuv_f1"] == pytest.approx(1.0, abs=0.01)
    assert heard.metrics["mel_l1"] is not None and heard.metrics["mel_l1"] < 1e-4


def test_the_same_engine_is_found_again(raced: Path, tmp_path: Path) -> None:
    again = run_recipe(recipe("demo"), tmp_path)
    row = next(row for row in again.cells[0].rows if row.contender == "onnxruntime")
    first = next(row for row in read_report(raced).cells[0].rows if row.contender == "onnxruntime")
    assert row.opening.from_cache
    assert row.opening.engine_key == first.opening.engine_key


def test_ctrl_c_keeps_what_was_finished(tmp_path: Path) -> None:
    class Impatient(Quiet):
        def stage(self, name: str) -> None:
            if name.startswith("hifigan_v3: opening"):
                raise KeyboardInterrupt

    report = run_recipe(recipe("demo", "hifigan_v3"), tmp_path, progress=Impatient())
    assert report.stopped
    assert [network.name for network in report.networks] == ["demo"]
    assert read_report(tmp_path).networks[0].name == "demo"


def test_ctrl_c_inside_a_network_keeps_its_finished_shapes(tmp_path: Path) -> None:
    class Impatient(Quiet):
        def stage(self, name: str) -> None:
            if "40 frames" in name:
                raise KeyboardInterrupt

    cases = (NetworkCase(network="demo", frames=(24, 40)),)
    report = run_recipe(recipe(networks=cases), tmp_path, progress=Impatient())
    publish(report, tmp_path)
    assert report.stopped
    assert [cell.frames for cell in read_report(tmp_path).cells] == [24]
    assert (tmp_path / PAGE).exists()


def test_ctrl_c_before_anything_is_finished_leaves_nothing(tmp_path: Path) -> None:
    class Impatient(Quiet):
        def stage(self, name: str) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe("demo"), tmp_path / "report", progress=Impatient())
    assert not (tmp_path / "report" / REPORT).exists()


def test_a_network_listed_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="twice"):
        run_recipe(recipe("demo", "demo"), tmp_path)


def test_a_network_that_cannot_be_opened_does_not_end_the_race(tmp_path: Path) -> None:
    (tmp_path / "broken.pth").write_bytes(b"no weights at all")
    report = run_recipe(recipe(str(tmp_path / "broken.pth"), "demo"), tmp_path / "report")
    assert [network.name for network in report.networks] == ["demo"]
    assert any(left.network is not None and "broken" in left.network for left in report.left_out)
    with pytest.raises(CheckpointError):
        run_recipe(recipe(str(tmp_path / "broken.pth")), tmp_path / "other")


def test_two_voices_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        shutil.copytree(DEMO_FOLDER, tmp_path / folder / "voice")
    report = run_recipe(recipe(str(tmp_path / "a" / "voice"), str(tmp_path / "b" / "voice")), tmp_path / "report")
    assert [network.name for network in report.networks] == ["voice/model", "b/voice/model"]


def test_file_names_fit_into_a_folder() -> None:
    long = [slug("声" * 200 + end) for end in "ab"]
    assert len(set(long)) == 2
    assert all(len(name.encode()) < 120 for name in long)
    assert "/" not in slug("../../escaped") and slug("../..") == "network"


def test_a_race_on_a_gpu_needs_one(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(BackendUnavailable, match="dry-run"):
        run_recipe(recipe("demo", device="cuda"), tmp_path)


def test_without_the_packages_of_the_page_the_figures_are_kept(
    raced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    note = publish(read_report(raced), tmp_path)
    assert "trt-svc[bench]" in note
    assert read_report(tmp_path) == read_report(raced)
    assert (tmp_path / MARKDOWN).exists() and not (tmp_path / PAGE).exists()


# The command.


def test_the_command_writes_a_report_of_a_chinese_checkpoint(tmp_path: Path) -> None:
    voice = tmp_path / "歌声 [1]"
    shutil.copytree(DEMO_FOLDER, voice)
    words = ["bench", str(voice), "--frames", "24", "--backend", "onnxruntime", "--rounds", "3", "--no-judge"]
    done = RUNNER.invoke(app, [*words, "-o", str(tmp_path / "报告")])
    assert done.exit_code == 0, done.output
    report = read_report(tmp_path / "报告")
    assert report.networks[0].name == "歌声 [1]/model"
    assert "歌声" in (tmp_path / "报告" / PAGE).read_text("utf-8")
    assert report.provenance.commit is None or len(report.provenance.commit) == 40


def test_json_is_the_report(tmp_path: Path) -> None:
    words = ["bench", "run", "demo", "--frames", "24", "--backend", "torch", "--rounds", "2", "--no-judge", "--json"]
    done = RUNNER.invoke(app, [*words, "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["schema"] == "trt_svc.bench/1"
    assert found["cells"][0]["frames"] == 24


def test_a_dry_run_races_nothing(tmp_path: Path) -> None:
    done = RUNNER.invoke(app, ["bench", "--recipe", "gpu", "--dry-run", "--json", "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    plan = json.loads(done.stdout)
    assert {network["network"] for network in plan["networks"]} >= {"hifigan_v1", "waveglow_256"}
    assert plan["left_out"]
    assert [path.name for path in tmp_path.iterdir()] == ["plan.md"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing was named"),
        (["--recipe", "quik"], "quick"),
        (["demo", "--frames", "many"], "no list of numbers"),
        (["demo", "--frames", "0"], "frames"),
        (["demo", "--backend", "openvio"], "openvino"),
        (["demo", "--listen", "nowhere.wav"], "no such file"),
        (["nowhere.pth"], "nowhere.pth"),
        (["demo", "--precision", "fp7"], "fp7"),
        (["demo", "--frames", "20", "--seconds", "1"], "not both"),
        (["demo", "--device", "tpu"], "device"),
        (["demo", "--budget", "inf"], "budget_s"),
        (["demo", "--forms", ""], "forms"),
        (["demo", "--backend", ""], "contenders"),
        (["demo", "--device", "cuda"], "dry-run"),
    ],
)
def test_wrong_words_end_in_a_sentence(words: list[str], said: str, tmp_path: Path) -> None:
    done = RUNNER.invoke(app, ["bench", "run", *words, "-o", str(tmp_path / "report")])
    assert done.exit_code == 2, done.output
    assert said in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert not (tmp_path / "report").exists()
