"""The torch-cuda backend as far as a CPU shows it: the same numbers in every form, kernels in Triton's interpreter."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from tests.nets import SMALL, healthy_short
from tests.test_svc_stage_graphs import NETS, inputs_for, voice
from trt_svc.backends.base import Probe, backends
from trt_svc.backends.torch_cuda import MODEL, CudaRunner, TorchCuda, program_of, programs_of, tuning
from trt_svc.backends.torch_fused import CHANNELS_LAST, KERNELS, channels_last
from trt_svc.backends.torch_fusion import ALIAS_FREE, BIASED_TAIL, SNAKE, TAIL, fused, needed, without_twins
from trt_svc.backends.torch_operators import OPERATORS
from trt_svc.backends.torch_program import Program
from trt_svc.build import contenders
from trt_svc.build_config import BuildConfig, Precision, ShapeRange
from trt_svc.difference import difference
from trt_svc.errors import BackendUnavailable, ConfigError, UnsupportedOperator
from trt_svc.graph.check import reference_audio
from trt_svc.graph.model import Graph
from trt_svc.graph.vocoder import graph_from_vocoder, stage_graphs
from trt_svc.hardware import Gpu
from trt_svc.kernels import available
from trt_svc.progress import Quiet
from trt_svc.svc.networks.stages import EncoderStage, PitchStage
from trt_svc.svc.stage_graphs import stage_graph
from trt_svc.vocoders.base import VocoderNet
from trt_svc.vocoders.healthy import example_inputs, healthy_net

FOLDS = ("fold-mean", "fold-snake")
TINY = {
    "upsample_rates": [2, 2],
    "upsample_kernel_sizes": [4, 4],
    "upsample_initial_channel": 8,
    "resblock_kernel_sizes": [3, 3],
    "resblock_dilation_sizes": [[1], [1]],
    "num_mels": 4,
    "sampling_rate": 8000,
    "fmax": 4000,
}


@pytest.fixture(scope="module", autouse=True)
def interpreted() -> Iterator[None]:
    """Triton's programs run on the CPU, in this process from their first import on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        if not available("cpu"):
            pytest.skip("triton is not installed")
        yield


@cache
def tiny(family: str) -> VocoderNet:
    """Two stages of two short blocks: Triton's interpreter is slow."""
    more = {"resblock_dilation_sizes": [[1, 3], [1, 3]]} if family == "hifigan" else {}
    return healthy_net(family, {**TINY, **more})


