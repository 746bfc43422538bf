"""Content encoders and f0 networks as stages: the same numbers as graphs of any length, and NVIDIA's compiler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from tests.golden_svc import fill
from tests.test_svc_encoders import (
    HEADS,
    fairseq_file,
    noise,
    onnx_file,
    published_tree,
    save,
    soft_weights,
    whisper_file,
)
from tests.test_svc_pitch import NEURAL, file_with, tiny_rmvpe
from trt_svc.backends.base import backends
from trt_svc.build_config import BuildConfig, ShapeRange
from trt_svc.difference import difference
from trt_svc.errors import InputError, WeightsMismatch
from trt_svc.features.f0 import crepe, fcpe, rmvpe
from trt_svc.features.f0.base import F0Estimator, f0_estimators
from trt_svc.features.f0.networks.fcpe import Fcpe
from trt_svc.features.f0.networks.fcpe_blocks import logits_in_blocks
from trt_svc.features.f0.networks.norm import folded
from trt_svc.features.f0.weights import TrainedWeights
from trt_svc.progress import Quiet
from trt_svc.svc.encoders import whisper
from trt_svc.svc.encoders.base import HOP_SAMPLES, ContentEncoder, encoders
from trt_svc.svc.example_audio import sung
from trt_svc.svc.f0_stages import f0_stage, run_f0_on
from trt_svc.svc.stage import Run, StageNet, in_torch
from trt_svc.svc.stage_graphs import stage_graph
from trt_svc.types import Array

ENCODERS = ("vec768l12", "vec256l9", "hubertsoft", "cnhubertlarge", "wavlmbase+", "dphubert", "whisper-ppg")


def encoder(name: str, folder: Path) -> ContentEncoder:
    if name.startswith("vec"):
        path, channels = fairseq_file(folder / "vec.pt", layers=12), 32 if name == "vec768l12" else 8
    elif name == "hubertsoft":
        weights = {f"module.{at}": value for at, value in soft_weights().items()}
        path, channels = save({"cfg": HEADS, "hubert": weights}, folder / "soft.pt"), 8
    elif name == "whisper-ppg":
        path, channels = whisper_file(folder / "medium.pt", [80, 1500, 16, 2, 1], 3), 16
    else:
        path, channels = save(published_tree(name), folder / "file.pt"), 32
    return encoders.get(name).from_file(path, channels)


def stage_of(encoder: ContentEncoder) -> StageNet:
    stage = encoder.stage()
    assert stage is not None
    return stage


def on_onnxruntime(stage: StageNet) -> Run:
    """The stage's graph on onnxruntime."""
    graph = stage_graph(stage.module, stage.inputs, "out")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.to_bytes(), options, providers=["CPUExecutionProvider"])

    def run(inputs: Mapping[str, Array]) -> Array:
        return np.asarray(session.run(None, dict(inputs))[0])

    return run


def same_as_torch(stage: StageNet, shapes: list[tuple[int, int]], run: Run | None = None) -> None:
    run = run or on_onnxruntime(stage)
    for batch, length in shapes:
        given = stage.examples(batch, length, length)
        for spec in stage.inputs:
            assert given[spec.name].shape == (batch, spec.channels, length) and given[spec.name].dtype == np.float32
        expected = in_torch(stage)(given)
        made = run(given)
        assert made.shape == expected.shape and made.ndim == 3
        assert difference(made, expected).snr_db > 100, (batch, length)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder(name: str, tmp_path: Path) -> None:
    made = encoder(name, tmp_path)
    stage = stage_of(made)
    shapes = [(1, 3000), (2, 3000)]
    if name != "whisper-ppg":
        assert stage.lengths.min == made.min_samples + HOP_SAMPLES
        shapes = [(1, made.min_samples), (2, stage.lengths.min), (1, 16000), (2, 9001)]
    same_as_torch(stage, shapes)


def test_distances_beyond_the_farthest_bucket(tmp_path: Path) -> None:
    """WavLM here tells 40 frames apart and no more."""
    same_as_torch(stage_of(encoder("wavlmbase+", tmp_path)), [(1, 320 * 100)])


