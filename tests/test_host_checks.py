"""The checks that real hosts go through find what is wrong, and what is not there."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.hosts import run_all, table
from benchmarks.hosts.check import checked, commit_of, raced
from benchmarks.hosts.play import played, scenes_of
from benchmarks.hosts.report import CHECKS, HostResult, HostsReport, Lap, Left, SceneCheck, read, write
from benchmarks.hosts.scene import NotThere, Scene, level, log_mel_like
from tests import bench_reports
from tests.hosts.hifigan_double import BANDS, V3, AttrDict, Generator
from trt_svc.bench.report import Provenance

MEL = log_mel_like(BANDS, 12)


@pytest.fixture(autouse=True)
def _own_engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path / "engines"))


def generator(kind: Any = Generator) -> Any:
    torch.manual_seed(0)
    made = kind(AttrDict(V3))
    level(made, lambda: made(MEL))
    return made.eval()


def sing(made: Any, gain: float = 1.0) -> Any:
    @torch.no_grad()
    def call() -> np.ndarray[Any, Any]:
        return gain * made(MEL).squeeze().numpy()

    return call


def scene(made: Any, **changes: Any) -> Scene:
    return Scene(**{"name": "a scene", "obj": made, "sing": sing(made), "vocoder": made} | changes)


def test_a_scene_that_is_as_it_should_be() -> None:
    found = checked(scene(generator()), "torch", "fp32")
    assert found.problems == ()
    assert found.repeatable and found.restored and found.engine_calls == 1
    assert found.first_db == float("inf")
    assert found.engine_db is not None and found.engine_db >= 90


def test_a_scene_in_which_no_engine_runs() -> None:
    class TwoOutputs(Generator):
        def forward(self, x: torch.Tensor) -> Any:
            return (super().forward(x),)

    made = generator(TwoOutputs)

    @torch.no_grad()
    def call() -> np.ndarray[Any, Any]:
        return made(MEL)[0].squeeze().numpy()

    found = checked(scene(made, sing=call), "torch", "fp32")
    assert any("no engine ran" in problem for problem in found.problems)
    assert any("the host answered itself" in problem for problem in found.problems)


def test_silence_proves_nothing() -> None:
    made = generator()
    found = checked(scene(made, sing=sing(made, 1e-4)), "torch", "fp32")
    assert any("no audio to compare" in problem for problem in found.problems)


def test_a_host_that_does_not_come_back() -> None:
    made = generator()
    calls = iter(range(100))

    @torch.no_grad()
    def call() -> np.ndarray[Any, Any]:
        return (1.0 if next(calls) < 4 else 0.9) * made(MEL).squeeze().numpy()

    found = checked(scene(made, sing=call), "torch", "fp32")
    assert found.repeatable and not found.restored
    assert "restore did not bring back the host's own audio" in found.problems


def test_a_reload_is_heard_with_what_was_loaded() -> None:
    made = generator()

    def reload() -> None:
        with torch.no_grad():
            made.conv_pre.weight_g.mul_(0.5)

    found = checked(scene(made, after_reload=reload), "torch", "fp32")
    assert found.problems == ()
    assert found.reload_db is not None and found.reload_db >= 90


def test_a_race_gives_both_times() -> None:
    (lap,) = raced(scene(generator()), "torch", "fp32", rounds=2)
    assert isinstance(lap, Lap)
    assert lap.host_s > 0 and lap.engine_s > 0 and lap.rounds == 2 and lap.snr_db >= 90
    assert lap.audio_samples == MEL.shape[-1] * 256


def test_what_a_host_needs_and_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotThere, match="no folder elsewhere"):
        list(scenes_of("hifigan", tmp_path / "elsewhere"))
    from benchmarks.hosts import hifigan

    monkeypatch.setattr(hifigan, "PACKAGES", ("no_such_package_anywhere",), raising=False)
    with pytest.raises(NotThere, match="no_such_package_anywhere"):
        list(scenes_of("hifigan", tmp_path))


def test_the_second_audio_is_kept() -> None:
    calls = iter(range(10))
    heard = played(iter([Scene("one", None, lambda: {"x": np.full(3, next(calls)), "y": np.zeros(2)})]))
    assert heard.keys() == {"one: x", "one: y"}
    assert heard["one: x"].tolist() == [1, 1, 1]


def test_every_driver_is_found_with_its_folder() -> None:
    found = dict(run_all.drivers())
    assert found["bigvgan"] == "BigVGAN" and found["hifigan"] == "hifi-gan"
    assert not {"scene", "check", "play", "run_all", "table", "report"} & found.keys()
    with pytest.raises(SystemExit, match="no driver"):
        list(run_all.drivers(["nobody"]))


def saved(path: Path, **heard: Any) -> Path:
    np.savez(path, **heard)
    return path


def test_two_processes_are_compared(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    audio = rng.normal(0, 0.2, 100).astype(np.float32)
    plain = saved(tmp_path / "plain.npz", **{"one: audio": audio, "two: audio": audio, "three: audio": audio})
    near = audio + np.float32(1e-6) * rng.normal(0, 1, 100).astype(np.float32)
    faster = saved(tmp_path / "faster.npz", **{"one: audio": near, "two: audio": audio})
    scenes = [SceneCheck(scene=name) for name in ("one", "two", "three")]
    one, two, three = run_all.compare(scenes, plain, faster)
    assert one.problems == () and one.run_db is not None and 90 <= one.run_db < 200
    assert "no engine ran" in two.problems[0]
    assert three.run_db == float("-inf") and three.problems


def test_no_host_at_all_is_no_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hosts").mkdir()
    output = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["run_all", "--hosts", str(tmp_path / "hosts"), "-o", str(output)])
    assert run_all.main() == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "hifi-gan: not there no folder hifi-gan" in said
    assert "nothing was checked" in said
    assert not output.exists()


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    assert commit_of(tmp_path) == "unknown"
    (tmp_path / ".commit").write_text("abc\n")
    assert commit_of(tmp_path) == "abc"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    clean = commit_of(tmp_path)
    assert len(clean) == 40
    (tmp_path / ".commit").write_text("changed\n")
    assert commit_of(tmp_path) == f"{clean}, changed"


def provenance() -> Provenance:
    return bench_reports.small_report().provenance


def test_tables_say_what_was_found(tmp_path: Path) -> None:
    passed = SceneCheck(scene="a|b", repeatable=True, engine_db=120.4, run_db=101.0, restored=True)
    odd = SceneCheck(scene="c", repeatable=False, engine_db=95.0, restored=True)
    lap = Lap(scene="s", place="dec", audio_samples=9, host_s=0.3, engine_s=0.1, rounds=2, snr_db=99.0, engine="ort")
    left = Left(scene="t", place="dec", reason="the host's own is faster")
    hosts = (
        HostResult(driver="x", repository="X", commit="0123456789abcdef", status="passed", scenes=(passed, odd)),
        HostResult(driver="y", repository="Y", status="not there", reason="no folder Y"),
        HostResult(driver="z", repository="Z", status="passed", laps=(lap,), left=(left,)),
    )
    report = HostsReport(provenance=provenance(), hosts=hosts)
    write(tmp_path / "r.json", report)
    assert read(tmp_path / "r.json") == report
    checks = table.check_rows(report)
    assert checks[0] == ["X", "0123456789", "a|b", "120 dB", "–", "101 dB", "identical"]
    assert checks[1][-1].startswith(">= 90 dB")
    assert checks[2][2] == "not there: no folder Y"
    assert r"a\|b" in table.checks_page(report)
    speed = table.speed_rows(report)
    assert ["Z", "s", "dec", "300 ms", "100 ms", "3.00x", "99.0 dB", "ort"] in speed
    assert speed[-1][-1] == "left to the host: the host's own is faster"


def test_the_committed_reports_are_of_every_host() -> None:
    found = {path.name: read(path) for path in table.FOLDER.glob("*.json")}
    assert CHECKS in found
    for name, report in found.items():
        assert [(host.driver, host.repository) for host in report.hosts] == list(run_all.drivers())
        assert {host.status for host in report.hosts} == {"passed"}
        assert all(re.fullmatch(r"[0-9a-f]{40}", host.commit) for host in report.hosts)  # and none of them changed
        assert report.provenance.commit
        for host in report.hosts:
            assert host.scenes if name == CHECKS else host.laps or host.left
            assert all(scene.run_db is not None and not scene.problems for scene in host.scenes)


def test_what_is_not_measured_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "FOLDER", tmp_path)
    assert table.checks() == table.speed() == "Not measured yet.\n"
