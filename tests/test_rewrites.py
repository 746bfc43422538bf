"""Graph rewrites: equal sound, fewer or cheaper operations, switchable one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.nets import SMALL, healthy_small, inputs_of_any_length
from trt_svc.difference import difference
from trt_svc.errors import InputError
from trt_svc.graph.check import compare_with_module, reference_audio
from trt_svc.graph.rewrites.base import applicable, rewrites, rewritten
from trt_svc.graph.vocoder import graph_from_vocoder

CASES = [(name, rewrite) for name in SMALL for rewrite in applicable(healthy_small(name))]

SNAKE_FORMS = ("two-phase-conv", "two-phase-slices", "plugin-snake")


def test_every_rewrite_has_a_network_to_work_on() -> None:
    assert {rewrite for _, rewrite in CASES} == set(rewrites.names())


@pytest.mark.parametrize(("name", "rewrite"), CASES)
@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (2, 2), (1, 3), (3, 33)])
def test_a_rewrite_keeps_the_sound(name: str, rewrite: str, batch: int, frames: int) -> None:
    net = healthy_small(name)
    inputs = inputs_of_any_length(net, batch, frames)
    expected = reference_audio(net, inputs)
    made = reference_audio(rewritten(net, [rewrite]), inputs)
    assert made.shape == expected.shape
    assert difference(made, expected).snr_db > 110
    assert np.abs(made - expected).max() < 2e-5


def takes_a_minute(name: str, rewrite: str) -> bool:
    """onnxruntime opens the thousands of nodes of this form slowly; one network with the activation is enough."""
    return rewrite == "two-phase-slices" and name != "bigvgan"


@pytest.mark.parametrize(("name", "rewrite"), [case for case in CASES if not takes_a_minute(*case)])
def test_a_rewritten_graph_runs_the_same(name: str, rewrite: str) -> None:
    net = healthy_small(name)
    assert compare_with_module(graph_from_vocoder(net, rewrites=[rewrite]), net, [(1, 1), (2, 7)]).snr_db > 100


@pytest.mark.parametrize("name", SMALL)
def test_all_compatible_rewrites_together(name: str) -> None:
    net = healthy_small(name)
    here = [form for form in SNAKE_FORMS if form in applicable(net) and not takes_a_minute(name, form)]
    for form in here or SNAKE_FORMS[:1]:
        chosen = [n for n in applicable(net) if n == form or n not in SNAKE_FORMS]
        assert compare_with_module(graph_from_vocoder(net, rewrites=chosen), net, [(1, 5), (2, 32)]).snr_db > 100


def test_the_network_itself_stays_as_it_is() -> None:
    net = healthy_small("bigvgan")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    rewritten(net, ["fold-mean", "fold-snake", "two-phase-conv", "upsample-as-conv"])
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_two_forms_of_one_thing_are_refused() -> None:
    with pytest.raises(InputError, match="two forms of one thing"):
        rewritten(healthy_small("bigvgan"), ["two-phase-conv", "two-phase-slices"])
    with pytest.raises(InputError, match="Did you mean 'fold-mean'"):
        rewritten(healthy_small("bigvgan"), ["fold-meen"])


def test_rewrites_do_what_their_names_say() -> None:
    bigvgan = healthy_small("bigvgan")
    plain = graph_from_vocoder(bigvgan).op_counts()
    slices = graph_from_vocoder(bigvgan, rewrites=["two-phase-slices"]).op_counts()
    conv = graph_from_vocoder(bigvgan, rewrites=["two-phase-conv"]).op_counts()
    activations = sum(1 for m in bigvgan.modules() if type(m).__name__ == "AntiAliasedSnake")
    assert plain["ConvTranspose"] - conv["ConvTranspose"] == activations, "no zero-stuffing is left"
    assert plain["Conv"] - slices["Conv"] == activations, "the filters are shifted sums, no convolutions"
    # Tracing folds what depends on weights alone; the rewrite does it for backends that compile the module.
    assert "Exp" not in plain and "Reciprocal" not in plain
    folded = rewritten(bigvgan, ["fold-snake"])
    assert not any(type(m).__name__ == "Snake" for m in folded.modules())
    assert graph_from_vocoder(bigvgan, rewrites=["fold-snake"]).op_counts() == plain
    mean = graph_from_vocoder(bigvgan, rewrites=["fold-mean"]).op_counts()
    assert mean.get("Div", 0) < plain.get("Div", 0) or mean.get("Mul", 0) < plain.get("Mul", 0)
    upsample = graph_from_vocoder(healthy_small("hifigan"), rewrites=["upsample-as-conv"]).op_counts()
    assert "ConvTranspose" not in upsample