def test_distances_that_nobody_tells_apart_are_refused(tmp_path: Path) -> None:
    tree = published_tree("wavlmbase+")
    path = save(tree | {"cfg": tree["cfg"] | {"max_distance": 10**12}}, tmp_path / "WavLM-Base+.pt")
    with pytest.raises(WeightsMismatch, match="max_distance 1000000000000"):
        encoders.get("wavlmbase+").from_file(path, 32)


@pytest.mark.parametrize("name", ["hubertsoft", "wavlmbase+", "whisper-ppg"])
def test_an_encoder_on_another_runtime(name: str, tmp_path: Path) -> None:
    made, audio = encoder(name, tmp_path), np.stack([noise(9001), noise(9001, 2)])
    expected = made(audio)
    run, calls = on_onnxruntime(stage_of(made)), []

    def counted(inputs: Mapping[str, Array]) -> Array:
        calls.append(inputs)
        return run(inputs)

    made.on(counted)
    units = made(audio)
    assert len(calls) == 1 and units.shape == expected.shape and units.flags.c_contiguous
    assert difference(units, expected).snr_db > 100


def test_what_is_a_graph_already_is_no_stage(tmp_path: Path) -> None:
    made = encoders.get("vec256l9-onnx").from_file(onnx_file(tmp_path / "vec-256-layer-9.onnx"))
    assert made.stage() is None
    with pytest.raises(InputError, match="finished ONNX graph"):
        made.on(lambda inputs: inputs["audio"])


def test_an_encoder_too_large_for_a_graph_is_no_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = encoder("whisper-ppg", tmp_path)
    assert made.stage() is not None
    weights = sum(value.numel() for value in made.module().parameters())
    monkeypatch.setattr(whisper, "MAX_GRAPH_BYTES", 4 * weights - 1)
    assert made.stage() is None and made(noise(4000)).shape == (1, 16, 12)


# Pitch.


def estimator(method: str, folder: Path) -> F0Estimator:
    return NEURAL[method](file_with(method, folder))


def f0_stage_of(method: str, folder: Path) -> StageNet:
    stage = f0_stage(estimator(method, folder))
    assert stage is not None
    return stage


def test_crepe_takes_any_number_of_windows(tmp_path: Path) -> None:
    stage = f0_stage_of("crepe", tmp_path)
    assert stage.batch.max == crepe.WINDOWS_PER_RUN
    same_as_torch(stage, [(1, 1), (3, 1), (64, 1)])


@pytest.mark.parametrize("method", ["rmvpe", "fcpe"])
def test_mels_of_any_length(method: str, tmp_path: Path) -> None:
    same_as_torch(f0_stage_of(method, tmp_path), [(1, 1), (1, 3), (2, 4), (2, 64), (1, 333)])


@pytest.mark.parametrize("method", NEURAL)
def test_an_estimator_on_another_runtime(method: str, tmp_path: Path) -> None:
    made = estimator(method, tmp_path)
    stage = f0_stage(made)
    assert stage is not None
    network_run, (wave,) = made.network_run, sung(1, 44100, 44100, 3)
    expected = made(wave, 44100)
    run, heard, saliences = on_onnxruntime(stage), [], []

    def noted(inputs: Mapping[str, Array]) -> Array:
        heard.append(inputs[stage.inputs[0].name])
        saliences.append(run(inputs))
        return saliences[-1]

    run_f0_on(made, noted)
    track = made(wave, 44100)
    assert heard and track.times_s.shape == expected.times_s.shape
    # The networks' weights are formulas, so that bins are close to each other: pitch may jump where salience does not.
    for given, salience in zip(heard, saliences, strict=True):
        assert given.flags.c_contiguous and difference(salience, network_run(given)).snr_db > 100


@pytest.mark.parametrize("method", ["pm", "dio", "harvest", "swift-f0"])
def test_methods_without_a_network_of_ours_have_no_stage(method: str) -> None:
    assert f0_stage(f0_estimators.get(method)()) is None


def test_norms_in_convolutions() -> None:
    network, mel = tiny_rmvpe(), torch.from_numpy(np.random.default_rng(1).normal(size=(1, 128, 32)).astype(np.float32))
    with torch.inference_mode():
        kept = network(mel)
        assert difference(folded(network)(mel).numpy(), kept.numpy()).snr_db > 110
        assert torch.equal(network(mel), kept)