def arrays_of(graph: Graph, inputs: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {spec.name: inputs[spec.name].numpy() for spec in graph.inputs}


def run(program: Program, graph: Graph, inputs: Mapping[str, torch.Tensor]) -> np.ndarray:
    with torch.no_grad():
        return program(*[inputs[spec.name] for spec in graph.inputs]).numpy()


def plain(graph: Graph) -> Program:
    return Program(graph.model, list(graph.model.graph.node), OPERATORS)


def counts(graph: Graph) -> Counter[str]:
    return Counter(node.op_type for node in fused(graph.model))


# The graph as torch calls.


@pytest.mark.parametrize("name", SMALL)
def test_a_graph_run_by_torch_is_the_network(name: str) -> None:
    net = healthy_short(name)
    for precision in ("fp32", "fp16"):
        graph = graph_from_vocoder(net, Precision(precision), FOLDS if name != "waveglow" else ())
        program = plain(graph)
        for batch, frames in ((1, 1), (2, 9)):
            inputs = example_inputs(net, batch, frames)
            made, expected = run(program, graph, inputs), reference_audio(net, inputs)
            assert made.shape == expected.shape
            assert difference(made, expected).snr_db > (110 if precision == "fp32" else 48)


def test_the_unchanged_graph_gives_torchs_own_bits() -> None:
    net = healthy_short("nsf_hifigan")
    graph = graph_from_vocoder(net)
    inputs = example_inputs(net, 2, 9)
    np.testing.assert_array_equal(run(plain(graph), graph, inputs), reference_audio(net, inputs))


@pytest.mark.parametrize("net", NETS)
def test_the_stages_of_a_voice(net: str, tmp_path: Path) -> None:
    """Attention, norms, masks and positions, whose lengths the graph works out by itself."""
    model = voice(net, tmp_path)
    stages: list[Any] = [EncoderStage(model), model.flow]
    stages += [PitchStage(model)] if model.f0_decoder is not None else []
    for stage in stages:
        specs = stage.core_inputs()
        graph = stage_graph(stage, specs, "out")
        program = program_of(graph.to_bytes(), "cpu")
        for batch, frames in ((1, 1), (2, 40)):
            given = {name: torch.from_numpy(value) for name, value in inputs_for(specs, batch, frames).items()}
            with torch.no_grad():
                expected = stage(*[given[spec.name] for spec in specs]).numpy()
            assert difference(run(program, graph, given), expected).snr_db > 100


SHAPED: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], list[onnx.NodeProto], dict[str, np.ndarray]]] = {
    "uneven padding": (
        lambda x: torch.nn.functional.conv1d(torch.nn.functional.pad(x, (2, 0)), torch.ones(1, 2, 3)),
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[2, 0], kernel_shape=[3])],
        {"w": np.ones((1, 2, 3), np.float32)},
    ),
    "backwards": (
        lambda x: x.flip(2)[:, :, ::2],
        [helper.make_node("Slice", ["x", "start", "end", "axis", "step"], ["y"])],
        {"start": np.array([-1]), "end": np.array([-(2**62)]), "axis": np.array([2]), "step": np.array([-2])},
    ),
    "mirrored": (
        lambda x: torch.nn.functional.pad(x, (3, 1), mode="reflect"),
        [helper.make_node("Pad", ["x", "pads"], ["y"], mode="reflect")],
        {"pads": np.array([0, 0, 3, 0, 0, 1])},
    ),
    "whole division": (
        lambda x: x[:, :, :4],
        [
            helper.make_node("Shape", ["x"], ["n"], start=2, end=3),
            helper.make_node("Div", ["n", "two"], ["half"]),
            helper.make_node("Slice", ["x", "zero", "half", "axis"], ["y"]),
        ],
        {"two": np.array([2]), "zero": np.array([0]), "axis": np.array([2])},
    ),
}


@pytest.mark.parametrize("name", SHAPED)
def test_operators_at_their_edges(name: str) -> None:
    expected, nodes, constants = SHAPED[name]
    program = Program(model_of(nodes, constants), nodes, OPERATORS)
    x = torch.arange(18.0).reshape(1, 2, 9)
    torch.testing.assert_close(program(x), expected(x))


