"""The native kernels: every family and odd single layers against torch, damaged plans, threads, forks, other vectors."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import trt_svc
from tests.fuzz import resident_bytes
from tests.nets import SMALL, healthy_small, inputs_of_any_length, short_config, utterance, vocoder_of
from trt_svc.backends.base import backends
from trt_svc.build_config import BuildConfig, Precision, ShapeRange
from trt_svc.difference import difference
from trt_svc.errors import BackendUnavailable, EngineError, InputError, OutOfMemory, UnsupportedOperator
from trt_svc.graph.check import reference_audio
from trt_svc.graph.export import export
from trt_svc.graph.model import GraphInput
from trt_svc.graph.rewrites.base import applicable
from trt_svc.graph.vocoder import graph_from_vocoder
from trt_svc.native import forms, toom_cook
from trt_svc.native import plan as plans
from trt_svc.native.compiling import SOURCE
from trt_svc.native.library import Context, Contexts, Network, library
from trt_svc.native.lowering import lowered
from trt_svc.native.plan import PLAN, WEIGHTS, Plan, Step, View, plan_from
from trt_svc.native.processor import ISA_VARIABLE, this_target, usable_isas
from trt_svc.native.slots import with_slots
from trt_svc.types import Array

try:
    library()
except BackendUnavailable as err:
    pytest.skip(f"the native kernels: {err.found}", allow_module_level=True)

NATIVE = backends.get("native")
ALL_POINTS = 99
LEAST_SNR_DB = {0: 110.0, forms.POINTS_OF_FLOAT32: 100.0, ALL_POINTS: 85.0}
"""By the most points of a form; 0: all steps direct."""
MORE_ROUNDING_DB = {"gptsovits_dec": 8.0}
"""Its random weights make more of it."""
QUICK = settings(max_examples=25, deadline=None)


@pytest.fixture(autouse=True)
def engine_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_SVC_ENGINE_DIR", str(tmp_path / "engines"))


@cache
def plan_of(name: str) -> Plan:
    net = healthy_small(name)
    return lowered(graph_from_vocoder(net, rewrites=[form for form in NATIVE.folds if form in applicable(net)]))


def opened(plan: Plan) -> Network:
    return Network(plan, 2)


@cache
def network_of(name: str, most_points: int = forms.POINTS_OF_FLOAT32) -> Network:
    return opened(forms.usual(plan_of(name), most_points))


def arrays(inputs: dict[str, Tensor]) -> dict[str, Array]:
    return {name: value.numpy() for name, value in inputs.items()}


@cache
def inputs_of(name: str, batch: int, frames: int) -> dict[str, Array]:
    return arrays(inputs_of_any_length(healthy_small(name), batch, frames))


# The Toom-Cook forms.


@pytest.mark.parametrize("form", toom_cook.FORMS, ids=lambda form: form.name)
def test_a_form_is_a_convolution_exactly(form: toom_cook.Form) -> None:
    outputs, taps, inputs = toom_cook.matrices(form)
    for tap in range(form.taps):
        for place in range(form.points):
            products = [taps[p][tap] * inputs[p][place] for p in range(form.points)]
            made = [sum((row[p] * products[p] for p in range(form.points)), Fraction(0)) for row in outputs]
            assert made == [Fraction(place == i + tap) for i in range(form.outputs)]


def test_the_header_is_of_the_present_forms() -> None:
    assert (SOURCE / "forms.h").read_text() == toom_cook.header()


# Whole networks.


@pytest.mark.parametrize("most_points", LEAST_SNR_DB)
@pytest.mark.parametrize("name", SMALL)
def test_a_network_sounds_as_in_torch(name: str, most_points: int) -> None:
    network = network_of(name, most_points)
    least_db = LEAST_SNR_DB[most_points] - (MORE_ROUNDING_DB.get(name, 0.0) if most_points else 0.0)
    # The longest: several blocks of tiles in every step.
    for batch, frames, threads in ((1, 1, 2), (2, 2, 1), (3, 7, 3), (1, 17, 2)):
        given = inputs_of(name, batch, frames)
        expected = expected_of(name, batch, frames)
        made = Context(network, threads).run(given)
        assert made.shape == expected.shape
        assert difference(made, expected).snr_db >= least_db, (batch, frames)


@cache
def expected_of(name: str, batch: int, frames: int) -> Array:
    return reference_audio(healthy_small(name), inputs_of_any_length(healthy_small(name), batch, frames))


@pytest.mark.parametrize("name", SMALL)
def test_the_same_bits_whoever_ran_before(name: str) -> None:
    network = network_of(name)
    given = inputs_of(name, 3, 7)
    expected = Context(network, 1).run(given)
    context = Context(network, 2)
    silence = {key: np.zeros_like(value) for key, value in given.items()}
    nothing = {key: np.full_like(value, np.nan) for key, value in inputs_of(name, 1, 17).items()}
    for before in (given, inputs_of(name, 1, 17), inputs_of(name, 1, 1), silence, nothing):
        context.run(before)
        np.testing.assert_array_equal(context.run(given), expected)
    for place in range(3):
        alone = {key: value[place : place + 1] for key, value in given.items()}
        np.testing.assert_array_equal(context.run(alone), expected[place : place + 1])
    np.testing.assert_array_equal(Context(network, 3).run(given), expected)


@pytest.mark.parametrize("name", SMALL)
def test_what_is_not_a_number_stays_so_and_in_its_item(name: str) -> None:
    network = network_of(name)
    given = {key: value.copy() for key, value in inputs_of(name, 3, 7).items()}
    expected = Context(network, 2).run(given)
    given[next(iter(given))][1] = np.nan
    made = Context(network, 2).run(given)
    assert np.isnan(made[1]).any()
    np.testing.assert_array_equal(made[::2], expected[::2])


# Single layers.


def native(module: nn.Module, inputs: Sequence[GraphInput], channels: int | None) -> Plan:
    """A module's plan; `channels` None: its output is (batch, samples)."""
    axes = ["batch", "samples"] if channels is None else ["batch", "channels", "samples"]
    return lowered(export(module.eval().requires_grad_(False), inputs, "made", axes, {}))


