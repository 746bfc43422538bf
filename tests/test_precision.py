"""Half precision: what is rounded, what is not, and what it costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.nets import SMALL, healthy_small, inputs_of_any_length
from trt_svc.build_config import Precision
from trt_svc.checkpoints.load import open_checkpoint
from trt_svc.clips import clip_of
from trt_svc.difference import difference
from trt_svc.errors import ConfigError
from trt_svc.graph.check import reference_audio, run_on_cpu
from trt_svc.graph.vocoder import graph_from_vocoder
from trt_svc.noise import Noise
from trt_svc.precision import TypedLayer, layers_of, typed
from trt_svc.sensitivity import RECORDINGS, LayerCost, precision_report, rounded, smallest_set


@pytest.mark.parametrize("name", SMALL)
def test_fp16_graph_is_close_to_float32(name: str) -> None:
    net = healthy_small(name)
    graph = graph_from_vocoder(net, Precision("fp16"))
    inputs = inputs_of_any_length(net, 1, 64)
    made = run_on_cpu(graph, {spec.name: inputs[spec.name].numpy() for spec in graph.inputs})
    expected = reference_audio(net, inputs)
    assert difference(made, expected).snr_db >= 45, "what an fp16 engine has to reach"
    assert not np.array_equal(made, expected), "nothing was rounded"


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
def test_fp16_demo_voice(recording: object) -> None:
    net = open_checkpoint("demo").net
    inputs = clip_of(net, recording, 256).inputs  # type: ignore[arg-type]
    graph = graph_from_vocoder(net, Precision("fp16"), ("fold-mean",))
    made = run_on_cpu(graph, {spec.name: inputs[spec.name].numpy() for spec in graph.inputs})
    found = difference(made, reference_audio(net, inputs))
    assert found.snr_db >= 60
    assert found.mae <= 5e-5


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("level", [-12.0, 0.0, 4.0])
@pytest.mark.parametrize("pitch", [20.0, 2000.0])
def test_extreme_inputs_stay_finite_in_fp16(name: str, level: float, pitch: float) -> None:
    net = healthy_small(name)
    if pitch != 20.0 and not net.spec.needs_f0:
        pytest.skip("no pitch input: one pitch is all of it")
    frames = 24
    excitation = net.excitation()
    f0 = np.full((1, frames), min(pitch, 0.99 * net.spec.max_f0_hz), np.float32)
    arrays = {"mel": np.full((1, net.spec.n_mels, frames), level, np.float32)}
    arrays |= excitation.begin(Noise(excitation.fields, (0,))).push(f0, frames)
    for spec in net.core_inputs():
        arrays.setdefault(spec.name, np.ones((1, spec.channels, frames), np.float32))
    graph = graph_from_vocoder(net, Precision("fp16"))
    made = run_on_cpu(graph, {spec.name: arrays[spec.name] for spec in graph.inputs})
    assert np.isfinite(made).all()


def test_bf16_is_refused_with_its_reason() -> None:
    with pytest.raises(ConfigError, match="40 dB"):
        Precision("bf16")
    with pytest.raises(ConfigError, match="Did you mean 'fp16'"):
        Precision("fp61")
    net = healthy_small("hifigan")
    inputs = inputs_of_any_length(net, 1, 32)
    body = typed(net, Precision("bf16", allow_bf16=True))
    found = difference(reference_audio(body, inputs), reference_audio(net, inputs))
    assert 20 < found.snr_db < 50, "the stated reason holds"


def test_types_of_the_layers() -> None:
    body = typed(healthy_small("bigvgan"), Precision("fp16"))
    layers = {name: m for name, m in body.named_modules() if isinstance(m, TypedLayer)}
    assert layers["conv_post"].compute == layers["conv_post"].out == torch.float32
    assert layers["conv_pre"].compute == torch.float16
    snakes = [m for name, m in layers.items() if "activation" in name]
    assert snakes and all(m.compute == torch.float32 for m in snakes)
    shielded = typed(healthy_small("bigvgan"), Precision("fp16", ("conv_pre", "ups.*")))
    assert shielded.get_submodule("conv_pre").compute == torch.float32  # type: ignore[union-attr]
    assert shielded.get_submodule("ups.0.0").compute == torch.float32  # type: ignore[union-attr]


def test_every_convolution_has_a_type() -> None:
    for name in SMALL:
        body = typed(healthy_small(name), Precision("fp16"))
        loose = [
            n
            for n, m in body.named_modules()
            if isinstance(m, (torch.nn.Conv1d, torch.nn.ConvTranspose1d))
            and not any(isinstance(body.get_submodule(n[: i + 1].rstrip(".")), TypedLayer) for i in _dots(n))
        ]
        assert not loose, (name, loose)


def _dots(name: str) -> list[int]:
    return [i for i, c in enumerate(name) if c == "."]


def test_rounding_a_layer_is_undone() -> None:
    net = healthy_small("hifigan")
    inputs = inputs_of_any_length(net, 1, 16)
    before = reference_audio(net, inputs)
    name, layer = layers_of(net)[3]
    with rounded(layer):
        assert not np.array_equal(reference_audio(net, inputs), before), name
    assert np.array_equal(reference_audio(net, inputs), before)


def test_smallest_set() -> None:
    costs = [LayerCost(n, 1, 0.0, mse) for n, mse in (("a", 1.0), ("b", 5.0), ("c", 3.0), ("d", 0.5))]
    assert smallest_set(costs, 10.0) == ()
    assert smallest_set(costs, 4.6) == ("b",)
    assert smallest_set(costs, 1.5) == ("b", "c")
    assert smallest_set(costs, 0.0) == ("a", "b", "c", "d")


@pytest.mark.parametrize("name", ["nsf_hifigan", "bigvgan", "waveglow", "sovits_dec"])
def test_precision_report_finds_what_costs(name: str) -> None:
    net = healthy_small(name)
    easy = precision_report(net, target_db=30.0, frames=24)
    assert easy.protected == ()
    assert easy.plain == easy.shielded
    assert [c.snr_db for c in easy.layers] == sorted(c.snr_db for c in easy.layers)
    assert all(np.isfinite(c.snr_db) for c in easy.layers)
    # The costs of single layers add up to the cost of the whole graph, roughly.
    power = 10 ** (-easy.plain.snr_db / 10)
    summed = sum(10 ** (-c.snr_db / 10) for c in easy.layers)
    assert 0.2 < summed / power < 5
    hard = precision_report(net, target_db=easy.plain.snr_db + 4, frames=24)
    assert hard.protected
    assert hard.shielded.snr_db >= hard.target_db or len(hard.protected) == len(hard.layers)
    assert hard.recipe()["protected"] == list(hard.protected)
