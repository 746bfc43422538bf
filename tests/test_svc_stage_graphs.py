"""The stages of a voice as graphs: the same numbers on onnxruntime at any length, and NVIDIA's compiler takes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from tests.test_svc_synthesizer import META, config_of, stored, write_voice
from trt_svc.backends.base import backends
from trt_svc.build_config import BuildConfig, Precision, ShapeRange
from trt_svc.difference import difference
from trt_svc.graph.model import load_graph
from trt_svc.progress import Quiet
from trt_svc.svc.networks.attention import SelfAttention
from trt_svc.svc.networks.stages import EncoderStage, PitchStage
from trt_svc.svc.networks.synthesizer import Synthesizer
from trt_svc.svc.stage_graphs import stage_graph
from trt_svc.svc.voice_model import load_voice
from trt_svc.vocoders.base import CoreInput

NETS = sorted(META)
SHAPES = [(1, 1), (1, 3), (1, 40), (2, 40), (1, 333)]


def voice(net: str, folder: Path) -> Synthesizer:
    return load_voice(write_voice(folder, stored(net), config_of(net))).net


def inputs_for(specs: Sequence[CoreInput], batch: int, frames: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(frames)
    given = {spec.name: rng.normal(0, 1, (batch, spec.channels, frames)).astype(np.float32) for spec in specs}
    if "pitch_bins" in given:
        given["pitch_bins"] = rng.integers(1, 256, (batch, 1, frames)).astype(np.float32)
    if "uv" in given:
        given["uv"] = (rng.random((batch, 1, frames)) > 0.3).astype(np.float32)
    return given


def same_on_onnxruntime(stage: torch.nn.Module, specs: Sequence[CoreInput]) -> None:
    graph = stage_graph(stage, specs, "out")
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    for batch, frames in SHAPES:
        given = inputs_for(specs, batch, frames)
        (made,) = session.run(None, given)
        with torch.no_grad():
            expected = stage(*[torch.from_numpy(given[spec.name]) for spec in specs]).numpy()
        assert made.shape == expected.shape
        assert difference(made, expected).snr_db > 100, (batch, frames)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_of_any_length(causal: bool) -> None:
    torch.manual_seed(0)
    attention = SelfAttention(8, 2, causal=causal).requires_grad_(False)
    for parameter in attention.parameters():
        parameter.normal_()
    same_on_onnxruntime(attention, [CoreInput("x", 8)])


@pytest.mark.parametrize("net", NETS)
def test_every_stage_of_a_voice(net: str, tmp_path: Path) -> None:
    model = voice(net, tmp_path)
    encoder = EncoderStage(model)
    same_on_onnxruntime(encoder, encoder.core_inputs())
    same_on_onnxruntime(model.flow, model.flow.core_inputs())
    if model.f0_decoder is not None:
        pitch = PitchStage(model)
        same_on_onnxruntime(pitch, pitch.core_inputs())


def test_an_input_of_one_position(tmp_path: Path) -> None:
    """Whatever the length of the others, for every backend that sets shapes, and when the graph is read again."""
    graph = stage_graph(Shifted(), [CoreInput("x", 2), CoreInput("shift", 2, 0)], "out")
    along, one = graph.inputs
    assert (along.shape(3, 40), one.shape(3, 40), one.axis()) == ((3, 2, 40), (3, 2, 1), 1)
    (tmp_path / "graph.onnx").write_bytes(graph.to_bytes())
    assert load_graph(tmp_path / "graph.onnx").inputs == graph.inputs
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    given = {"x": np.ones((3, 2, 5), np.float32), "shift": np.arange(6, dtype=np.float32).reshape(3, 2, 1)}
    np.testing.assert_array_equal(session.run(None, given)[0], given["x"] + given["shift"])


class Shifted(torch.nn.Module):
    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return x + shift


def test_nvidias_compiler_takes_the_encoder(tmp_path: Path) -> None:
    backend = backends.get("tensorrt-rtx")()
    if not backend.probe().builds:
        pytest.skip(backend.probe().found)
    stage = EncoderStage(voice(NETS[0], tmp_path))
    config = BuildConfig(
        "tensorrt-rtx", precision=Precision("fp32"), frames=(ShapeRange(1, 40, 400),), batch=ShapeRange(1, 1, 2)
    )
    built = backend.build(stage_graph(stage, stage.core_inputs(), "stats"), backend.settled(config), Quiet())
    assert sum(len(data) for data in built.files.values()) > 10_000