def all_forms(plan: Plan) -> list[Plan]:
    """The plan with every form that any of its steps can take."""
    choices = [forms.candidates(step, ALL_POINTS) for step in plan.steps]
    turns = range(max(map(len, choices)))
    return [plan.with_forms(tuple(choice[turn % len(choice)] for choice in choices)) for turn in turns]


def check_module(module: nn.Module, specs: Sequence[GraphInput], frames: int, batch: int = 2, db: float = 82) -> Plan:
    """The same as torch in float64, in every form."""
    generator = torch.Generator().manual_seed(frames)
    given = [torch.randn(spec.shape(batch, frames), generator=generator) for spec in specs]
    with torch.inference_mode():
        expected = module.double().eval()(*(value.double() for value in given)).numpy()
        module.float()
    plan = native(module, specs, None if expected.ndim == 2 else expected.shape[1])
    named = {spec.name: value.numpy() for spec, value in zip(specs, given, strict=True)}
    for turn, tried in enumerate(all_forms(plan)):
        made = Context(opened(tried), 2).run(named)
        assert made.shape == expected.shape
        least = 110 if turn == 0 else db
        assert difference(made, expected).snr_db >= least, [str(step.form) for step in tried.steps]
    return plan


class Leaky(nn.Module):
    """A leaky ReLU in front of a convolution."""

    def __init__(self, inner: nn.Module, slope: float) -> None:
        super().__init__()
        self.inner, self.slope = inner, slope

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(F.leaky_relu(x, self.slope))