def model_of(nodes: list[onnx.NodeProto], constants: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 2, "t"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    held = [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()]
    return helper.make_model(helper.make_graph(nodes, "small", [x], [y], initializer=held))


def test_values_are_let_go_as_soon_as_nobody_needs_them() -> None:
    graph = graph_from_vocoder(healthy_short("hifigan"))
    freed = [place for call in plain(graph)._calls for place in call.free]
    made = [place for call in plain(graph)._calls for place in call.outputs]
    assert len(set(freed)) == len(freed)
    assert set(made) - set(freed) == {plain(graph)._output}


# Fusion.


def test_nothing_of_a_snake_is_left() -> None:
    for precision in ("fp32", "fp16"):
        for rewrites in ((), FOLDS):
            graph = graph_from_vocoder(healthy_short("bigvgan2"), Precision(precision), rewrites)
            found = counts(graph)
            assert found[ALIAS_FREE] == graph.op_counts()["Sin"]
            assert not {"Sin", "Pad", "Slice", "Mul"} & set(found)
            assert found["Cast"] == (2 if precision == "fp16" else 0), "only where the network begins and ends"


def test_what_a_stage_bends_first_is_bent_once() -> None:
    graph = graph_from_vocoder(healthy_short("hifigan"), Precision("fp16"), FOLDS)
    found, before = counts(graph), graph.op_counts()
    assert found["LeakyRelu"] + found[TAIL] + found[BIASED_TAIL] == before["LeakyRelu"] - 2 * 3
    assert found[BIASED_TAIL] > 0
    biased = [node for node in fused(graph.model) if node.op_type in ("Conv", "ConvTranspose") and len(node.input) == 3]
    assert len(biased) == before["Conv"] + before["ConvTranspose"] - found[BIASED_TAIL]


def test_other_filters_are_left_alone() -> None:
    graph = graph_from_vocoder(healthy_short("bigvgan2"))
    changed = onnx.ModelProto()
    changed.CopyFrom(graph.model)
    for tensor in changed.graph.initializer:
        if tensor.name.endswith(".taps"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(1.5 * onnx.numpy_helper.to_array(tensor), tensor.name))
    found = Counter(node.op_type for node in fused(changed))
    assert found[ALIAS_FREE] == 0
    assert found[SNAKE] == graph.op_counts()["Sin"], "the snake inside is one all the same"


def test_a_value_that_somebody_else_needs_stays() -> None:
    """The sum inside a bent sum is an output of the graph here, and one half of a snake is used beside it."""
    nodes = [
        helper.make_node("Add", ["x", "x"], ["twice"]),
        helper.make_node("Add", ["twice", "x"], ["y"]),
        helper.make_node("LeakyRelu", ["y"], ["unused"], alpha=0.1),
        helper.make_node("LeakyRelu", ["twice"], ["bent"], alpha=0.1),
    ]
    model = model_of(nodes, {})
    model.graph.output[0].name = "twice"
    made = needed(list(fused(model)), ["twice"])
    x = torch.randn(1, 2, 5)
    torch.testing.assert_close(Program(model, made, KERNELS)(x), 2 * x)


def test_twins_are_one_and_others_are_not() -> None:
    nodes = [
        helper.make_node("LeakyRelu", ["x"], ["a"], alpha=0.1),
        helper.make_node("LeakyRelu", ["x"], ["b"], alpha=0.1),
        helper.make_node("LeakyRelu", ["x"], ["c"], alpha=0.01),
        helper.make_node("Concat", ["a", "b", "c"], ["y"], axis=1),
    ]
    alone = without_twins(nodes)
    assert [list(node.input) for node in alone] == [["x"], ["x"], ["a", "a", "c"]]


@pytest.mark.parametrize("family", ["hifigan", "bigvgan"])
def test_fused_networks_sound_the_same(family: str) -> None:
    net = tiny(family)
    for precision, least_db in (("fp32", 110), ("fp16", 45)):
        graph = graph_from_vocoder(net, Precision(precision), FOLDS)
        program = program_of(graph.to_bytes(), "cpu")
        inputs = example_inputs(net, 2, 3)
        made, expected = run(program, graph, inputs), reference_audio(net, inputs)
        assert difference(made, expected).snr_db > least_db
        rounded = difference(run(plain(graph), graph, inputs), expected).snr_db
        assert precision == "fp32" or difference(made, expected).snr_db > rounded - 3


def test_unfolded_forms_are_fused_too() -> None:
    net = tiny("hifigan")
    graph = graph_from_vocoder(net)
    inputs = example_inputs(net, 2, 3)
    tails = [node for node in fused(graph.model) if node.op_type == TAIL]
    assert {a.f for node in tails for a in node.attribute if a.name == "scale"} == {0.5}, "the mean of two branches"
    made = run(program_of(graph.to_bytes(), "cpu"), graph, inputs)
    assert difference(made, reference_audio(net, inputs)).snr_db > 110


def test_protected_layers_stay_float32() -> None:
    """Sums of float32 and half values are cast in the graph, and the kernels take them as they come."""
    net = tiny("hifigan")
    inputs = example_inputs(net, 1, 6)
    expected = reference_audio(net, inputs)
    found = []
    for protected in ((), ("resblocks.*", "ups.*")):
        graph = graph_from_vocoder(net, Precision("fp16", protected), FOLDS)
        found.append(difference(run(program_of(graph.to_bytes(), "cpu"), graph, inputs), expected).snr_db)
    assert found[1] > found[0] + 3


def test_stages_of_a_stream_are_fused_too() -> None:
    net = tiny("hifigan")
    signal = example_inputs(net, 1, 7)["mel"]
    for graph in stage_graphs(net, Precision("fp32"), FOLDS):
        program = program_of(graph.to_bytes(), "cpu")
        with torch.no_grad():
            expected = plain(graph)(signal)
            made = program(signal)
        torch.testing.assert_close(made, expected, rtol=1e-5, atol=1e-5)
        assert counts(graph)[BIASED_TAIL] > 0
        signal = expected


# The backend.


SMALL_RANGE = BuildConfig("torch-cuda", frames=(ShapeRange(1, 4, 8),), batch=ShapeRange(1, 1, 2))


def test_it_says_what_it_needs() -> None:
    probe = TorchCuda().probe()
    assert not probe.builds and not probe.runs
    assert "NVIDIA GPU" in probe.found and probe.advice
    graph = graph_from_vocoder(tiny("hifigan"))
    built = TorchCuda().build(graph, SMALL_RANGE, Quiet())
    with pytest.raises(BackendUnavailable, match="GPU"):
        TorchCuda().open(built.files, "auto")


def test_its_settings() -> None:
    settled = TorchCuda().settled(SMALL_RANGE)
    assert settled.precision.name == "fp16"
    assert backends.get("torch-cuda") is TorchCuda
    with pytest.raises(ConfigError, match="workspace"):
        TorchCuda().settled(BuildConfig("torch-cuda", workspace_bytes=1 << 30))
    graph = graph_from_vocoder(tiny("hifigan"))
    notes = {
        level: TorchCuda()
        .build(graph, BuildConfig("torch-cuda", optimization_level=level), Quiet())
        .files["torch.json"]
        for level in (None, 2, 3)
    }
    assert notes == {None: b'{"tunes": true}', 2: b'{"tunes": false}', 3: b'{"tunes": true}'}


def test_an_engine_is_opened_from_its_files_alone() -> None:
    net = tiny("hifigan")
    graph = graph_from_vocoder(net, Precision("fp16"), FOLDS)
    built = TorchCuda().build(graph, SMALL_RANGE, Quiet())
    runner = CudaRunner(programs_of(built.files[MODEL], "cpu"), "cpu", tunes=True)
    for batch, frames in ((1, 1), (2, 6)):
        inputs = example_inputs(net, batch, frames)
        made = runner.run(arrays_of(graph, inputs))
        assert made.dtype == np.float32
        assert difference(made, reference_audio(net, inputs)).snr_db > 45
        tensors = runner.run_tensors(inputs)
        np.testing.assert_array_equal(tensors.numpy(), made)
    assert runner.sibling() is runner


def test_an_operator_that_torch_is_not_told_is_refused_when_building() -> None:
    graph = graph_from_vocoder(tiny("hifigan"))
    odd = onnx.ModelProto()
    odd.CopyFrom(graph.model)
    odd.graph.node.append(helper.make_node("Unique", ["mel"], ["odd"]))
    with pytest.raises(UnsupportedOperator, match="Unique"):
        TorchCuda().build(Graph(odd, graph.inputs, graph.metadata), SMALL_RANGE, Quiet())


class Net:
    """Instead of a program: says whether cuDNN is allowed to time its convolutions when it is called."""

    def __init__(self, seen: list[bool]) -> None:
        self.seen = seen

    def to(self, device: Any) -> Net:
        return self

    def core_inputs(self) -> tuple[()]:
        return ()

    def __call__(self, *tensors: torch.Tensor) -> torch.Tensor:
        self.seen.append(torch.backends.cudnn.benchmark)
        return torch.zeros(1)


class Replayed:
    """Instead of a recording on a GPU."""

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Recorder:
    """Instead of torch's: runs what it is to record, unless it is told to fail."""

    def __init__(self, failing: tuple[int, ...] = ()) -> None:
        self.failing, self.made = failing, list[Replayed]()
        self.asked = 0

    def record(self, inputs: Any, prepare: Callable[..., Callable[[], torch.Tensor]]) -> Any:
        self.asked += 1
        if self.asked - 1 in self.failing:
            raise RuntimeError("cannot be recorded")
        prepare(inputs)()
        self.made.append(Replayed())
        return self.made[-1]


def test_convolutions_are_timed_only_while_a_shape_is_recorded() -> None:
    """The flag is the process's: it is up while a recording is made, and back where it was behind it."""
    seen: list[bool] = []
    for tunes in (True, False):
        runner = CudaRunner([Net(seen)], "cpu", tunes=tunes)  # type: ignore[list-item]
        runner._recorder = Recorder()  # type: ignore[assignment]
        runner._recorded([])
        runner._plainly([])
    assert seen == [True, False, False, False]
    with pytest.raises(RuntimeError), tuning():
        raise RuntimeError
    assert torch.backends.cudnn.benchmark is False


@pytest.mark.parametrize(
    ("failing", "seconds", "kept"), [((), [2.0, 1.0], 1), ((), [1.0, 2.0], 0), ((1,), [], 0), ((0,), [], 0)]
)
def test_the_quicker_form_is_kept(
    failing: tuple[int, ...], seconds: list[float], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(seconds)
    monkeypatch.setattr(CudaRunner, "_seconds", lambda self, replay, tensors: next(times))
    runner = CudaRunner([Net([]), Net([])], "cpu", tunes=True)  # type: ignore[list-item]
    recorder = Recorder(failing)
    runner._recorder = recorder  # type: ignore[assignment]
    best: Any = runner._recorded([])
    assert best is recorder.made[kept] and not best.closed
    assert all(replay.closed for replay in recorder.made if replay is not best)


def test_a_shape_that_cannot_be_recorded_in_any_form_raises_why() -> None:
    runner = CudaRunner([Net([]), Net([])], "cpu", tunes=True)  # type: ignore[list-item]
    runner._recorder = Recorder((0, 1))  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="cannot be recorded"):
        runner._recorded([])


# Channels side by side.


@pytest.mark.parametrize("name", ["hifigan", "nsf_hifigan", "gptsovits_dec", "waveglow"])
def test_channels_side_by_side_sound_the_same(name: str) -> None:
    net = healthy_short(name)
    graph = graph_from_vocoder(net, Precision("fp32"), FOLDS if name != "waveglow" else ())
    _, beside = programs_of(graph.to_bytes(), "cpu")
    for batch, frames in ((1, 1), (2, 9)):
        inputs = example_inputs(net, batch, frames)
        assert difference(run(beside, graph, inputs), reference_audio(net, inputs)).snr_db > 110


def test_channels_stay_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """No layer lays a signal out anew: every convolution reads it as the one before wrote it."""
    net = healthy_short("nsf_hifigan")
    graph = graph_from_vocoder(net, Precision("fp32"), FOLDS)
    nodes = fused(graph.model, biases=False)
    given: list[tuple[str, bool]] = []

    def watched(name: str) -> Callable[..., Any]:
        def call(said: Any, x: torch.Tensor, *others: torch.Tensor) -> Any:
            given.append((name, x.transpose(1, 2).is_contiguous()))
            return CHANNELS_LAST[name](said, x, *others)

        return call

    operators = {**CHANNELS_LAST, **{name: watched(name) for name in ("Conv", "ConvTranspose", TAIL)}}
    inputs = example_inputs(net, 2, 9)
    run(Program(graph.model, nodes, operators, channels_last), graph, inputs)
    fresh = [name for name, beside in given if not beside]
    assert fresh == ["Conv"], "the mel; the source has one channel, and lies in both ways at once"
    assert len([name for name, _ in given if name == TAIL]) > 20


def test_snakes_keep_time_in_a_row() -> None:
    graph = graph_from_vocoder(tiny("bigvgan"), Precision("fp16"), FOLDS)
    assert len(list(programs_of(graph.to_bytes(), "cpu"))) == 1


# Where it takes part.


def test_auto_considers_it_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TorchCuda, "probe", lambda self: Probe(True, True, "as on a machine with a GPU"))
    wanted = BuildConfig("auto", precision=Precision("auto"))
    here = {(c.backend, c.precision.name, c.rewrites) for c in contenders(tiny("bigvgan"), wanted)}
    assert {("torch-cuda", "fp16", FOLDS), ("torch-cuda", "fp16", (*FOLDS, "upsample-as-conv"))} <= here
    assert not any(c.backend == "torch-cuda" for c in contenders(tiny("bigvgan"), BuildConfig("auto", device="cpu")))


def test_what_an_engine_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu("a card", "sm90", 1, 1, "570.1")
    monkeypatch.setattr("trt_svc.backends.torch_cuda.first_gpu", lambda: gpu)
    assert TorchCuda().identity(SMALL_RANGE) == {"torch": torch.__version__, **gpu.identity()}


if __name__ == "__main__":  # one file alone: TRITON_INTERPRET has to be there before triton
    os.environ["TRITON_INTERPRET"] = "1"
    raise SystemExit(pytest.main([__file__]))