def test_long_recordings_of_fcpe_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    network = fill(Fcpe(mels=128, width=32, layers=2, features=11), seed=2).eval()
    mel = np.random.default_rng(1).normal(size=(2, 128, 100)).astype(np.float32)
    whole = fcpe.in_torch(network)(mel)
    frames = torch.from_numpy(mel.transpose(0, 2, 1).copy())
    for block in (1, 7, 50, 100, 101):
        with torch.inference_mode():
            blocks = torch.sigmoid(logits_in_blocks(network, frames, block)).numpy()
        assert difference(blocks.transpose(0, 2, 1), whole).snr_db > 110, block
    monkeypatch.setattr(fcpe, "LONG_FRAMES", 99)
    assert difference(fcpe.in_torch(network)(mel), whole).snr_db > 110


def test_loudness_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    (wave,) = sung(1, 16000, crepe.RATE, 1)
    whole = crepe.loudness_db(np.concatenate([np.zeros(3000, np.float32), wave]), 160)
    monkeypatch.setattr(crepe, "WINDOWS_PER_LEVEL", 7)
    assert np.array_equal(crepe.loudness_db(np.concatenate([np.zeros(3000, np.float32), wave]), 160), whole)


def test_batches_of_rmvpe_are_its_recordings() -> None:
    network = tiny_rmvpe()
    mels = np.random.default_rng(1).normal(size=(2, 128, 37)).astype(np.float32)
    made = rmvpe.in_torch(network)(mels)
    assert made.shape == (2, 360, 37)
    assert np.array_equal(made[1], rmvpe.salience_of(network, mels[1:]).T)


def test_weights_in_folders_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRT_SVC_MODELS", raising=False)
    trained, folder = TrainedWeights("fcpe", ("fcpe.pt",)), tmp_path / "voice" / "f0"
    folder.mkdir(parents=True)
    (folder / "fcpe.pt").touch()
    assert trained.find() is None
    assert trained.find([tmp_path / "missing", folder]) == trained.locate(None, [folder]) == folder / "fcpe.pt"
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "fcpe.pt").touch()
    assert trained.find([folder]) == folder / "fcpe.pt" and trained.find() == Path("pretrain/fcpe.pt")


# Other compilers.


@pytest.mark.parametrize("name", [*ENCODERS, *NEURAL])
def test_openvino_is_right_from_the_shortest_length_on(name: str, tmp_path: Path) -> None:
    stage = f0_stage_of(name, tmp_path) if name in NEURAL else stage_of(encoder(name, tmp_path))
    backend, (shortest, _, longest) = backends.get("openvino")(), astuple(stage.lengths)
    if not backend.probe().runs:
        pytest.skip(backend.probe().found)
    graph = stage_graph(stage.module, stage.inputs, "out")
    config = backend.settled(BuildConfig("openvino", frames=(stage.lengths,), batch=stage.batch))
    run = backend.open(backend.build(graph, config, Quiet()).files, "auto").run
    lengths = sorted({min(shortest * times, longest) for times in (1, 3, 40)})
    same_as_torch(stage, [(batch, length) for length in lengths for batch in (1, 2)], run)


def builds(stage: StageNet, lengths: ShapeRange) -> None:
    backend = backends.get("tensorrt-rtx")()
    if not backend.probe().builds:
        pytest.skip(backend.probe().found)
    batch = ShapeRange(1, 1, min(2, stage.batch.max))
    config = backend.settled(BuildConfig("tensorrt-rtx", frames=(lengths,), batch=batch))
    built = backend.build(stage_graph(stage.module, stage.inputs, "out"), config, Quiet())
    assert sum(len(data) for data in built.files.values()) > 10_000


@pytest.mark.parametrize("name", ["vec256l9", "cnhubertlarge", "dphubert"])
def test_nvidias_compiler_takes_encoders(name: str, tmp_path: Path) -> None:
    """In float32; in half precision test_svc_engines builds them all."""
    builds(stage_of(encoder(name, tmp_path)), ShapeRange(400, 16000, 32000))