class Ends(nn.Module):
    """An audio end behind a layer."""

    def __init__(self, inner: nn.Module, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.end = inner, end

    def forward(self, *x: Tensor) -> Tensor:
        return self.end(self.inner(*x))


CHANNELS = st.integers(1, 70) | st.sampled_from([1, 2, 15, 16, 17, 32, 33, 48, 64])
SLOPES = st.sampled_from([1.0, 0.1, 0.01, -0.5, 0.0])


@QUICK
@given(data=st.data(), into=CHANNELS, out=CHANNELS, kernel=st.integers(1, 16), bias=st.booleans(), slope=SLOPES)
def test_a_convolution_of_any_geometry(
    data: st.DataObject, into: int, out: int, kernel: int, bias: bool, slope: float
) -> None:
    dilation, stride = data.draw(st.integers(1, 9)), data.draw(st.sampled_from([1, 1, 1, 2, 3, 7]))
    padding = data.draw(st.integers(0, kernel * dilation + 3))
    least = max(1, dilation * (kernel - 1) + 1 - 2 * padding)
    frames = data.draw(st.integers(least, least + 90))
    torch.manual_seed(kernel)
    layer = nn.Conv1d(into, out, kernel, stride, padding, dilation, bias=bias)
    check_module(Leaky(layer, slope) if slope != 1 else layer, [GraphInput("x", into)], frames)


@QUICK
@given(data=st.data(), into=CHANNELS, out=CHANNELS, kernel=st.integers(1, 24), stride=st.integers(1, 12))
def test_an_upsampler_of_any_geometry(data: st.DataObject, into: int, out: int, kernel: int, stride: int) -> None:
    padding = data.draw(st.integers(0, kernel + 2))
    more = data.draw(st.integers(0, stride - 1))
    least = max(1, -(-(2 * padding - kernel - more + 1) // stride) + 1)
    frames = data.draw(st.integers(least, least + 40))
    torch.manual_seed(kernel)
    layer = nn.ConvTranspose1d(into, out, kernel, stride, padding, more, bias=data.draw(st.booleans()))
    slope = data.draw(SLOPES)
    check_module(Leaky(layer, slope) if slope != 1 else layer, [GraphInput("x", into)], frames)


@pytest.mark.parametrize("frames", [1, 3, 500, 2200])
@pytest.mark.parametrize(
    ("into", "out", "kernel", "dilation"), [(20, 33, 11, 5), (17, 1, 7, 1), (1, 1, 5, 2), (1, 9, 8, 1)]
)
def test_a_long_convolution_and_one_of_a_few_rows(into: int, out: int, kernel: int, dilation: int, frames: int) -> None:
    torch.manual_seed(1)
    layer = nn.Conv1d(into, out, kernel, padding=dilation * (kernel // 2), dilation=dilation)
    check_module(layer, [GraphInput("x", into)], frames)


class Mixed(nn.Module):
    """What networks do between convolutions, and what they do not do; `x` has 20 channels, `s` and `one` 1."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.a, self.b = nn.Conv1d(20, 20, 3, padding=1), nn.Conv1d(20, 20, 5, padding=4, dilation=2)
        self.wide, self.mono, self.of_mono = (
            nn.Conv1d(20, 36, 3, padding=1),
            nn.Conv1d(20, 1, 3, padding=1),
            nn.Conv1d(1, 20, 5, padding=2),
        )
        self.up, self.one = nn.ConvTranspose1d(20, 20, 5, 2), nn.Conv1d(1, 1, 3, padding=1)
        self.speaker, self.many = nn.Conv1d(6, 20, 1), nn.Conv1d(41, 20, 7, padding=3)


def residual(net: Mixed, x: Tensor) -> Tensor:
    for _ in range(3):
        x = net.b(F.leaky_relu(net.a(F.leaky_relu(x, 0.1)), 0.1)) + x
    return x


MIXTURES: dict[str, Callable[..., Tensor]] = {
    "residual chain": lambda net, x, g, s: residual(net, x),
    "one leaky for two": lambda net, x, g, s: (lambda y: net.a(y) + net.b(y) + y)(F.leaky_relu(x, 0.2)),
    "twice the same": lambda net, x, g, s: (lambda y: y + y)(net.a(x)),
    "mean of branches": lambda net, x, g, s: (net.a(x) + net.b(x) + net.a(net.b(x))) * (1 / 3),
    "a difference and a quotient": lambda net, x, g, s: (net.a(x) - net.b(x)) / (torch.exp(net.a(x)) / 2),
    "speaker": lambda net, x, g, s: net.a(x + net.speaker(g)) + net.speaker(g),
    "speaker alone": lambda net, x, g, s: net.speaker(g) + net.speaker(torch.tanh(g)),
    "speaker gated": lambda net, x, g, s: torch.tanh(net.a(x)) * torch.sigmoid(net.speaker(g)),
    "speaker first": lambda net, x, g, s: net.speaker(g) * net.a(x),
    "gate": lambda net, x, g, s: net.b(torch.tanh(net.a(x)) * torch.sigmoid(net.b(x))),
    "gate whose sigmoid comes first": lambda net, x, g, s: (lambda b: torch.tanh(net.a(x)) * b)(torch.sigmoid(net.b(x))),
    "gate of parts": lambda net, x, g, s: (lambda y: net.a(torch.tanh(y[:, :20]) * torch.sigmoid(y[:, 16:])))(net.wide(x)),
    "split": lambda net, x, g, s: (lambda y: net.a(y[0]) + y[1])(torch.split(torch.cat([x, net.b(x)], 1), [20, 20], 1)),
    "views of parts": lambda net, x, g, s: (lambda y: net.a(y[:, 3:23]) + y[:, 16:])(net.wide(x) * 2),
    "conv cut apart": lambda net, x, g, s: (lambda y: net.a(y[:, 3:23]) + y[:, 16:])(net.wide(x)),
    "concat": lambda net, x, g, s: net.many(torch.cat([x, s, net.a(x)], 1)),
    "concat of views": lambda net, x, g, s: net.many(torch.cat([x[:, 7:], net.wide(x)[:, 8:]], 1)),
    "divided padding": lambda net, x, g, s: net.a(x / torch.exp(x)),
    "source into sums": lambda net, x, g, s: net.a(x) + net.of_mono(s),
    "source of one channel added": lambda net, x, g, s: net.of_mono(net.mono(x) + s),
    "source of one channel times": lambda net, x, g, s: net.of_mono(s * net.mono(x)),
    "source of one channel alone": lambda net, x, g, s: torch.tanh(net.one(s)),
    "source in steps": lambda net, x, g, s: torch.sigmoid(s * 3) - s,
    "source twice": lambda net, x, g, s: net.one(F.leaky_relu(net.one(s), 0.1) + s),
    "tanh": lambda net, x, g, s: torch.tanh(net.mono(x)).squeeze(1),
    "clip": lambda net, x, g, s: torch.clamp(net.mono(x), -1.0, 1.0).squeeze(1),
    "tanh and clip": lambda net, x, g, s: torch.clamp(torch.tanh(net.mono(F.leaky_relu(x))) * 2, -1.0, 1.0).squeeze(1),
    "no end": lambda net, x, g, s: net.mono(x).squeeze(1),
    "audio of a part": lambda net, x, g, s: net.mono((net.wide(x) * 2)[:, 3:23]).squeeze(1),
    "mono sum": lambda net, x, g, s: (net.mono(x) + s).squeeze(1),
    "upsampler cut": lambda net, x, g, s: net.a(net.up(x)[:, :, :-3]),
    "upsampler added": lambda net, x, g, s: net.up(x) + net.up(net.a(x)),
    "a part as output": lambda net, x, g, s: (x * 2)[:, 3:9],
    "the input": lambda net, x, g, s: F.leaky_relu(x, 0.3),
}  # fmt: skip


class Mixture(Mixed):
    def __init__(self, way: Callable[..., Tensor]) -> None:
        super().__init__()
        self.way = way

    def forward(self, x: Tensor, g: Tensor, s: Tensor) -> Tensor:
        return self.way(self, x, g, s)


SPECS = [GraphInput("x", 20), GraphInput("g", 6, Fraction(0)), GraphInput("s", 1)]


@pytest.mark.parametrize("name", MIXTURES)
def test_what_lies_between_convolutions(name: str) -> None:
    for frames in (1, 40, 301):
        plan = check_module(Mixture(MIXTURES[name]), SPECS, frames)
    check_slots(plan)
    # Nothing of a run with numbers that are none is left in a later one.
    given = {spec.name: np.full(spec.shape(1, 40), 0.3, np.float32) for spec in SPECS}
    network = opened(forms.usual(plan, ALL_POINTS))
    expected, context = Context(network, 1).run(given), Context(network, 2)
    for bad in (np.nan, np.inf, 3e38):
        context.run({spec.name: np.full(spec.shape(1, 90), bad, np.float32) for spec in SPECS})
        np.testing.assert_array_equal(context.run(given), expected)


# Places in memory.


def check_slots(plan: Plan) -> None:
    """Walks through the steps: nothing is read after its place went to another, and nothing is overwritten too early."""
    owner = {plan.tensors[number].slot: number for _, number in plan.inputs}
    assert len(owner) == len(plan.inputs)
    last = {plan.output: len(plan.steps)}
    for at, step in enumerate(plan.steps):
        for view in (step.source, *step.adds):
            last[view.tensor] = max(at, last.get(view.tensor, 0))
    for at, step in enumerate(plan.steps):
        reads = [step.source, *step.adds]
        assert all(owner.get(plan.tensors[view.tensor].slot) == view.tensor for view in reads)
        place, before = plan.tensors[step.to.tensor], owner.get(plan.tensors[step.to.tensor].slot)
        if before is not None and before != step.to.tensor:
            assert last.get(before, -1) <= at
            if before in {view.tensor for view in reads}:
                assert [view for view in reads if view.tensor == before] == [View(before)]
                assert before != step.source.tensor, "a convolution reads rows around"
                assert replace(plan.tensors[before], slot=0) == replace(place, slot=0), "rows of another length"
        owner[place.slot] = step.to.tensor
    assert owner[plan.tensors[plan.output].slot] == plan.output


@pytest.mark.parametrize("name", SMALL)
def test_no_place_is_given_away_too_early(name: str) -> None:
    plan = plan_of(name)
    check_slots(plan)
    assert plan.slots < len(plan.tensors) or len(plan.tensors) < 6


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_places_of_random_steps(data: st.DataObject) -> None:
    inputs = data.draw(st.integers(1, 3))
    channels = [data.draw(st.sampled_from([1, 8, 16])) for _ in range(inputs)]
    steps: list[Step] = []
    for _ in range(data.draw(st.integers(1, 12))):
        source = data.draw(st.integers(0, len(channels) - 1))
        out = data.draw(st.sampled_from([1, 8, 16]))
        fitting = [number for number, width in enumerate(channels) if width == out]
        adds = data.draw(st.lists(st.sampled_from(fitting), max_size=2)) if fitting else []
        channels.append(out)
        views = tuple(View(number) for number in adds)
        steps.append(Step("convolve", View(source), View(len(channels) - 1), channels[source], out, views))
    mono = {number for number, width in enumerate(channels) if width == 1 and data.draw(st.booleans())}
    singles = {number for number in range(len(channels)) if data.draw(st.integers(0, 4)) == 0}
    output = data.draw(st.integers(0, len(channels) - 1))
    tensors, placed, number = with_slots(channels, mono, singles, steps, list(range(inputs)), output)
    named = tuple((f"x{i}", i) for i in range(inputs))
    check_slots(Plan(tensors, placed, named, number, False, {}, {}))


# Refusals.


class One(nn.Module):
    def __init__(self, way: Callable[..., Tensor], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.way, self.layer = way, layer or nn.Conv1d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self.layer, x)


REFUSED: dict[str, tuple[str, nn.Module]] = {
    "groups": ("Conv", One(lambda layer, x: layer(x), nn.Conv1d(8, 8, 3, groups=2))),
    "dilated upsampler": ("ConvTranspose", One(lambda layer, x: layer(x), nn.ConvTranspose1d(8, 8, 3, dilation=2))),
    "softmax": ("Softmax", One(lambda layer, x: torch.softmax(layer(x), 1))),
    "odd slice": ("Slice", One(lambda layer, x: layer(x)[:, :, 1:-1])),
    "slice of a sum": ("Slice", One(lambda layer, x: (layer(x) + x[:, :, :-2])[:, :, :-1])),
    "slice of the input": ("Slice", One(lambda layer, x: layer(x[:, :, :-1]))),
    "every second": ("Slice", One(lambda layer, x: layer(x)[:, ::2])),
    "flip": ("Slice", One(lambda layer, x: torch.flip(layer(x), (1,)))),
    "one channel over all": ("Mul", One(lambda layer, x: layer(x) * layer(x)[:, :1])),
    "one channel added to all": ("Add", One(lambda layer, x: layer(x) + layer(x)[:, :1])),
    "other bounds": ("Clip", One(lambda layer, x: torch.clamp(layer(x), -1.0, 2.0))),
    "one bound": ("Clip", One(lambda layer, x: torch.clamp(layer(x), min=-1.0))),
    "constant added": ("Add", One(lambda layer, x: layer(x) + 1)),
    "constant vector": ("Mul", One(lambda layer, x: x * layer.bias[:, None])),
    "constant joined": ("Concat", One(lambda layer, x: torch.cat([x, x], 2))),
    "padded": ("Pad", One(lambda layer, x: layer(F.pad(x, (1, 2))))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_native_form_is_refused_by_name(name: str) -> None:
    operator, module = REFUSED[name]
    with pytest.raises(UnsupportedOperator, match=rf"{operator} in \S*{operator}") as caught:
        native(module, [GraphInput("x", 8)], 8)
    assert "onnxruntime" in caught.value.advice


def test_wrong_inputs_are_refused() -> None:
    context = Context(network_of("nsf_hifigan"), 2)
    right = inputs_of("nsf_hifigan", 2, 7)
    expected = context.run(right)
    first, second = right
    wrong: list[tuple[dict[str, Any], type[Exception]]] = [
        ({first: right[first]}, InputError),
        (right | {first: right[first][:, 1:]}, InputError),
        (right | {second: right[second][:1]}, InputError),
        (right | {first: right[first][0]}, InputError),
        (right | {first: np.float32(1)}, InputError),
        (right | {second: right[second][:, :, 1:]}, EngineError),
        (right | {first: right[first][:, :, 1:]}, EngineError),
        ({name: value[:, :, :0] for name, value in right.items()}, EngineError),
        (right | {second: right[second][:, :, :0]}, EngineError),
    ]
    for odd, error in wrong:
        with pytest.raises(error):
            context.run(odd)
        np.testing.assert_array_equal(context.run(right), expected)
    assert context.run({name: value[:0] for name, value in right.items()}).shape == (0, expected.shape[1])


def test_more_than_memory_holds_is_told_as_that() -> None:
    """A session then tries with less at once. No items, so that only the kernels' own memory is asked for."""
    context, given = Context(network_of("hifigan"), 2), inputs_of("hifigan", 1, 7)
    expected = context.run(given)
    with pytest.raises(OutOfMemory):
        context.run({name: np.empty((0, value.shape[1], 2**40), np.float32) for name, value in given.items()})
    np.testing.assert_array_equal(context.run(given), expected)


def test_parts_of_different_lengths_are_refused() -> None:
    joined = One(lambda layer, x: x)
    joined.forward = lambda x, s: torch.cat([x, s], 1)  # type: ignore[method-assign,assignment]
    context = Context(opened(native(joined, [GraphInput("x", 3), GraphInput("s", 1)], 4)), 1)
    for rows in (1, 10, 100_000):
        with pytest.raises(EngineError, match="lengths"):
            context.run({"x": np.ones((1, 3, 9), np.float32), "s": np.ones((1, 1, rows), np.float32)})


def test_a_convolution_that_nothing_fits_into_is_refused() -> None:
    context = Context(opened(native(nn.Conv1d(4, 4, 3, stride=2), [GraphInput("x", 4)], 4)), 1)
    with pytest.raises(EngineError, match="lengths"):
        context.run({"x": np.ones((1, 4, 2), np.float32)})
    assert context.run({"x": np.ones((1, 4, 3), np.float32)}).shape == (1, 4, 1)


# Engine files.


@pytest.mark.parametrize("name", SMALL)
def test_a_plan_comes_back_out_of_its_files(name: str) -> None:
    plan = forms.usual(plan_of(name), ALL_POINTS)
    again = plan_from(plan.files())
    assert replace(again, weights={}) == replace(plan, weights={})
    assert again.weights.keys() == plan.weights.keys()
    assert all(np.array_equal(again.weights[key], value) for key, value in plan.weights.items())
    assert again.files()[PLAN] == plan.files()[PLAN]


def refused(files: dict[str, bytes]) -> None:
    with pytest.raises(EngineError, match="plan is damaged"):
        opened(plan_from(files))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every number and name in a plan."""
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [place for key, inner in pairs for place in places(inner, (*path, key))]
    return [path]


def damaged(files: dict[str, bytes], path: tuple[Any, ...], value: Any) -> dict[str, bytes]:
    plan = json.loads(files[PLAN])
    inner = plan
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return files | {PLAN: json.dumps(plan).encode()}


@cache
def files_of(name: str) -> dict[str, bytes]:
    return forms.usual(plan_of(name), ALL_POINTS).files()


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"{}", b'{"tensors": 3}', b"[" * 99_999, b"\xff"])
def test_a_plan_that_is_none_is_refused(text: bytes) -> None:
    refused(files_of("hifigan") | {PLAN: text})
    refused({WEIGHTS: files_of("hifigan")[WEIGHTS]})


def test_damaged_weights_are_refused() -> None:
    files, plan = files_of("hifigan"), plan_of("hifigan")
    for bad in (b"", files[WEIGHTS][:100], files[WEIGHTS][:-4], files[WEIGHTS][:8] + b"x" + files[WEIGHTS][9:]):
        refused(files | {WEIGHTS: bad})
    for name, value in list(plan.weights.items())[::7]:
        for weights in ({**plan.weights, name: value[1:]}, {k: v for k, v in plan.weights.items() if k != name}):
            with pytest.raises(EngineError, match="missing or of another shape"):
                opened(replace(plan, weights=weights))


ALWAYS_WRONG: list[tuple[tuple[Any, ...], Any]] = [
    (("tensors", 0, "slot"), 10_000),
    (("tensors", 0, "slot"), -1),
    (("tensors", 0, "channels"), 81),
    (("tensors", 1, "stride"), 8),
    (("tensors", 1, "stride"), 2**40),
    (("inputs", 0, 1), 99_999),
    (("inputs", 0, 1), -1),
    (("output",), 99_999),
    (("output",), None),
    (("per_frame", "mel"), "many"),
    (("per_frame", "other"), "1"),
    (("steps", 0, "kind"), "convulse"),
    (("steps", 0, "source", "tensor"), 4),
    (("steps", 0, "source", "channel"), 1),
    (("steps", 0, "to", "channel"), 1),
    (("steps", 0, "to", "tensor"), 0),
    (("steps", 0, "kernel"), 8),
    (("steps", 0, "kernel"), 2**32 + 7),
    (("steps", 0, "pad"), -1),
    (("steps", 0, "pad"), 2**31),
    (("steps", 0, "crop"), -1),
    (("steps", 0, "dilation"), 2**30),
    (("steps", 0, "slope"), "0.1"),
    (("steps", 0, "post"), "leaky"),
    (("steps", 0, "post"), "cosh"),
    (("steps", 0, "joint"), "add"),
    (("steps", 0, "adds"), [{"tensor": 0, "channel": 0}] * 3),
    (("steps", 0, "weight"), "nothing"),
    (("steps", 0, "bias"), "nothing"),
    (("steps", 0, "form"), "toom-cook 3x3"),
    (("steps", 0, "extra"), "conv_pre.weight"),
    (("steps", 0, "stride"), 2),
    (("steps", 0, "more"), 2),
    (("steps", 0), {}),
    (("steps", -1, "weight"), 3),
    (("steps",), []),
    (("inputs", 0, 0), []),
    (("inputs", 0, 0), 3),
    (("tensors",), []),
]


def test_a_plan_that_makes_audio_of_a_part_is_refused() -> None:
    """That kernel reads whole rows."""
    plan = native(Mixture(MIXTURES["audio of a part"]), SPECS, None)
    tensors = tuple(replace(tensor, stride=1) if tensor.channels == 1 else tensor for tensor in plan.tensors)
    with pytest.raises(EngineError, match="no kernel makes audio"):
        opened(replace(plan, tensors=tensors))


@pytest.mark.parametrize(("path", "value"), ALWAYS_WRONG, ids=[f"{p[-1]} {v!r:.20}" for p, v in ALWAYS_WRONG])
def test_a_damaged_plan_is_refused(path: tuple[Any, ...], value: Any) -> None:
    refused(damaged(files_of("hifigan"), path, value))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_damage_to_a_plan_crashes(data: st.DataObject) -> None:
    """What is not refused still runs, or says that the lengths do not fit."""
    name = data.draw(st.sampled_from(["hifigan2", "bigvgan2", "waveglow"]))
    files = files_of(name)
    path = data.draw(st.sampled_from(paths_of(name)))
    odd = [-1, 0, 1, 2, 3, 16, 17, 40, 2**31, 2**63, 1.5, None, "x", True, [], {}, "snake", "pointwise", "upsample"]
    value = data.draw(st.sampled_from(odd))
    try:
        network = opened(plan_from(damaged(files, path, value)))
    except EngineError:
        return
    given = {
        key: np.ones((1, network.plan.tensors[number].channels, 8), np.float32) for key, number in network.plan.inputs
    }
    try:
        Context(network, 2).run(inputs_of(name, 1, 2))
        Context(network, 2).run(given)
    except (EngineError, InputError):
        pass


@cache
def paths_of(name: str) -> list[tuple[Any, ...]]:
    return places(json.loads(files_of(name)[PLAN]))


# Threads, forks, memory.


def test_products_behind_a_speaker_count_for_every_row() -> None:
    form = toom_cook.Form(4, 3)
    joined = Step("pointwise", View(0), View(2), 16, 16, (View(1),), joint="multiply")
    behind = Step("convolve", View(2), View(3), 16, 16, kernel=3, pad=1, form=form)
    beside = Step("convolve", View(1), View(4), 16, 16, kernel=3, pad=1)
    tensors = tuple(plans.Tensor(i, 16, 16) for i in range(5))
    rates = {"speaker": Fraction(0), "mel": Fraction(1)}
    plan = Plan(tensors, (joined, behind, beside), (("speaker", 0), ("mel", 1)), 4, False, {}, rates)
    assert plan.share_of_products() == pytest.approx((form.share(3) + 1) / 2)


def test_threads_share_a_runner() -> None:
    contexts = Contexts(network_of("hifigan2"), 2, most_idle=3)
    expected = {frames: contexts.run(inputs_of("hifigan2", 1, frames)) for frames in range(1, 12)}
    wrong: list[str] = []

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        try:
            for frames in rng.integers(1, 12, 20).tolist():
                np.testing.assert_array_equal(contexts.run(inputs_of("hifigan2", 1, frames)), expected[frames])
        except Exception as err:
            wrong.append(repr(err))

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    assert len(contexts._idle) <= 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_goes_on_with_threads_of_its_own() -> None:
    contexts = Contexts(network_of("hifigan2"), 3, most_idle=3)
    given = inputs_of("hifigan2", 1, 9)
    expected = contexts.run(given)
    contexts._lock.acquire()  # as another thread may have it at that moment
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        same = all(np.array_equal(contexts.run(given), expected) for _ in range(20))
        contexts._idle.clear()
        gc.collect()
        os.write(write, b"same" if same else b"other")
        os._exit(7)
    contexts._lock.release()
    os.close(write)
    with os.fdopen(read, "rb") as said:
        assert said.read() == b"same"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    np.testing.assert_array_equal(contexts.run(given), expected)


def test_what_is_closed_leaves_nothing_behind() -> None:
    plan, given = forms.usual(plan_of("hifigan2"), ALL_POINTS), inputs_of("hifigan2", 1, 2)

    def open_and_close(times: int) -> int:
        for _ in range(times):
            network = opened(plan)
            contexts = [Context(network, 2) for _ in range(3)]
            del network
            for context in contexts:
                context.run(given)
        del contexts
        gc.collect()
        return resident_bytes()

    if not Path("/proc/self/statm").exists():
        pytest.skip("memory is read from /proc")
    threads = len(list(Path("/proc/self/task").iterdir()))
    before = open_and_close(10)
    grown = open_and_close(70) - before
    assert grown < 4 << 20, f"{grown / 2**20:.1f} MiB more after 200 contexts"
    assert len(list(Path("/proc/self/task").iterdir())) <= threads


# Other vectors.


OTHER = """
import sys, pathlib, numpy as np
from trt_svc.native.library import Context, Network, isa
from trt_svc.native.plan import PLAN, WEIGHTS, plan_from
folder = pathlib.Path(sys.argv[1])
network = Network(plan_from({name: (folder / name).read_bytes() for name in (PLAN, WEIGHTS)}), 2)
given = dict(np.load(folder / "given.npz"))
made = Context(network, 2).run(given)
assert np.array_equal(Context(network, 1).run(given), made)
np.save(folder / "made.npy", made)
print(isa(), "torch" in sys.modules)
"""


@pytest.mark.parametrize("isa", usable_isas(this_target())[1:])
def test_other_vectors_sound_the_same(isa: str, tmp_path: Path) -> None:
    for name in ("nsf_hifigan", "bigvgan2"):
        for file, content in network_of(name).plan.files().items():
            (tmp_path / file).write_bytes(content)
        np.savez(tmp_path / "given.npz", **inputs_of(name, 3, 7))
        env = {**os.environ, ISA_VARIABLE: isa}
        command = [sys.executable, "-c", OTHER, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        assert done.stdout.split() == [isa, "False"], done.stderr
        assert difference(np.load(tmp_path / "made.npy"), expected_of(name, 3, 7)).snr_db >= 100


# As people use it.


@pytest.mark.parametrize("precision", ["fp32", "mixed"])
def test_a_session_on_the_native_kernels(precision: str, tmp_path: Path) -> None:
    build = BuildConfig(
        "native", frames=(ShapeRange(1, 16, 64),), batch=ShapeRange(1, 1, 2), precision=Precision(precision)
    )
    vocoder = vocoder_of("bigvgan2", tmp_path, build=build)
    assert vocoder.backend == "native"
    said = utterance(vocoder, 2, 50)
    here = vocoder_of("bigvgan2", tmp_path, backend="torch")(**said, seed=1)
    made = vocoder(**said, seed=1)
    assert difference(np.asarray(made), np.asarray(here)).snr_db >= (90 if precision == "fp32" else 50)
    engine = trt_svc.build_engine(tmp_path / "model.safetensors", build, **configured("bigvgan2"))
    assert engine.cache_hit and engine.quality["snr_db"] >= (90 if precision == "fp32" else 50)
    assert set(engine.notes["forms"].values()) - {"direct"} <= {form.name for form in toom_cook.FORMS}


def configured(name: str) -> dict[str, Any]:
    family, config, source = short_config(name)
    return {"family": family, "config": config, "source": source}


def test_it_is_one_of_the_backends() -> None:
    assert "native" in backends.names()
    probe = NATIVE().probe()
    assert probe.runs and "threads" in probe.found
