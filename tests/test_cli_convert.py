"""`trt-svc convert`: so-vits-svc's command line, names of results, resuming, and what can be wrong with recordings."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner, Result

from tests.golden_svc import FOLDER, u
from tests.test_svc_encoders import fairseq_file
from trt_svc.cli import convert_run
from trt_svc.cli.console import INTERRUPTED
from trt_svc.cli.convert_jobs import Given, distinct_names, jobs, named_recordings, output_name, recordings_below
from trt_svc.cli.convert_journal import NAME as JOURNAL
from trt_svc.cli.convert_words import plain_words
from trt_svc.cli.main import app
from trt_svc.errors import InputError
from trt_svc.files import DIRECTORY_VARIABLE
from trt_svc.svc.conversion import Conversion
from trt_svc.svc.pipeline import SVCPipeline

RATE = 44100


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden voice, under a name with spaces, with a small content encoder of the real architecture."""
    root = tmp_path_factory.mktemp("models") / "我的 模型 🎤"
    shutil.copytree(FOLDER / "e2e", root, copy_function=shutil.copyfile)
    centres = {
        name: {"n_features_in_": 256, "cluster_centers_": u(name, (20, 256), 1) - 0.5} for name in ("alice", "bob")
    }
    torch.save(centres, root / "logs/44k/kmeans_10000.pt")
    fairseq_file(root / "pretrain/checkpoint_best_legacy_500.pt", layers=9, units=256)
    return root


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path / "engines"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


def song(seconds: float = 0.5, hz: float = 220.0) -> np.ndarray:
    t = np.arange(int(seconds * RATE)) / RATE
    return 0.15 * sum(np.sin(2 * np.pi * hz * h * t) / h for h in range(1, 12))


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "歌 1.wav"
    soundfile.write(path, song(), RATE)
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["convert", *[str(word) for word in words]])


def results() -> set[str]:
    """Everything that lies where results go, hidden leftovers too."""
    return (
        {path.name for path in Path("results").iterdir() if path.name != JOURNAL} if Path("results").exists() else set()
    )


# The command line.


@pytest.mark.parametrize(
    ("given", "plain"),
    [
        ("-n a b -t 0 -3 2.5 -s x", "-n a -n b -t 0 -t -3 -t 2.5 -s x"),
        ("m -n a -n b", "m -n a -n b"),
        ("--clean_names a b --wav_format wav", "--clean-names a --clean-names b --wav-format wav"),
        ("-t -3 -sd -50 -lg .5 -cl 30", "-t -3 -sd -50 -lg .5 -cl 30"),
        ("-n a_b --json -- -x_y", "-n a_b --json -- -x_y"),
        ("--k_step=5_0 -n", "--k-step=5_0 -n"),
        ("", ""),
    ],
)
def test_upstream_words(given: str, plain: str) -> None:
    assert plain_words(given.split()) == plain.split()


UPSTREAM = {
    "short": "-cl 30 -lg 0.5 -lgr 0.6 -cr 0.5 -fr -ft 0.1 -ns 0.3 -p 0.25 -sd -50 -lea 0.8 -shd -ks 30 -se -f0p dio"
    " -eak 3 -eh -wf wav -n a b.mp3 -t -3 2 -s x y",
    "long": "--clip 30 --linear_gradient 0.5 --linear_gradient_retain 0.6 --cluster_infer_ratio 0.5 --feature_retrieval"
    " --f0_filter_threshold 0.1 --noice_scale 0.3 --pad_seconds 0.25 --slice_db -50"
    " --loudness_envelope_adjustment 0.8 --shallow_diffusion --k_step 30 --second_encoding --f0_predictor dio"
    " --enhancer_adaptive_key 3 --enhance --wav_format wav --clean_names a b.mp3 --trans -3 2 --spk_list x y",
}  # fmt: skip


@pytest.fixture
def wanted_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[convert_run.Wanted, SVCPipeline]]:
    """What the command line asks for; nothing is converted."""
    seen: list[Any] = []

    def note(pipe: SVCPipeline, wanted: convert_run.Wanted, progress: object) -> list[convert_run.Outcome]:
        seen.append((wanted, pipe))
        return []

    monkeypatch.setattr(convert_run, "outcomes", note)

    def asked(words: str, *more: object) -> tuple[convert_run.Wanted, SVCPipeline]:
        result = run(*words.split(), *more)
        assert result.exit_code == 0, result.output
        return seen[-1]

    return asked


