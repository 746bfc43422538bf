"""The command line as people use it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

from tests.golden import SUBSET, GoldenNet, upstream_checkpoint
from trt_svc.cli import console
from trt_svc.cli.main import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Two seconds of a stereo harmonic tone at 48 kHz under a name with spaces, Chinese and an emoji."""
    t = np.arange(96000) / 48000
    tone = sum(np.sin(2 * np.pi * 220 * h * t) / h for h in range(1, 20)) * 0.15
    path = tmp_path / "我的 歌 🎤.wav"
    soundfile.write(path, np.stack([tone, tone * 0.5], 1), 48000)
    return path


COMMANDS = [
    "",
    "doctor",
    "inspect",
    "convert-checkpoint",
    "vocode",
    "convert",
    "build-engine",
    "precision-report",
    "engines",
]
ENGINES = [f"engines {name}" for name in ("ls", "show", "verify", "prune", "export", "import")]


@pytest.mark.parametrize("command", COMMANDS + ENGINES)
def test_help(command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_version() -> None:
    assert run("--version").output.startswith("trt-svc ")


def test_doctor() -> None:
    assert run("doctor").exit_code == 0
    report = json.loads(run("doctor", "--json").output)
    assert {b["name"]: b["usable"] for b in report["backends"]}["torch"] is True
    for finding in report["backends"] + report["f0"]:
        assert finding["usable"] or finding["advice"], finding
    assert report["packages"]["torch"]


def test_inspect(tmp_path: Path) -> None:
    path = upstream_checkpoint(GoldenNet("sovits-dec-snake", SUBSET), tmp_path)
    text = run("inspect", path)
    assert text.exit_code == 0
    for word in (
        "sovits_dec",
        "44100 Hz",
        "frames left",
        "GFLOP",
        "complete",
        "speaker of 16",
        "2 tensors of other networks",
    ):
        assert word in text.output, word
    assert json.loads(run("inspect", path, "--json").output)["family"] == "sovits_dec"


def test_inspect_says_what_does_not_fit(tmp_path: Path) -> None:
    path = upstream_checkpoint(GoldenNet("hifigan-v3", SUBSET), tmp_path)
    config = {**GoldenNet("hifigan-v3", SUBSET).meta["config"], "resblock_kernel_sizes": [3, 5, 9]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = run("inspect", path)
    assert result.exit_code == 2
    assert "NOT USABLE" in result.output


def test_convert_checkpoint(tmp_path: Path) -> None:
    path = upstream_checkpoint(GoldenNet("hifigan-v3", SUBSET), tmp_path / "in")
    result = run("convert-checkpoint", path, "-o", tmp_path / "out dir", "--json")
    assert result.exit_code == 0
    assert Path(json.loads(result.output)["weights"]).is_file()
    again = run("convert-checkpoint", path, "-o", tmp_path / "out dir")
    assert again.exit_code == 2
    assert "--force" in again.output
    assert run("inspect", tmp_path / "out dir").exit_code == 0


def test_vocode_with_the_demo_voice(recording: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "结果.flac"
    result = run("vocode", recording, "-o", output, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    audio, rate = soundfile.read(output)
    assert (rate, audio.shape) == (44100, (88200, 2))
    assert report["rtf"] > 0
    assert 0.02 < np.abs(audio).max() <= 1.0


def pitch_of(path: Path) -> float:
    audio, rate = soundfile.read(path, always_2d=True)
    middle = audio[len(audio) // 4 : -len(audio) // 4, 0] * np.hanning(len(audio) - 2 * (len(audio) // 4))
    spectrum = np.abs(np.fft.rfft(middle, 1 << 19))
    freq = np.fft.rfftfreq(1 << 19, 1 / rate)
    candidates = np.arange(80, 600, 0.5)
    harmonics = [np.interp(candidates * h, freq, spectrum) for h in range(1, 6)]
    return float(candidates[np.argmax(np.sum(np.log(np.array(harmonics) + 1e-6), axis=0))])


@pytest.mark.parametrize(("key", "expected"), [(0, 220.0), (4, 277.2), (-5, 164.8)])
def test_vocode_changes_the_key(recording: Path, tmp_path: Path, key: float, expected: float) -> None:
    assert run("vocode", recording, "-o", tmp_path / "x.wav", "--key", key).exit_code == 0
    assert pitch_of(tmp_path / "x.wav") == pytest.approx(expected, rel=0.01)


def test_vocode_is_repeatable_and_follows_the_seed(recording: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert run("vocode", recording, "-o", tmp_path / f"{name}.wav", "--seed", seed, "--f0", "220").exit_code == 0
    a, b, c = (soundfile.read(tmp_path / f"{name}.wav")[0] for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_vocode_with_a_vocoder_without_pitch(recording: Path, tmp_path: Path) -> None:
    model = upstream_checkpoint(GoldenNet("hifigan-v3", SUBSET), tmp_path / "m")
    assert run("vocode", recording, "-o", tmp_path / "x.wav", "-m", model).exit_code == 0
    assert soundfile.info(tmp_path / "x.wav").samplerate == 22050


BAD = {
    "no such recording": (["vocode", "no.wav", "-o", "x.wav"], "no file"),
    "no such model": (["vocode", "REC", "-o", "x.wav", "-m", "nope"], "no such file, folder or alias"),
    "unknown suffix": (["vocode", "REC", "-o", "x.aiff2"], "no known format"),
    "onto itself": (["vocode", "REC", "-o", "REC"], "the input file itself"),
    "far too high": (["vocode", "REC", "-o", "x.wav", "--key", "99"], "outside -36..36"),
    "unknown pitch method": (["vocode", "REC", "-o", "x.wav", "--f0", "swiftf0"], "Did you mean 'swift-f0'"),
    "unknown backend": (["vocode", "REC", "-o", "x.wav", "--backend", "torhc"], "Did you mean 'torch'"),
    "a latent decoder": (["vocode", "REC", "-o", "x.wav", "-m", "DEC"], "cannot read a mel"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("as_json", [False, True])
def test_bad_calls(name: str, as_json: bool, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = recording.read_bytes()
    words, message = BAD[name]
    if "DEC" in words:
        upstream_checkpoint(GoldenNet("sovits-dec-mix", SUBSET), tmp_path / "DEC")
    result = run(*[str(recording) if w == "REC" else w for w in words], *(["--json"] if as_json else []))
    assert result.exit_code == 2
    text = json.loads(result.stdout)["found"] + json.loads(result.stdout)["advice"] if as_json else result.output
    assert message in " ".join(text.split())
    assert "Traceback" not in result.output
    assert recording.read_bytes() == before
    assert not (tmp_path / "x.wav").exists()


def test_a_bug_is_reported_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("[bold]oops")

    monkeypatch.delenv(console.DEBUG_VARIABLE, raising=False)
    monkeypatch.setattr("trt_svc.doctor.examine_machine", broken)
    result = run("doctor")
    assert result.exit_code == 1
    assert "ZeroDivisionError: [bold]oops" in result.output
    assert console.DEBUG_VARIABLE in result.output
    assert json.loads(run("doctor", "--json").stdout)["error"] == "InternalError"


def test_the_installed_command() -> None:
    command = [sys.executable, "-m", "trt_svc", "--version"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.startswith("trt-svc ")


def test_keeping_formants_without_a_pitch_input_is_refused(recording: Path, tmp_path: Path) -> None:
    model = upstream_checkpoint(GoldenNet("hifigan-v3", SUBSET), tmp_path / "m")
    result = run("vocode", recording, "-o", tmp_path / "x.wav", "-m", model, "--key", 3, "--keep-formants")
    assert result.exit_code == 2
    assert "no pitch input" in " ".join(result.output.split())


def test_brackets_in_names_are_not_markup(tmp_path: Path) -> None:
    result = run("vocode", tmp_path / "song[@click=x].wav", "-o", tmp_path / "x.wav")
    assert "song[@click=x].wav" in result.output


def test_one_sample(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "one.wav", np.array([0.5]), 192000)
    assert run("vocode", tmp_path / "one.wav", "-o", tmp_path / "x.wav").exit_code == 0
    assert soundfile.info(tmp_path / "x.wav").frames == 1
