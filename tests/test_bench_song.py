"""The reference song: its audio, its models as files, and the report of a race of small networks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import song as bench
from benchmarks.song_audio import RATE_HZ, song
from benchmarks.song_models import SMALL, SPEAKER, write_models
from benchmarks.song_report import JSON, MARKDOWN, SongReport
from trt_svc.backends.base import backends
from trt_svc.svc.model_folder import find_model
from trt_svc.svc.networks.unit2mel import open_unit2mel
from trt_svc.svc.pipeline import SVCPipeline
from trt_svc.svc.sinc import sinc_resample
from trt_svc.svc.slicer import cut_at_silences
from trt_svc.svc.voice_model import load_voice

SECONDS = 1.2
NEURAL = (
    "content encoder", "f0 (crepe)", "cluster mixing", "voice encoder", "flow", "decoder", "diffusion", "vocoder",
)  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("model") / "so-vits-svc"
    write_models(root, SMALL)
    return root


def test_the_song_is_always_the_same_and_has_pauses() -> None:
    audio = song(9.0)
    assert audio.shape == (9 * RATE_HZ,) and audio.dtype == np.float32
    assert np.abs(audio).max() == pytest.approx(0.5)
    assert len(cut_at_silences(audio, RATE_HZ)) > 1
    np.testing.assert_array_equal(song(0.5), song(0.5))
    assert (song(0.5, seed=1) != song(0.5)).any()


def test_files_lie_and_read_as_upstreams(models: Path) -> None:
    files = find_model(models)
    voice = load_voice(files.need_voice(), files.need_voice_config())
    assert voice.speakers == {SPEAKER: 0} and voice.speech_encoder == "vec768l12"
    assert open_unit2mel(files.need_diffusion(), files.need_diffusion_config()).net.n_mels == 128
    assert files.need_clusters().name == "kmeans_10000.pt"


def test_weights_are_healthy(models: Path) -> None:
    """Units vary, and nothing is clipped or silent on the way to the audio."""
    pipeline, audio = SVCPipeline.from_pretrained(models), song(SECONDS)
    made = pipeline((audio, RATE_HZ), **bench.OPTIONS)
    assert 0.02 < made.std() < 0.4 and np.abs(made).max() < 0.99
    model = pipeline.model
    units = model.encoder("vec768l12", model.voice.unit_channels)(sinc_resample(audio, RATE_HZ, 16000))
    assert 0.2 < units.std() < 0.4 and units.std(axis=2).mean() > 0.1
    alone = pipeline((audio, RATE_HZ), **{**bench.OPTIONS, "diffusion": None})
    assert 0.02 < alone.std() < 0.4
    assert {stage.name for stage in pipeline.last.stages} >= {"decoder", "flow", "voice encoder", "content encoder"}


def test_the_race_is_told_in_full(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network of the song is an engine, from the encoder and crepe to the vocoder, and the song is torch's."""
    names = [name for name in ("onnxruntime", "openvino") if backends.get(name)().probe().runs]
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path / "engines"))
    bench.main([
        "--small", "--seconds", str(SECONDS), "--rounds", "2", "--models", str(models),
        *(word for name in names for word in ("--against", f"{name}:fp32")), "-o", str(tmp_path / "report"),
    ])  # fmt: skip
    report = SongReport.model_validate_json((tmp_path / "report" / JSON).read_text("utf-8"))
    eager, *others = report.runs
    assert [run.label for run in report.runs] == ["torch fp32", *(f"{name} fp32" for name in names)]
    assert eager.snr_db == float("inf") and eager.mel_db == 0 and len(eager.seconds) == 2
    assert report.song_s == SECONDS and report.pieces == 1 and report.options["k_step"] == 100
    for name, ours in zip(names, others, strict=True):
        assert 80 < ours.snr_db < float("inf") and 0 < ours.mel_db < 0.1 and len(ours.seconds) == 2
        ran = {stage.name: stage for stage in ours.stages}
        for stage in NEURAL:
            assert ran[stage].backend == f"{name} fp32" and ran[stage].calls and not ran[stage].note
    assert json.loads((tmp_path / "report" / JSON).read_text("utf-8"))["runs"][0]["snr_db"] is None
    page = (tmp_path / "report" / MARKDOWN).read_text("utf-8")
    assert all(f"| {stage.name} |" in page for stage in eager.stages if "(" not in stage.name)
    assert "identical" in page and all(f"{run.snr_db:.1f}" in page for run in others)