@pytest.mark.parametrize("form", UPSTREAM)
def test_every_flag_of_upstream(form: str, model: Path, wanted_of: Any) -> None:
    wanted, _ = wanted_of(UPSTREAM[form], "-m", model)
    assert (wanted.names, wanted.transpositions, wanted.speakers) == (["a", "b.mp3"], [-3, 2], ["x", "y"])
    assert (wanted.kind, wanted.output_dir, wanted.resume) == ("wav", Path("results"), False)
    # -eh is switched off by -shd, as upstream does.
    assert wanted.options == Conversion(
        clip_s=30, overlap_s=0.5, fade_share=0.6, cluster_ratio=0.5, retrieval=True, f0_threshold=0.1, noise_scale=0.3,
        padding_s=0.25, slice_db=-50, loudness_share=0.8, diffusion="shallow", k_step=30, second_encoding=True,
        f0="dio", enhancer_key=3, enhance=False,
    )  # fmt: skip


def test_what_is_not_given(model: Path, wanted_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(model)
    wanted, pipe = wanted_of("-n a")
    assert wanted.options == Conversion()
    assert pipe.model.files.voice == model / "logs/44k/G_0.pth"
    assert wanted.transpositions == [0]


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ("-od", {"diffusion": "only"}),
        ("-od -shd -se", {"diffusion": "only"}),
        ("-a", {"auto_f0": True}),
        ("--auto_predict_f0", {"auto_f0": True}),
        ("-eh -eak -2", {"enhance": True, "enhancer_key": -2}),
        ("-shd --sampler ddim --speedup 5", {"diffusion": "shallow", "sampler": "ddim", "speedup": 5}),
        ("--seed 7 --noise-scale 0", {"seed": 7, "noise_scale": 0}),
    ],
)
def test_other_flags(words: str, changed: dict[str, Any], model: Path, wanted_of: Any) -> None:
    assert wanted_of(f"{words} -n a", "-m", model)[0].options == replace(Conversion(), **changed)


def test_files_of_the_model_given_by_name(model: Path, wanted_of: Any) -> None:
    logs = model / "logs/44k"
    _, pipe = wanted_of(
        "-n a -d cpu --compat so-vits-svc-4.1", "-m", logs / "G_0.pth", "-c", logs / "config.json", "-cm",
        logs / "kmeans_10000.pt", "-dm", logs / "diffusion/model_0.pt", "-dc", logs / "diffusion/config.yaml",
    )  # fmt: skip
    files = pipe.model.files
    assert pipe.model.compat
    assert (files.voice, files.clusters) == (logs / "G_0.pth", logs / "kmeans_10000.pt")
    assert files.diffusion_config == logs / "diffusion/config.yaml"


IDLE = {
    "-ks 50": "-ks: there is no diffusion",
    "-od -ks 50": "-ks: -od starts from noise",
    "-od -shd": "-shd: -od replaces it",
    "-shd -eh": "-eh: it is switched off",
    "-eak 2": "-eak: there is no enhancer",
    "-lg 0.1": "-lg: pieces only overlap",
    "-cl 5 -lgr 0.5": "-lgr: there is no overlap",
    "-fr": "-fr: the ratio (-cr) is 0",
    "-f0p dio -ft 0.5": "-ft: dio has no threshold",
}


@pytest.mark.parametrize("words", IDLE)
def test_options_without_effect_are_told(words: str, model: Path, wanted_of: Any) -> None:
    result = run(*words.split(), "-n", "a", "-m", model)
    assert IDLE[words] in " ".join(result.stderr.split())


def test_options_with_an_effect_are_not(model: Path, wanted_of: Any) -> None:
    words = UPSTREAM["short"].replace(" -eak 3 -eh", "").replace("-f0p dio", "-f0p crepe")
    assert "no effect" not in run(*words.split(), "-m", model).stderr


# Names.


def test_output_names_are_those_of_upstream() -> None:
    plain = Conversion(transpose=-3)
    assert output_name("a.wav", "nen", plain, "flac", "pm") == "a.wav_-3key_nen_sovits_pm.flac"
    shallow = Conversion(diffusion="shallow", cluster_ratio=0.5, transpose=12)
    assert output_name("歌", "nen", shallow, "wav", "rmvpe") == "歌_12key_nen_0.5_sovdiff_rmvpe.wav"
    assert output_name("a", "spk_mix", Conversion(diffusion="only"), "ogg", "pm") == "a_0key_spk_mix_diff_pm.ogg"
    assert output_name("a", "x/../y", Conversion(auto_f0=True), "mp3", "pm") == "a_auto_x_.._y_sovits_pm.mp3"


