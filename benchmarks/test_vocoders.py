"""Contenders under pytest-benchmark: the entrants, inputs and quality of `trt-svc bench`, but one after another.

pytest benchmarks --benchmark-only [--benchmark-json FILE]; compare runs with pytest-benchmark compare. Groups are
cells (network, frames); the worst quality of all rounds against torch float32 is in `extra_info`, and a row that is
not good enough fails and leaves no figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch

from trt_svc.bench.contenders.base import UPSTREAM, Opened, contenders
from trt_svc.bench.cost import cost_of
from trt_svc.bench.entries import track_for
from trt_svc.bench.peaks import finish
from trt_svc.bench.race import Entrant, Inputs, compared
from trt_svc.bench.recipe import GATES_DB
from trt_svc.bench.subjects import Subject, opened_subject
from trt_svc.difference import Difference, worst
from trt_svc.graph.check import reference_audio
from trt_svc.timing import at_rest
from trt_svc.types import Array

CELLS = [("demo", 86), ("demo", 500), ("hifigan_v1", 86), ("nsf_hifigan_44k", 86)]
CONTENDERS = [UPSTREAM, "onnxruntime", "openvino", "torch-cuda-graphs", "tensorrt", "tensorrt-rtx"]
NETWORKS = list(dict.fromkeys(network for network, _ in CELLS))
# Sorted by network: opening one costs more than timing it.
CASES = [
    (network, name, frames)
    for network in NETWORKS
    for name in CONTENDERS
    for of_network, frames in CELLS
    if of_network == network
]
ROUNDS, WARM_UPS = 10, 2
DEVICE = "cuda:0" if torch.cuda.is_available() else "cpu"


class Garage:
    """An opened network and its contenders, one network at a time: they are large."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._network = ""
        self._opened: dict[str, Opened] = {}

    def subject(self, network: str) -> Subject:
        if network != self._network:
            self.close()
            self._subject = self._stack.enter_context(opened_subject(network))
            self._network = network
        return self._subject

    def opened(self, network: str, name: str) -> Opened:
        subject = self.subject(network)
        if name not in self._opened:
            frames = [frames for cell, frames in CELLS if cell == network]
            track = track_for(subject, frames, [1], DEVICE)
            forms = contenders.get(name).forms(subject, ["usual"])[0]
            opened = contenders.get(name).prepare(subject, track, "fp32", forms)()
            self._stack.callback(opened.entrant.close)
            self._opened[name] = opened
        return self._opened[name]

    def close(self) -> None:
        """First the contenders, then the network that they run."""
        self._network = ""
        self._opened.clear()
        self._stack.close()


@pytest.fixture(scope="module")
def garage() -> Iterator[Garage]:
    kept = Garage()
    yield kept
    kept.close()


class Call:
    """One entrant's calls, each on an input of its own, and what they made against torch float32 on the same input."""

    def __init__(self, entrant: Entrant, subject: Subject, inputs: Inputs) -> None:
        self._entrant, self._subject, self._inputs = entrant, subject, inputs
        self._given: Mapping[str, Array] = {}
        self._made: Any = None
        self.differences: list[Difference] = []

    def placed(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of a round; not timed."""
        lead_in = self._entrant.placed(self._inputs.draw())
        self._given = self._inputs.draw()
        placed = self._entrant.placed(self._given)
        at_rest()  # the reference of the last round has threads of its own
        self._entrant.run(lead_in)  # and left its own things in the caches
        return (placed,), {}

    def run(self, placed: Any) -> None:
        """What is timed."""
        self._made = self._entrant.run(placed)
        finish(self._entrant.device)

    def judge(self, *_: Any) -> None:
        """Fails where the round's audio is not good enough, inside the benchmark: that makes it drop the row."""
        made = self._entrant.audio(self._made)
        given = {key: torch.from_numpy(value) for key, value in self._given.items()}
        found = compared(made, reference_audio(self._subject.net, given))
        assert found.snr_db >= GATES_DB["fp32"]
        self.differences.append(found)


@pytest.mark.parametrize(("network", "name", "frames"), CASES)
def test_vocoder(benchmark: Any, garage: Garage, network: str, name: str, frames: int) -> None:
    reason = contenders.get(name).why_not(DEVICE, "fp32")
    if reason:
        pytest.skip(reason)
    subject, opened = garage.subject(network), garage.opened(network, name)
    call = Call(opened.entrant, subject, subject.inputs(1, frames))
    benchmark.group = f"{network} {frames} frames"
    benchmark.pedantic(call.run, setup=call.placed, teardown=call.judge, rounds=ROUNDS, warmup_rounds=WARM_UPS)
    if benchmark.disabled:
        call.judge()
        return
    found, median_s = worst(call.differences), benchmark.stats.stats.median
    audio_s = subject.net.samples_out(frames) / subject.net.spec.sample_rate
    gflop = cost_of(subject.net, 1, frames).gflop
    benchmark.extra_info.update(
        network=network,
        frames=frames,
        contender=name,
        mse=found.mse,
        mae=found.mae,
        max=found.max,
        snr_db=found.snr_db if np.isfinite(found.snr_db) else None,
        similarity=1 - found.mae,
        inferences_per_s=1 / median_s,
        rtf=median_s / audio_s,
        gflops=gflop / median_s,
        threads=opened.threads,
        weights_sha256=subject.weights_sha256,
    )
