"""Look-ahead against fidelity: the curve, its JSON, its picture and its command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import trt_svc
from tests.nets import vocoder_of
from trt_svc import lookahead, optional
from trt_svc.audio import read_audio, write_audio
from trt_svc.cli.main import app
from trt_svc.difference import Difference
from trt_svc.errors import InputError, MissingExtra, OutputError
from trt_svc.lookahead import ClipCurve, LookaheadCurve, Point, draw, lookahead_curve
from trt_svc.sensitivity import RECORDINGS

FRAMES = 32
ROUNDING_DB = 1.0
PNG = b"\x89PNG\r\n\x1a\n"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def strict_json(text: str) -> Any:
    """JSON as the standard has it: without NaN and Infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module")
def demo() -> trt_svc.Vocoder:
    return trt_svc.load_vocoder("demo")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of the sung demo clip."""
    audio, rate = read_audio(RECORDINGS[0])
    return write_audio(tmp_path_factory.mktemp("sung") / "short.wav", audio[:, rate : 2 * rate], rate)


@pytest.fixture(scope="module")
def measured(demo: trt_svc.Vocoder) -> LookaheadCurve:
    return lookahead_curve(demo, frames=FRAMES)


def made_curve(snrs_db: Sequence[float], name: str = "x.wav") -> LookaheadCurve:
    """A curve that nobody measured."""
    found = [Difference(0.0 if snr == np.inf else 1e-4, 1e-3, 1e-2, snr) for snr in snrs_db]
    points = tuple(Point(k, 10.0 * k, d, d) for k, d in enumerate(found))
    exact = len(points) - 1
    return LookaheadCurve("hifigan", "torch", exact, 10.0 * exact, 5, 100.0, (ClipCurve(name, 50, points, 80.0),))


# Measuring.


def test_waiting_longer_is_closer_and_at_last_exact(demo: trt_svc.Vocoder, measured: LookaheadCurve) -> None:
    exact = demo.receptive_field[1]
    assert measured.exact_frames == exact
    assert [clip.name for clip in measured.clips] == ["sung.flac", "spoken.flac"]
    for points in (measured.worst, *(clip.points for clip in measured.clips)):
        assert [point.lookahead_frames for point in points] == list(range(exact + 1))
        for ratios in ([p.whole.snr_db for p in points], [p.seams.snr_db for p in points]):
            assert (np.diff(ratios) >= -ROUNDING_DB).all(), ratios
            assert ratios[0] < 40
            assert ratios[-1] > 100


def test_what_is_lost_is_lost_at_the_seams(measured: LookaheadCurve) -> None:
    for point in measured.worst[:-1]:
        assert point.seams.snr_db < point.whole.snr_db
        assert point.seams.max == point.whole.max


def test_latency_is_what_the_stream_says(demo: trt_svc.Vocoder, measured: LookaheadCurve) -> None:
    assert measured.block_frames == round(0.1 * demo.spec.frames_per_second)
    for point in measured.worst:
        assert point.latency_ms == pytest.approx(1000 * point.lookahead_frames * demo.spec.hop / demo.spec.sample_rate)


def test_the_worst_is_the_worst_of_the_recordings(measured: LookaheadCurve) -> None:
    for number, point in enumerate(measured.worst):
        assert point.whole.snr_db == min(clip.points[number].whole.snr_db for clip in measured.clips)


@pytest.mark.parametrize("name", ["sovits_dec", "gptsovits_dec", "mini", "waveglow"])
def test_other_inputs(name: str, recording: Path, tmp_path: Path) -> None:
    """Latents with and without speaker and pitch, a gliding source, a flow."""
    vocoder = vocoder_of(name, tmp_path)
    exact = vocoder.receptive_field[1]
    recordings = None if vocoder.spec.mel is None else [recording]
    found = lookahead_curve(vocoder, recordings, exact + 12, 3, lookaheads=[exact, 0, 99999])
    assert [point.lookahead_frames for point in found.worst] == [0, exact]
    extra = vocoder.excitation.lookahead_frames
    assert found.worst[0].latency_ms == pytest.approx(1000 * extra / vocoder.spec.frames_per_second)
    assert found.worst[0].whole.snr_db < found.worst[1].whole.snr_db
    assert found.worst[1].whole.snr_db > 90
    assert len(found.clips) == (2 if recordings is None else 1)
    strict_json(json.dumps(found.as_dict(), allow_nan=False))


@pytest.mark.parametrize(("exact", "points"), [(0, 1), (13, 14), (16, 17), (38, 12), (96, 12)])
def test_a_long_context_is_thinned_out(exact: int, points: int) -> None:
    asked = lookahead._checked_lookaheads(exact, None)
    assert asked == sorted(set(asked))
    assert (asked[0], asked[-1], len(asked)) == (0, exact, points)


BAD_CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "no block": ({"block_frames": 0}, "at least one"),
    "too few frames": ({"frames": 20}, "Use 26 or more"),
    "a negative look-ahead": ({"lookaheads": [-1]}, "neither 'exact' nor"),
    "no look-ahead": ({"lookaheads": []}, "none was given"),
    "no recording": ({"recordings": []}, "none was given"),
    "blocks longer than the recording": ({"block_frames": 2000, "recordings": RECORDINGS[:1]}, "longer recording"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls(demo: trt_svc.Vocoder, name: str) -> None:
    options, message = BAD_CALLS[name]
    with pytest.raises(InputError, match=message):
        lookahead_curve(demo, **options)


def test_recordings_for_a_latent_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="takes the latent"):
        lookahead_curve(vocoder_of("sovits_dec", tmp_path), RECORDINGS)


# JSON.


def test_json(measured: LookaheadCurve) -> None:
    data = strict_json(json.dumps(measured.as_dict(), allow_nan=False))
    assert data["exact_frames"] == data["worst"][-1]["lookahead_frames"]
    assert {"whole", "seams", "latency_ms"} <= set(data["recordings"][0]["points"][0])
    assert 60 < data["recordings"][0]["rounding_to_16_bits_snr_db"] < 100


def test_no_difference_is_null_and_words() -> None:
    point = made_curve([30.0, np.inf]).as_dict()["worst"][-1]
    assert point["whole"]["snr_db"] is None
    assert point["whole"]["snr"] == "identical"
    strict_json(json.dumps(made_curve([np.nan, np.inf]).as_dict(), allow_nan=False))


# The picture.


def test_the_picture_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new folder" / "curve.png"
    draw(made_curve([20.0, 60.0, 120.0]), path)
    before = path.read_bytes()
    assert before.startswith(PNG)
    assert len(before) < 60_000

    def broken(picture: Path) -> None:
        picture.write_bytes(b"half a pict")
        raise OSError("no space left")

    monkeypatch.setattr(lookahead, "_fewer_colours", broken)
    with pytest.raises(OutputError):
        draw(made_curve([20.0, 60.0, 120.0]), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["我的 歌 🎤.wav", "_hidden.wav", "a$b^{c$d.wav", "a" * 200])
def test_names_of_any_kind(name: str, tmp_path: Path) -> None:
    draw(made_curve([-5.0, np.nan, np.inf], name), tmp_path / "x.SVG")
    assert "<svg" in (tmp_path / "x.SVG").read_text("utf-8")


@pytest.mark.parametrize("name", ["curve.jpg", "curve", "curve.png.exe"])
def test_other_formats_are_refused_before_any_work(name: str, tmp_path: Path) -> None:
    result = run("lookahead-curve", "no such model", "-o", tmp_path / name)
    assert result.exit_code == 2
    assert "Use .png or .svg" in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(module)

    monkeypatch.setattr(optional.importlib, "import_module", missing)
    with pytest.raises(MissingExtra, match=r"trt-svc\[bench\]"):
        lookahead.check_picture(tmp_path / "x.png")


# The command.


def test_help() -> None:
    result = run("lookahead-curve", "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_the_command_prints_json_and_draws(recording: Path, tmp_path: Path) -> None:
    picture = tmp_path / "curve.png"
    words = ["lookahead-curve", "demo", "-r", recording, "--frames", 24, "--block", 60, "-o", picture]
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    data = strict_json(result.stdout)
    assert data["block_frames"] == 5
    assert data["output"] == str(picture)
    assert data["worst"][-1]["whole"]["snr_db"] > 100
    assert picture.read_bytes().startswith(PNG)


def test_the_command_prints_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookahead, "lookahead_curve", lambda *_, **__: made_curve([20.0, 60.0, np.inf]))
    result = run("lookahead-curve", "demo")
    assert result.exit_code == 0, result.output
    for word in ("20 ms", "60.0 dB", "identical", "(exact)", "x.wav"):
        assert word in result.output, word


@pytest.mark.parametrize("as_json", [False, True])
def test_errors_come_without_a_traceback(as_json: bool, tmp_path: Path) -> None:
    result = run("lookahead-curve", "demo", "-r", tmp_path / "no.wav", *(["--json"] if as_json else []))
    assert result.exit_code == 2
    assert "no file" in " ".join(result.output.split())
    assert "Traceback" not in result.output