def test_files_of_one_name_do_not_overwrite_each_other() -> None:
    paths = ["x/a.wav", "y/a.wav", "z/A.wav", "a_2.wav", "x/a.wav"]
    names = [given.name for given in distinct_names([Given(Path(path).name, Path(path)) for path in paths])]
    assert names == ["a.wav", "a_3.wav", "A_4.wav", "a_2.wav", "a.wav"]


def test_every_recording_by_every_speaker_at_its_transposition() -> None:
    given = [Given("a", Path("a.wav")), Given("b", Path("b.wav")), Given("c", Path("c.wav"))]
    made = jobs(given, [2, -1], {"x": "x", "0": 0}, Conversion(), Path("out"), "wav", "pm")
    assert [(job.source.stem, job.options.transpose, job.options.speaker) for job in made] == [
        ("a", 2, "x"), ("a", 2, 0), ("b", -1, "x"), ("b", -1, 0), ("c", 2, "x"), ("c", 2, 0),
    ]  # fmt: skip
    assert len({job.output for job in made}) == 6
    alike = jobs(given[:1], [0], {"x/y": "x/y", "x_y": "x_y"}, Conversion(), Path("out"), "wav", "pm")
    assert len({job.output for job in alike}) == 2
    twice = jobs([given[0], given[0]], [0, 0], {"x": "x"}, Conversion(), Path("out"), "wav", "pm")
    assert len(twice) == 1


def test_where_recordings_are_looked_for(tmp_path: Path) -> None:
    root = tmp_path / "svc"
    for place in ("raw/both.wav", "both.wav", "here.flac", "sub/deep.wav", str(root / "raw/there.wav")):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Path(place).write_bytes(b"")
    names = ["both", "both.wav", "here.flac", "sub/deep", "there", "nowhere"]
    found = named_recordings(names, root)
    assert [str(given.path) for given in found] == [
        "raw/both.wav", "raw/both.wav", "here.flac", "sub/deep.wav", str(root / "raw/there.wav"), "nowhere.wav",
    ]  # fmt: skip
    assert [given.name for given in found] == ["both", "both.wav", "here.flac", "deep", "there", "nowhere"]


def test_a_folder_of_recordings_without_its_results(tmp_path: Path) -> None:
    for place in ("b.WAV", "a/c.mp3", "results/d.flac", "notes.txt", ".hidden.wav"):
        (tmp_path / "in" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / place).write_bytes(b"")
    found = recordings_below(tmp_path / "in", tmp_path / "in/results")
    assert [given.name for given in found] == ["c.mp3", "b.WAV"]
    with pytest.raises(InputError, match="no recordings"):
        recordings_below(tmp_path / "in/results/..", tmp_path / "in/results/../..")


def test_results_beside_the_recordings_are_not_converted_again(model: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", song(0.2), RATE)
    for expected in ("converted", "kept"):
        call = (model, "--batch-dir", tmp_path, "-o", tmp_path, "-s", "bob", "-f0p", "dio", "--resume")
        assert statuses(*call) == [expected]


# Converting.


def test_the_command_makes_what_the_pipeline_makes(model: Path, recording: Path) -> None:
    words = "-s bob -t -3 -f0p dio -cl 0.2 -lg 0.05 -lgr 0.5 -p 0.1 -lea 0.5 -ns 0.2 -cr 0.5 -shd -ks 20 -se --seed 3"
    result = run(model, "-n", recording, *words.split(), "-wf", "wav", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert results() == {"歌 1.wav_-3key_bob_0.5_sovdiff_dio.wav"}
    made, rate = soundfile.read(Path("results") / next(iter(results())))
    expected = SVCPipeline.from_pretrained(model)(
        recording, speaker="bob", transpose=-3.0, f0="dio", clip_s=0.2, overlap_s=0.05, fade_share=0.5, padding_s=0.1,
        loudness_share=0.5, noise_scale=0.2, cluster_ratio=0.5, diffusion="shallow", k_step=20, second_encoding=True,
        seed=3,
    )  # fmt: skip
    np.testing.assert_allclose(made, np.clip(expected, -1, 1), atol=2**-22)
    told = report["files"][0]
    assert (told["status"], told["speaker"], told["sample_rate"]) == ("converted", "bob", rate)
    assert told["slices"] == 3
    assert {"content encoder", "f0 (dio)", "cluster mixing", "diffusion", "vocoder"} <= {
        s["name"] for s in told["stages"]
    }
    assert report["failed"] == 0


def test_a_mix_of_speakers(model: Path, recording: Path, tmp_path: Path) -> None:
    (tmp_path / "mix.json").write_text(json.dumps({"alice": [[0, 1, 1, 0]], "bob": [[0, 1, 0, 1]]}))
    result = run(model, "-n", recording, "-usm", "--mix", tmp_path / "mix.json", "-f0p", "dio")
    assert result.exit_code == 0, result.output
    assert results() == {"歌 1.wav_0key_spk_mix_sovits_dio.flac"}
    for text, message in (
        ("[1]", "holds a list"),
        ("{", "cannot be read"),
        ('{"dave": [[0,1,1,1]]}', "none of that name"),
    ):
        (tmp_path / "mix.json").write_text(text)
        refused = run(model, "-n", recording, "--mix", tmp_path / "mix.json", "-f0p", "dio", "-wf", "ogg")
        assert refused.exit_code == 2
        assert message in " ".join(refused.output.split())
    assert len(results()) == 1


def test_the_tables(model: Path, recording: Path) -> None:
    result = run(model, "-n", recording, recording, "-s", "alice", "bob", "-f0p", "dio")
    assert result.exit_code == 0, result.output
    for word in ("0key_alice_sovits", "0key_bob_sovits", "voice encoder", "decoder", "torch fp32", "share", "RTF"):
        assert word in result.stdout, word
    assert "2/2 歌 1.wav, bob: converting" in result.stderr


def test_a_bad_recording_does_not_stop_the_others(model: Path, recording: Path, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound at all")
    result = run(model, "-n", tmp_path / "text.wav", "gone", recording, "-s", "bob", "-f0p", "dio", "--json")
    assert result.exit_code == 2
    report = json.loads(result.stdout)
    assert [told["status"] for told in report["files"]] == ["failed", "failed", "converted"]
    assert "cannot be decoded" in report["files"][0]["error"]["found"]
    assert "raw/" in report["files"][1]["error"]["found"]
    assert report["failed"] == 2
    assert results() == {"歌 1.wav_0key_bob_sovits_dio.flac"}


def test_a_bug_with_one_recording_does_not_stop_the_others(
    model: Path, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = SVCPipeline.convert_file

    def broken(pipe: SVCPipeline, source: Path, *rest: Any) -> Any:
        if source.name == "bad.wav":
            raise ZeroDivisionError("oops")
        return convert(pipe, source, *rest)

    monkeypatch.setattr(SVCPipeline, "convert_file", broken)
    shutil.copyfile(recording, tmp_path / "bad.wav")
    result = run(model, "-n", tmp_path / "bad.wav", recording, "-s", "bob", "-f0p", "dio")
    assert result.exit_code == 2
    assert "InternalError" in result.stderr
    assert "ZeroDivisionError: oops" in result.stderr
    assert len(results()) == 1


# Resuming.


def statuses(*words: object) -> list[str]:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return [told["status"] for told in json.loads(result.stdout)["files"]]


def test_resuming_keeps_what_would_come_out_the_same(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "album"
    for name in ("x/a.wav", "y/a.wav"):
        (folder / name).parent.mkdir(parents=True)
        soundfile.write(folder / name, song(0.3), RATE)
    call = (model, "--batch-dir", folder, "-o", folder / "out", "-s", "bob", "-f0p", "dio", "-wf", "wav")
    assert statuses(*call, "--resume") == ["converted", "converted"]
    made = {path.name for path in (folder / "out").iterdir()}
    assert made == {"a.wav_0key_bob_sovits_dio.wav", "a_2.wav_0key_bob_sovits_dio.wav", JOURNAL}
    assert statuses(*call, "--resume") == ["kept", "kept"]
    assert statuses(*call, "--resume", "-ns", "0.1") == ["converted", "converted"]
    assert statuses(*call, "-ns", "0.1") == ["converted", "converted"]
    os.utime(folder / "x/a.wav", ns=(1, 1))
    assert statuses(*call, "--resume", "-ns", "0.1") == ["converted", "kept"]
    (folder / "out/a_2.wav_0key_bob_sovits_dio.wav").write_bytes(b"something else")
    assert statuses(*call, "--resume", "-ns", "0.1") == ["kept", "converted"]


@pytest.mark.parametrize("journal", ["[]", "{", None])
def test_without_a_journal_nothing_is_kept(journal: str | None, model: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "song.wav", song(0.2), RATE)
    Path("results").mkdir()
    Path("results/song.wav_0key_bob_sovits_dio.flac").write_bytes(b"old")
    if journal is not None:
        (Path("results") / JOURNAL).write_text(journal)
    call = (model, "-n", tmp_path / "song.wav", "-s", "bob", "-f0p", "dio", "--resume")
    assert statuses(*call) == ["converted"]
    assert statuses(*call) == ["kept"]


def test_a_run_that_was_stopped_goes_on(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        soundfile.write(tmp_path / f"{name}.wav", song(0.2), RATE)
    call = (model, "-n", tmp_path / "a.wav", tmp_path / "b.wav", "-s", "bob", "-f0p", "dio", "--resume")
    convert = SVCPipeline.convert_file

    def stopped(pipe: SVCPipeline, source: Path, *rest: Any) -> Any:
        if source.name == "b.wav":
            raise KeyboardInterrupt
        return convert(pipe, source, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(SVCPipeline, "convert_file", stopped)
        assert run(*call).exit_code == INTERRUPTED
    assert results() == {"a.wav_0key_bob_sovits_dio.flac"}
    assert statuses(*call) == ["kept", "converted"]


def test_another_model_is_noticed(model: Path, recording: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "m")
    call = ("-m", tmp_path / "m", "-n", recording, "-s", "bob", "-f0p", "dio", "--resume")
    assert statuses(*call) == ["converted"]
    os.utime(tmp_path / "m/logs/44k/diffusion/model_0.pt", ns=(1, 1))
    assert statuses(*call) == ["kept"]
    os.utime(tmp_path / "m/logs/44k/G_0.pth", ns=(1, 1))
    assert statuses(*call) == ["converted"]


# Recordings of all kinds.


def promising_three_hours(path: Path, audio: bytes = b"") -> None:
    size = 3 * 3600 * RATE * 2
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    path.write_bytes(b"RIFF" + struct.pack("<I", 36 + size) + b"WAVE" + fmt + b"data" + struct.pack("<I", size) + audio)


def written(audio: np.ndarray, rate: int = RATE, subtype: str = "PCM_16") -> Callable[[Path], None]:
    return lambda path: soundfile.write(path, audio, rate, subtype=subtype)


def with_nan() -> np.ndarray:
    audio = song()
    audio[100] = np.nan
    return audio


NOISE = np.random.default_rng(0).standard_normal(RATE // 2) * 0.1
USABLE = {
    "stereo at 96 kHz": (written(np.stack([song(), 0.5 * song()], 1), 96000, "PCM_24"), 22050 / 96000),
    "three hours promised": (lambda path: promising_three_hours(path, (song() * 32767).astype("<i2").tobytes()), 0.5),
    "8 bits": (written(song(), subtype="PCM_U8"), 0.5),
    "one sample": (written(np.array([0.5])), 1 / RATE),
    "noise": (written(NOISE), 0.5),
    "silence": (written(np.zeros(RATE // 2)), 0.5),
    "8 kHz": (written(song()[:4000], 8000), 0.5),
}
UNUSABLE = {
    "no samples": (written(np.zeros(0)), "holds no samples"),
    "NaN": (written(with_nan(), subtype="FLOAT"), "NaN"),
    "far too loud": (written(np.full(1000, 1e30), subtype="FLOAT"), "absurdly large"),
    "three hours promised, none there": (promising_three_hours, "holds no samples"),
    "text": (lambda path: path.write_text("This is no sound."), "cannot be decoded"),
    "an empty file": (lambda path: path.write_bytes(b""), "cannot be decoded"),
    "a folder": (lambda path: path.mkdir(), "folder"),
}


@pytest.mark.parametrize("case", USABLE)
def test_recordings_that_can_be_used(case: str, model: Path, tmp_path: Path) -> None:
    make, seconds = USABLE[case]
    make(tmp_path / "我的 歌 🎤 [x].wav")
    result = run(model, "-n", tmp_path / "我的 歌 🎤 [x].wav", "-s", "bob", "-f0p", "dio", "-wf", "wav")
    assert result.exit_code == 0, result.output
    assert results() == {"我的 歌 🎤 [x].wav_0key_bob_sovits_dio.wav"}
    made, rate = soundfile.read(Path("results") / next(iter(results())))
    assert rate == RATE
    assert len(made) == pytest.approx(seconds * RATE, abs=1)
    assert np.isfinite(made).all()
    assert (np.abs(made).max() > 0) == (case != "silence")


@pytest.mark.parametrize("case", UNUSABLE)
def test_recordings_that_cannot_be_used(case: str, model: Path, tmp_path: Path) -> None:
    make, message = UNUSABLE[case]
    make(tmp_path / "歌.wav")
    result = run(model, "-n", tmp_path / "歌.wav", "-s", "bob", "-f0p", "dio")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert results() == set()


# Models that do not fit.


def break_config(root: Path) -> None:
    path = root / "logs/44k/config.json"
    config = json.loads(path.read_text())
    config["model"]["n_layers"] = 5
    path.write_text(json.dumps(config))


BROKEN = {
    "no encoder": (lambda root: (root / "pretrain/checkpoint_best_legacy_500.pt").unlink(), "", "checkpoint_best_legacy"),
    "no clusters": (lambda root: (root / "logs/44k/kmeans_10000.pt").unlink(), "-cr 0.5", "kmeans_10000.pt"),
    "no index": (lambda root: None, "-cr 0.5 -fr", "feature_and_index.pkl"),
    "no vocoder": (lambda root: shutil.rmtree(root / "pretrain/nsf_hifigan"), "-shd", "nsf_hifigan"),
    "no diffusion": (lambda root: shutil.rmtree(root / "logs/44k/diffusion"), "-shd", "model_*.pt"),
    "no voice": (lambda root: (root / "logs/44k/G_0.pth").unlink(), "", "G_*.pth"),
    "config of another model": (break_config, "", "the config is that of another model"),
    "a damaged voice": (lambda root: (root / "logs/44k/G_0.pth").write_bytes(b"PK\3\4" + bytes(100)), "", "G_0.pth"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_models_that_do_not_fit_are_told_once(case: str, model: Path, recording: Path, tmp_path: Path) -> None:
    breaking, words, message = BROKEN[case]
    shutil.copytree(model, tmp_path / "m")
    breaking(tmp_path / "m")
    (tmp_path / "text.wav").write_text("no sound at all")
    shutil.copyfile(recording, tmp_path / "other.wav")
    names = (tmp_path / "text.wav", recording, tmp_path / "other.wav")
    result = run(tmp_path / "m", "-n", *names, "-s", "bob", "-f0p", "dio", *words.split())
    assert result.exit_code == 2
    text = " ".join(result.stderr.split())
    assert message in text
    assert text.count("AudioFileError") <= 1
    errors = ("CheckpointNotFound", "ConfigError", "WeightsMismatch", "CorruptCheckpoint")
    assert sum(text.count(error) for error in errors) == 1, text
    assert results() == set()


REFUSED = {
    "nothing to convert": ("", "no recording is given"),
    "no such folder": ("--batch-dir nope", "no such folder"),
    "no such model": ("-n REC -m nope -s bob", "no such file or folder"),
    "two models": ("MODEL -m nope -n REC", "two models"),
    "unknown speaker": ("MODEL -n REC -s dave -f0p dio", "Known: alice, bob, carol"),
    "no speaker": ("MODEL -n REC", "the model has 3: alice, bob, carol."),
    "unknown format": ("MODEL -n REC -s bob -wf aiff", "wav, flac, ogg, mp3"),
    "spkmix.py": ("MODEL -n REC -usm", "--mix"),
    "no such mix": ("MODEL -n REC --mix nope.json", "cannot be read"),
    "unknown pitch": ("MODEL -n REC -s bob -f0p rmvp", "Did you mean 'rmvpe'"),
    "unknown backend": ("MODEL -n REC -s bob --backend torhc", "Did you mean 'torch'"),
    "a ratio too large": ("MODEL -n REC -s bob -cr 2", "Use 0 to 1"),
    "a name too long": ("MODEL -n LONG -s bob -f0p dio", "longer than 255 bytes"),
}


@pytest.mark.parametrize(
    ("case", "as_json"), [*((case, False) for case in REFUSED), ("no speaker", True), ("a name too long", True)]
)
def test_refused(case: str, as_json: bool, model: Path, recording: Path, tmp_path: Path) -> None:
    words, message = REFUSED[case]
    long = tmp_path / f"{'歌' * 80}.wav"
    named = {"REC": str(recording), "MODEL": str(model), "LONG": str(long)}
    if "LONG" in words:
        shutil.copyfile(recording, long)
    result = run(*[named.get(word, word) for word in words.split()], *(["--json"] if as_json else []))
    assert result.exit_code == 2
    text = result.stdout if as_json else result.stderr
    if as_json:
        json.loads(result.stdout)
    assert message in " ".join(text.split())
    assert "Traceback" not in result.output
    assert results() == set()
